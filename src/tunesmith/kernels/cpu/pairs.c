/* Whether what stands on pairs.h is faster here than torch's products: whether the processor multiplies pairs of 16-bit numbers. */

#include "pairs.h"

int pairs_are_fast(void)
{
#if defined(__AVX512BF16__) && defined(BFLOAT16)
    return 1;
#else
    return 0;
#endif
}
