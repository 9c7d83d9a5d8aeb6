/* The losses of rows of logits, and their gradients in the logits' own memory. See linear_cross_entropy.py of the folder above. */

#include <math.h>

#include "numbers.h"

static inline lanes capped(lanes logits, float scale, float softcap)
{
    lanes z = logits * scale;
    return softcap > 0 ? softcap * hyperbolic_tangent(z / softcap) : z;
}

/* losses (rows) of logits (rows, vocabulary); softcap 0 is none. If asked the logits become the gradients of the losses' sum. */
void losses_and_slopes(
    number *logits, const int64_t *targets, float *losses, long rows, long vocabulary, float scale, float softcap,
    long for_gradients)
{
    SHARED_OUT(rows * vocabulary)
    for (long row = 0; row < rows; row++) {
        number *z_of = logits + row * vocabulary;
        lanes most = all(-INFINITY), total = {0};
        SIXTEEN_AT_A_TIME(
            vocabulary, most = larger(filled(capped(load(z_of + i, left), scale, softcap), left, -INFINITY), most););
        float top = largest(most);
        SIXTEEN_AT_A_TIME(
            vocabulary, total += filled(exponential(capped(load(z_of + i, left), scale, softcap) - top), left, 0););
        float normaliser = sum(total), chosen = one(z_of + targets[row]);
        losses[row] = logf(normaliser) - (capped(all(chosen), scale, softcap)[0] - top);
        if (!for_gradients)
            continue;
        float factor = 1 / normaliser;
        SIXTEEN_AT_A_TIME(vocabulary, {
            lanes z = capped(load(z_of + i, left), scale, softcap);
            lanes slope = exponential(z - top) * factor;
            if (targets[row] / LANES == i / LANES)
                slope[targets[row] % LANES] -= 1;
            if (softcap > 0)
                slope *= 1.0f - (z / softcap) * (z / softcap);
            store(z_of + i, slope * scale, left);
        });
    }
}
