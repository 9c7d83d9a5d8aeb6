/* Root-mean-square norm: each row is read twice, the second time from the cache. See rms_norm.py of the folder above. */

#include <math.h>

#include "numbers.h"

/* y = x / rms w  and  inverse = 1 / rms,  for x, y (rows, hidden), weight (hidden), inverse (rows). */
void rms_norm_forward(
    const number *x, const number *weight, number *y, float *inverse, long rows, long hidden, float epsilon)
{
    for (long row = 0; row < rows; row++, x += hidden, y += hidden) {
        lanes squares = {0};
        SIXTEEN_AT_A_TIME(hidden, {
            lanes some = load(x + i, left);
            squares += some * some;
        });
        float factor = 1.0f / sqrtf(sum(squares) / hidden + epsilon);
        SIXTEEN_AT_A_TIME(hidden, {
            lanes unit = rounded(load(x + i, left) * factor);
            store(y + i, unit * load(weight + i, left), left);
        });
        inverse[row] = factor;
    }
}

/* dx (rows, hidden) and, where dweight is given, what is added to it (hidden). */
void rms_norm_gradients(
    const number *dy, const number *x, const number *weight, const float *inverse, number *dx, float *dweight,
    long rows, long hidden)
{
    for (long row = 0; row < rows; row++, dy += hidden, x += hidden, dx += hidden) {
        float factor = inverse[row];
        lanes products = {0};
        SIXTEEN_AT_A_TIME(hidden, products += load(dy + i, left) * load(weight + i, left) * load(x + i, left););
        float share = sum(products) * factor / hidden;
        SIXTEEN_AT_A_TIME(hidden, {
            lanes unit = load(x + i, left) * factor;
            store(dx + i, (load(dy + i, left) * load(weight + i, left) - unit * share) * factor, left);
        });
        if (dweight)
            for (long i = 0; i < hidden; i++)
                dweight[i] += one(dy + i) * one(x + i) * factor;
    }
}
