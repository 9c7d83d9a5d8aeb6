/* How many threads share the turns of a loop. See numbers.h. */

#include "numbers.h"

int num_threads_of_loops(void) { return num_threads(); }
