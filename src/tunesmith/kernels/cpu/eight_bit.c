/* Products of few rows with a weight in eight bits, which is read once and never lies in memory as numbers. See eight_bit.py. */

#include "pairs.h"

enum { STEP = 2 * LANES, SIDE = 4, AHEAD = 4 }; /* numbers of a row at once, and rows of each side */

typedef int8_t bytes __attribute__((vector_size(16)));

/* STEP numbers as they lie in memory. */
typedef struct {
    words numbers[sizeof(number) / 2];
} step;

static inline lanes wide_codes(const int8_t *from)
{
    bytes some;
    memcpy(&some, from, sizeof some);
#ifdef __AVX512BF16__
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)some));
#else
    return __builtin_convertvector(some, lanes);
#endif
}

static inline step load_step(const number *from)
{
    step some;
    memcpy(&some, from, sizeof some);
    return some;
}

#ifdef BFLOAT16

/* Exact: bfloat16 has all whole numbers up to 256. */
static inline step from_codes(const int8_t *codes)
{
#ifdef __AVX512BF16__
    return (step){{(words)_mm512_cvtne2ps_pbh((__m512)wide_codes(codes + LANES), (__m512)wide_codes(codes))}};
#else
    step some;
    for (int i = 0; i < 2; i++)
        store((number *)&some + i * LANES, wide_codes(codes + i * LANES), LANES);
    return some;
#endif
}

static inline lanes add_step(lanes total, step a, step b) { return add_pairs(total, a.numbers[0], b.numbers[0]); }

#else

static inline step from_codes(const int8_t *codes) { return (step){{(words)wide_codes(codes), (words)wide_codes(codes + LANES)}}; }

static inline lanes add_step(lanes total, step a, step b)
{
    return total + (lanes)a.numbers[0] * (lanes)b.numbers[0] + (lanes)a.numbers[1] * (lanes)b.numbers[1];
}

#endif

/* The sum of each, in the first four places. */
static inline lanes sums(const lanes x[SIDE])
{
#ifdef __AVX512BF16__
    __m512 ones[2], fours;
    for (int i = 0; i < 2; i++) {
        __m512 a = (__m512)x[2 * i], b = (__m512)x[2 * i + 1];
        ones[i] = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
    }
    __m512d a = _mm512_castps_pd(ones[0]), b = _mm512_castps_pd(ones[1]);
    fours = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    fours += _mm512_shuffle_f32x4(fours, fours, 0x4e); /* the other half */
    return (lanes)(fours + _mm512_shuffle_f32x4(fours, fours, 0xb1)); /* the other quarter of it */
#else
    lanes result = {0};
    for (int s = 0; s < SIDE; s++)
        result[s] = sum(x[s]);
    return result;
#endif
}

/* y += x Wt for so many rows of x, and SIDE of W. */
static inline __attribute__((always_inline)) void
add_tile(number *y, long y_row, const number *x, const int8_t *codes, lanes scales, long width, int rows)
{
    lanes totals[SIDE][SIDE] = {0};
    for (long i = 0; i < width; i += STEP) {
        step weights[SIDE];
        for (int s = 0; s < SIDE; s++) {
            __builtin_prefetch(codes + (s + SIDE * AHEAD) * width + i);
            weights[s] = from_codes(codes + s * width + i);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int s = 0; s < SIDE; s++)
                totals[r][s] = add_step(totals[r][s], load_step(x + r * width + i), weights[s]);
    }
    for (int r = 0; r < rows; r++)
        store(y + r * y_row, load(y + r * y_row, SIDE) + sums(totals[r]) * scales, SIDE);
}

/* y (rows, d_out) += x Wt, x (rows, d_in) side by side, W (d_out, d_in) being codes times the scale of each row. */
void add_few_rows(number *y, long y_row, const number *x, const int8_t *codes, const float *scales, long rows, long d_in, long d_out)
{
    SHARED_OUT(d_in * d_out)
    for (long column = 0; column < d_out; column += SIDE) {
        const int8_t *own = codes + column * d_in;
        lanes scale = {0};
        memcpy(&scale, scales + column, SIDE * sizeof(float));
        number *to = y + column;
        long row = 0;
        for (; row + SIDE <= rows; row += SIDE)
            add_tile(to + row * y_row, y_row, x + row * d_in, own, scale, d_in, SIDE);
        if (rows - row >= 2)
            add_tile(to + row * y_row, y_row, x + row * d_in, own, scale, d_in, 2), row += 2;
        if (rows > row)
            add_tile(to + row * y_row, y_row, x + row * d_in, own, scale, d_in, 1);
    }
}
