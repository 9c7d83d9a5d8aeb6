/* Rotary position embedding. See rotary.py of the folder above. */

#include "numbers.h"

enum { X = 0, COS = 3, SIN = 6, Y = 9 }; /* whose strides begin there */

/* y = x turned by the angles, or back, all of shape (outer, heads, tokens, width).

   Strides are numbers from one to the next of the first three axes, 0 where they are the same; the last one lies side by side. */
void rotary_turn(
    const number *x, const number *cos, const number *sin, number *y, const long *shape, const long *strides, long backward)
{
    long half = shape[3] / 2;
    for (long outer = 0; outer < shape[0]; outer++)
        SHARED_OUT(shape[1] * shape[2] * shape[3])
        for (long token = 0; token < shape[2]; token++)
            for (long head = 0; head < shape[1]; head++) {
#define PLACE(of) (outer * strides[of] + head * strides[of + 1] + token * strides[of + 2])
                const number *a = x + PLACE(X), *b = a + half, *cos_1 = cos + PLACE(COS), *cos_2 = cos_1 + half;
                const number *sin_1 = sin + PLACE(SIN), *sin_2 = sin_1 + half;
                number *first = y + PLACE(Y), *second = first + half;
                SIXTEEN_AT_A_TIME(half, {
                    lanes one = load(a + i, left), other = load(b + i, left);
                    lanes turned = other * (backward ? load(sin_2 + i, left) : -load(sin_1 + i, left));
                    lanes other_turned = one * (backward ? -load(sin_1 + i, left) : load(sin_2 + i, left));
                    store(first + i, one * load(cos_1 + i, left) + turned, left);
                    store(second + i, other * load(cos_2 + i, left) + other_turned, left);
                });
            }
}
