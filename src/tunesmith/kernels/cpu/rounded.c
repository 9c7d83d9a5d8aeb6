/* Products of whole numbers of eight bits, summed without error in groups of 64. See rounded.py of the folder above. */

#include "numbers.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

enum { GROUP = 64, FOURS = GROUP / 4, ROWS = 8, PANEL = 2 * LANES, ZERO = 128 };

typedef uint32_t four __attribute__((may_alias)); /* neighbours along the axis that a product sums over */
typedef int32_t wholes __attribute__((vector_size(64)));
typedef uint8_t bytes __attribute__((vector_size(16)));

static inline words load_bytes(const int8_t *from)
{
    bytes some;
    memcpy(&some, from, sizeof some);
#ifdef __AVX512VNNI__
    return (words)_mm512_cvtepu8_epi32((__m128i)some);
#else
    return __builtin_convertvector(some, words);
#endif
}

/* The lowest byte of each. */
static inline void store_bytes(uint8_t *to, words some)
{
#ifdef __AVX512VNNI__
    bytes narrow = (bytes)_mm512_cvtepi32_epi8((__m512i)some);
#else
    bytes narrow = __builtin_convertvector(some & 255, bytes);
#endif
    memcpy(to, &narrow, sizeof narrow);
}

/* total + a b, summed over the four of each place; a without signs, b with. */
static inline wholes add_fours(wholes total, words a, words b)
{
#ifdef __AVX512VNNI__
    return (wholes)_mm512_dpbusd_epi32((__m512i)total, (__m512i)a, (__m512i)b);
#else
    for (int byte = 0; byte < 32; byte += 8)
        total += (wholes)(a >> byte & 255) * ((wholes)(b << (24 - byte)) >> 24);
    return total;
#endif
}

