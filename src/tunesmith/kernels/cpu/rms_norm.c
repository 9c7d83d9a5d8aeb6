/* Root-mean-square norm: each row is read twice, the second time from the cache. See rms_norm.py of the folder above. */

#include <math.h>

#include "numbers.h"

/* y = x / rms w  and  inverse = 1 / rms,  for x, y (rows, hidden), weight (hidden), inverse (rows). */
void rms_norm_forward(
    const number *x, const number *weight, number *y, float *inverse, long rows, long hidden, float epsilon)
{
    SHARED_OUT(rows * hidden)
    for (long row = 0; row < rows; row++) {
        const number *from = x + row * hidden;
        number *to = y + row * hidden;
        lanes squares = {0};
        SIXTEEN_AT_A_TIME(hidden, {
            lanes some = load(from + i, left);
            squares += some * some;
        });
        float factor = 1.0f / sqrtf(sum(squares) / hidden + epsilon);
        SIXTEEN_AT_A_TIME(hidden, {
            lanes unit = rounded(load(from + i, left) * factor);
            store(to + i, unit * load(weight + i, left), left);
        });
        inverse[row] = factor;
    }
}

/* dx (rows, hidden) and, where dweight is given, what is added to it (hidden). */
void rms_norm_gradients(
    const number *dy, const number *x, const number *weight, const float *inverse, number *dx, float *dweight,
    long rows, long hidden)
{
    SHARED_OUT(rows * hidden)
    for (long row = 0; row < rows; row++) {
        const number *slope = dy + row * hidden, *from = x + row * hidden;
        float factor = inverse[row];
        lanes products = {0};
        SIXTEEN_AT_A_TIME(hidden, products += load(slope + i, left) * load(weight + i, left) * load(from + i, left););
        float share = sum(products) * factor / hidden;
        SIXTEEN_AT_A_TIME(hidden, {
            lanes unit = load(from + i, left) * factor;
            store(dx + row * hidden + i, (load(slope + i, left) * load(weight + i, left) - unit * share) * factor, left);
        });
    }
    if (!dweight)
        return;
    SHARED_OUT(rows * hidden)
    for (long i = 0; i < hidden; i += LANES) {
        long left = hidden - i < LANES ? hidden - i : LANES;
        lanes total = {0};
        memcpy(&total, dweight + i, left * sizeof(float));
        for (long row = 0; row < rows; row++)
            total += load(dy + row * hidden + i, left) * load(x + row * hidden + i, left) * inverse[row];
        memcpy(dweight + i, &total, left * sizeof(float));
    }
}
