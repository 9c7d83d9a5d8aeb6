/* The gated product silu(gate) up and its gradients, in one pass over the numbers. See gated.py of the folder above. */

#include "numbers.h"

static void product_of(const number *gate, const number *up, number *y, long count)
{
    SIXTEEN_AT_A_TIME(count, {
        lanes z = load(gate + i, left);
        store(y + i, z * sigmoid(z) * load(up + i, left), left);
    });
}

void gated_product(const number *gate, const number *up, number *y, long count)
{
    IN_PARTS(count, product_of(gate + first, up + first, y + first, there););
}

static void gradients_of(const number *dy, const number *gate, const number *up, number *dgate, number *dup, long count)
{
    SIXTEEN_AT_A_TIME(count, {
        lanes slope = load(dy + i, left), z = load(gate + i, left), other = load(up + i, left);
        lanes open = sigmoid(z);
        store(dup + i, slope * z * open, left);
        store(dgate + i, slope * other * open * (1.0f + z * (1.0f - open)), left);
    });
}

/* dgate and dup, either of which may lie in the memory of dy. */
void gated_gradients(const number *dy, const number *gate, const number *up, number *dgate, number *dup, long count)
{
    IN_PARTS(count, gradients_of(dy + first, gate + first, up + first, dgate + first, dup + first, there););
}
