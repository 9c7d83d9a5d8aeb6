/* Products of bfloat16 numbers, two at a time: eight rows and thirty-two columns stay in registers, as float32 sums. */

#ifndef TUNESMITH_PAIRS_H
#define TUNESMITH_PAIRS_H

#include "numbers.h"

#ifdef BFLOAT16

enum { ROWS = 8, PANEL = 2 * LANES };

typedef uint32_t pair __attribute__((may_alias)); /* neighbours along the axis that a product sums over */

/* The left side of a product: how many pairs there are from one row to the next, and from one place of the sum to the next. */
typedef struct {
    const pair *pairs;
    long row, inner;
} left;

/* What is being summed. */
typedef struct {
    lanes sums[ROWS][2];
} tile;

static inline shorts load_shorts(const void *from)
{
    shorts some;
    memcpy(&some, from, sizeof some);
    return some;
}

/* Numbers of two rows, each pair from the same column. */
static inline words interleaved(shorts even, shorts odd)
{
    return widened(even) | widened(odd) << 16;
}

/* total + a b, summed over the two of each pair. */
static inline lanes add_pairs(lanes total, words a, words b)
{
#ifdef __AVX512BF16__
    return (lanes)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
#else
    return total + (lanes)(a << 16) * (lanes)(b << 16) + (lanes)(a & 0xffff0000) * (lanes)(b & 0xffff0000);
#endif
}

/* The tile, and a b of ROWS rows and one panel b, `(inner, PANEL)`, or its first sixteen columns. */
static inline __attribute__((always_inline)) tile add_product(tile t, left a, const pair *b, long inner, int num_lanes)
{
    for (long i = 0; i < inner; i++) {
        words first = load_words(b + i * PANEL), second = num_lanes > 1 ? load_words(b + i * PANEL + LANES) : first;
        for (int r = 0; r < ROWS; r++) {
            words one = a.pairs[r * a.row + i * a.inner] - (words){0};
            t.sums[r][0] = add_pairs(t.sums[r][0], one, first);
            if (num_lanes > 1)
                t.sums[r][1] = add_pairs(t.sums[r][1], one, second);
        }
    }
    return t;
}

/* ROWS rows and PANEL columns of y = a b, or y += a b; y lies where whole registers do. */
static inline void add_pairs_tile(float *y, long y_row, left a, const pair *b, long inner, int add)
{
    tile t;
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < 2; c++)
            t.sums[r][c] = add ? *(lanes *)(y + r * y_row + c * LANES) : (lanes){0};
    t = add_product(t, a, b, inner, 2);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < 2; c++)
            *(lanes *)(y + r * y_row + c * LANES) = t.sums[r][c];
}

/* Panels of a right side whose sum is over the width, and whose columns are tokens. */
static inline void pack_columns(pair *to, const number *from, long from_row, long tokens, long width)
{
    for (long panel = 0; panel < tokens; panel += PANEL)
        for (long i = 0; i < width / 2; i++)
            for (long t = panel; t < panel + PANEL; t++, to++) {
                *to = 0;
                if (t < tokens)
                    memcpy(to, from + t * from_row + 2 * i, sizeof(pair));
            }
}

/* Sixteen numbers of a row, or `left` with zeros behind them. */
static inline shorts some_of(const number *row, long left)
{
    shorts some = {0};
    if (left >= LANES)
        return load_shorts(row);
    for (long i = 0; i < left; i++)
        some[i] = row[i];
    return some;
}

/* Panels of a right side whose sum is over the tokens, and whose columns are the width. */
static inline void pack_rows(pair *to, const number *from, long from_row, long tokens, long width)
{
    for (long panel = 0; panel < width; panel += PANEL)
        for (long t = 0; t < tokens; t += 2)
            for (long i = panel; i < panel + PANEL; i += LANES, to += LANES) {
                const number *even = from + t * from_row + i;
                words both = interleaved(some_of(even, width - i), t + 1 < tokens ? some_of(even + from_row, width - i) : (shorts){0});
                memcpy(to, &both, sizeof both);
            }
}

/* Rows one after the other, those that are missing to a multiple of ROWS zero. */
static inline void copy_rows(number *to, const number *from, long from_row, long tokens, long width)
{
    for (long t = 0; t < UP_TO(ROWS, tokens); t++, to += width)
        if (t < tokens)
            memcpy(to, from + t * from_row, width * sizeof(number));
        else
            memset(to, 0, width * sizeof(number));
}

#endif
#endif
