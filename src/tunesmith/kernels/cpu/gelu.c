/* The Gaussian error linear unit x Phi(x), by tanh, and its gradient. See gelu.py of the folder above. */

#include "numbers.h"

/* (1 + tanh(z)) / 2 is the sigmoid of 2 z. */
static inline lanes phi(lanes x) { return sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

static void gelu_of(const number *x, number *y, long count)
{
    SIXTEEN_AT_A_TIME(count, {
        lanes z = load(x + i, left);
        store(y + i, z * phi(z), left);
    });
}

void gelu(const number *x, number *y, long count) { IN_PARTS(count, gelu_of(x + first, y + first, there);); }

static void gradient_of(const number *dy, const number *x, number *dx, long count)
{
    SIXTEEN_AT_A_TIME(count, {
        lanes z = load(x + i, left), share = phi(z);
        lanes slope = share * (1.0f - share) * 1.59576912f * (1.0f + 0.134145f * z * z);
        store(dx + i, load(dy + i, left) * (share + z * slope), left);
    });
}

void gelu_gradient(const number *dy, const number *x, number *dx, long count)
{
    IN_PARTS(count, gradient_of(dy + first, x + first, dx + first, there););
}
