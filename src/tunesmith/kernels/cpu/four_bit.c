/* Numbers in four bits made numbers to compute with. See four_bit.py of the folder above. */

#include "numbers.h"

enum { BLOCK = 64, GROUP = 256 };

typedef uint8_t bytes __attribute__((vector_size(16)));

/* y (blocks * 64) of codes (blocks * 32), two in a byte with the first in its upper half, and levels (16), fine_levels (256).

   scale_codes (blocks) and group_scales are those of the whole weight, of which these blocks begin at `first`. */
void four_bit_numbers(
    const uint8_t *codes, const float *levels, const float *fine_levels, const uint8_t *scale_codes,
    const float *group_scales, const float *mean_scale, number *y, long first, long blocks)
{
    lanes level;
    memcpy(&level, levels, sizeof level);
    SHARED_OUT(blocks * BLOCK)
    for (long block = first; block < first + blocks; block++) {
        const uint8_t *from = codes + (block - first) * (BLOCK / 2);
        number *to = y + (block - first) * BLOCK;
        volatile float difference = fine_levels[scale_codes[block]] * group_scales[block / GROUP]; /* rounded, as elsewhere */
        float scale = difference + *mean_scale;
        numbers scaled = narrow(level * scale);
        for (int half = 0; half < 2; half++, from += LANES, to += 2 * LANES) {
            bytes pairs, code[2];
            memcpy(&pairs, from, sizeof pairs);
            shorts apart = __builtin_convertvector(pairs, shorts);
            apart = apart >> 4 | (apart & 15) << 8; /* in memory the first code, then the second one */
            memcpy(code, &apart, sizeof code);
            for (int side = 0; side < 2; side++) {
                numbers found = picked(scaled, __builtin_convertvector(code[side], places));
                memcpy(to + side * LANES, &found, sizeof found);
            }
        }
    }
}
