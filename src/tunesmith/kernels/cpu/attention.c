/* Attention's scores made probabilities, in place. See attention.py of the folder above. */

#include <math.h>

#include "numbers.h"

/* Make scores (heads, tokens * group, keys) probabilities, after adding mask (tokens, masked) to those of the last `masked` keys. */
void attention_probabilities(
    number *scores, const number *mask, long heads, long tokens, long group, long keys, long masked)
{
    SHARED_OUT(heads * tokens * group * keys)
    for (long row = 0; row < heads * tokens * group; row++) {
        const number *added = mask + row / group % tokens * masked;
        number *all_keys = scores + row * keys, *last = all_keys + keys - masked;
        SIXTEEN_AT_A_TIME(masked, store(last + i, load(last + i, left) + load(added + i, left), left););
        lanes most = all(-INFINITY), total = {0};
        SIXTEEN_AT_A_TIME(keys, most = larger(filled(load(all_keys + i, left), left, -INFINITY), most););
        float top = largest(most), shares[keys + LANES];
        SIXTEEN_AT_A_TIME(keys, {
            lanes share = filled(exponential(load(all_keys + i, left) - top), left, 0);
            memcpy(shares + i, &share, sizeof share);
            total += share;
        });
        float factor = 1 / sum(total);
        SIXTEEN_AT_A_TIME(keys, {
            lanes share;
            memcpy(&share, shares + i, sizeof share);
            store(all_keys + i, share * factor, left);
        });
    }
}