/* Whether this is faster than products of 16-bit numbers. */
int rounded_products_are_fast(void)
{
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

/* The codes (rows, width) and scales (rows, width / GROUP) of x, whose columns are multiplied by factors if these are not null. */
void rounded_rows(uint8_t *codes, float *scales, const number *x, long x_row, const float *factors, long rows, long width)
{
    SHARED_OUT(rows * width)
    for (long row = 0; row < rows; row++)
        for (long first = 0; first < width; first += GROUP) {
            const number *from = x + row * x_row + first;
            uint8_t *to = codes + row * width + first;
            lanes x_of[GROUP / LANES], most = {0}, nothing = {0};
            for (int i = 0; i < GROUP / LANES; i++) {
                lanes factor = all(1);
                if (factors)
                    memcpy(&factor, factors + first + i * LANES, sizeof factor);
                x_of[i] = load(from + i * LANES, LANES) * factor;
                most = larger(most, larger(x_of[i], -x_of[i]));
                nothing += x_of[i] * 0.0f; /* unless one is not finite */
            }
            float top = largest(most) + sum(nothing), steps = 127.0f / (top > 1.17549435e-38f ? top : 1.17549435e-38f);
            scales[(row * width + first) / GROUP] = top / 127.0f;
            for (int i = 0; i < GROUP / LANES; i++) {
                const float to_whole = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, in the lowest bits */
                store_bytes(to + i * LANES, (words)(x_of[i] * steps + to_whole) + ZERO);
            }
        }
}

/* A panel of a right side whose columns are `PANEL` rows of codes, and whose sum is over their width. */
static void pack_columns(four *to, const int8_t *codes, long width)
{
    for (long i = 0; i < width; i += 4)
        for (long row = 0; row < PANEL; row++, to++)
            memcpy(to, codes + row * width + i, sizeof(four));
}

/* A panel of a right side whose columns are `PANEL` columns of codes, and whose sum is over their rows. */
static void pack_rows(four *to, const int8_t *codes, long rows, long width)
{
    for (long row = 0; row < rows; row += 4, codes += 4 * width)
        for (long i = 0; i < PANEL; i += LANES, to += LANES) {
            words some = {0};
            for (int r = 0; r < 4; r++)
                some |= load_bytes(codes + r * width + i) << 8 * r;
            memcpy(to, &some, sizeof some);
        }
}

/* What the sums of every group begin with: what they count too much because the code of nothing is ZERO. */
static void find_starts(wholes *starts, const four *panel, long groups)
{
    const words zeros = ZERO * 0x01010101u - (words){0};
    for (long g = 0; g < groups; g++, starts += 2)
        for (int half = 0; half < 2; half++) {
            starts[half] = (wholes){0};
            for (long i = 0; i < FOURS; i++)
                starts[half] = add_fours(starts[half], zeros, load_words(panel + (g * FOURS + i) * PANEL + half * LANES));
            starts[half] = -starts[half];
        }
}

/* y += x panel, for at most ROWS rows, PANEL columns wide; each column times its scale, if there are any. */
static inline __attribute__((always_inline)) void add_tile(
    number *y, long y_row, const four *x, const float *x_scales, const four *panel, const wholes *starts, const float *scales, long groups,
    long rows)
{
    lanes totals[ROWS][2] = {0};
    for (long g = 0; g < groups; g++, starts += 2) {
        wholes sums[ROWS][2];
        for (int r = 0; r < ROWS; r++)
            sums[r][0] = starts[0], sums[r][1] = starts[1];
        for (long i = g * FOURS; i < (g + 1) * FOURS; i++) {
            words first = load_words(panel + i * PANEL), second = load_words(panel + i * PANEL + LANES);
            for (int r = 0; r < ROWS; r++) {
                words one = x[r * groups * FOURS + i] - (words){0};
                sums[r][0] = add_fours(sums[r][0], one, first);
                sums[r][1] = add_fours(sums[r][1], one, second);
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int half = 0; half < 2; half++)
                totals[r][half] += __builtin_convertvector(sums[r][half], lanes) * x_scales[r * groups + g];
    }
    for (int half = 0; half < 2; half++) {
        lanes scale = all(1);
        if (scales)
            memcpy(&scale, scales + half * LANES, sizeof scale);
        for (long r = 0; r < rows; r++) {
            number *to = y + r * y_row + half * LANES;
            store(to, load(to, LANES) + totals[r][half] * scale, LANES);
        }
    }
}

/* x in codes and scales, rows to the next multiple of ROWS being there. */
typedef struct {
    const uint8_t *codes;
    const float *scales;
    long rows, width;
} input;

static void add_panel(number *y, long y_row, const input *x, const four *panel, wholes *starts, const float *scales)
{
    long groups = x->width / GROUP;
    find_starts(starts, panel, groups);
    for (long row = 0; row < x->rows; row += ROWS) {
        long left = x->rows - row < ROWS ? x->rows - row : ROWS;
        const four *codes = (const four *)(x->codes + row * x->width);
        add_tile(y + row * y_row, y_row, codes, x->scales + row * groups, panel, starts, scales, groups, left);
    }
}

/* y (rows, d_out) += x Wt, W (d_out, d_in) being codes times the scale of each row. */
void add_rounded_product(
    number *y, long y_row, const uint8_t *x_codes, const float *x_scales, const int8_t *codes, const float *scales, long rows, long d_in,
    long d_out, four *panel, wholes *starts)
{
    input x = {x_codes, x_scales, rows, d_in};
    SHARED_OUT(rows * d_out)
    for (long column = 0; column < d_out; column += PANEL) {
        four *own_panel = panel + this_thread() * PANEL * d_in / 4;
        pack_columns(own_panel, codes + column * d_in, d_in);
        add_panel(y + column, y_row, &x, own_panel, starts + this_thread() * 2 * d_in / GROUP, scales + column);
    }
}

/* y (rows, columns) += x C, C (width of x, columns) being codes. */
void add_rounded_transposed_product(
    number *y, long y_row, const uint8_t *x_codes, const float *x_scales, const int8_t *codes, long rows, long width, long columns,
    four *panel, wholes *starts)
{
    input x = {x_codes, x_scales, rows, width};
    SHARED_OUT(rows * columns)
    for (long column = 0; column < columns; column += PANEL) {
        four *own_panel = panel + this_thread() * PANEL * width / 4;
        pack_rows(own_panel, codes + column, width, columns);
        add_panel(y + column, y_row, &x, own_panel, starts + this_thread() * 2 * width / GROUP, 0);
    }
}
