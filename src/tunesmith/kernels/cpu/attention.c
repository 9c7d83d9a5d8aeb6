/* Attention's scores made probabilities, in place. See attention.py of the folder above. */

#include <math.h>

#include "numbers.h"

/* Make scores (heads, tokens * group, keys) probabilities, after adding mask (tokens, masked) to those of the last `masked` keys. */
void attention_probabilities(
    number *scores, const number *mask, long heads, long tokens, long group, long keys, long masked)
{
    for (long row = 0; row < heads * tokens * group; row++, scores += keys) {
        const number *added = mask + row / group % tokens * masked;
        number *last = scores + keys - masked;
        SIXTEEN_AT_A_TIME(masked, store(last + i, load(last + i, left) + load(added + i, left), left););
        lanes most = all(-INFINITY), total = {0};
        SIXTEEN_AT_A_TIME(keys, most = larger(filled(load(scores + i, left), left, -INFINITY), most););
        float top = largest(most), shares[keys + LANES];
        SIXTEEN_AT_A_TIME(keys, {
            lanes share = filled(exponential(load(scores + i, left) - top), left, 0);
            memcpy(shares + i, &share, sizeof share);
            total += share;
        });
        float factor = 1 / sum(total);
        SIXTEEN_AT_A_TIME(keys, {
            lanes share;
            memcpy(&share, shares + i, sizeof share);
            store(scores + i, share * factor, left);
        });
    }
}
