/* Sixteen numbers at a time, in memory float32 or (with -DBFLOAT16) bfloat16, in registers always float32. */

#ifndef TUNESMITH_NUMBERS_H
#define TUNESMITH_NUMBERS_H

#include <stdint.h>
#include <string.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { LANES = 16 };

#define UP_TO(multiple, x) (((x) + (multiple)-1) / (multiple) * (multiple))

typedef float lanes __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t shorts __attribute__((vector_size(32)));

static inline words load_words(const void *from)
{
    words some;
    memcpy(&some, from, sizeof some);
    return some;
}

static inline lanes all(float x) { return x - (lanes){0}; }

static inline lanes choose(words where, lanes one, lanes other)
{
    return (lanes)((where & (words)one) | (~where & (words)other));
}

#ifdef __AVX512BF16__ /* what compilers do not find by themselves; the other branch says what it means */

static inline words widened(shorts x) { return (words)_mm512_cvtepu16_epi32((__m256i)x); }
static inline shorts to_bfloat16(lanes x) { return (shorts)_mm512_cvtneps_pbh((__m512)x); }
static inline lanes larger(lanes a, lanes b) { return (lanes)_mm512_max_ps((__m512)a, (__m512)b); }
static inline lanes smaller(lanes a, lanes b) { return (lanes)_mm512_min_ps((__m512)a, (__m512)b); }
static inline float sum(lanes x) { return _mm512_reduce_add_ps((__m512)x); }
static inline float largest(lanes x) { return _mm512_reduce_max_ps((__m512)x); }

static inline lanes reciprocal(lanes x)
{
    lanes guess = (lanes)_mm512_rcp14_ps((__m512)x);
    return guess + guess * (1.0f - x * guess);
}

#else

static inline words widened(shorts x) { return __builtin_convertvector(x, words); }

/* To the nearest, ties to even; what is not a number stays that. */
static inline shorts to_bfloat16(lanes x)
{
    words bits = (words)x, no_number = (words)(x != x);
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector((rounded & ~no_number) | (0x7fc0 & no_number), shorts);
}

/* Of two numbers one of which is none, b. */
static inline lanes larger(lanes a, lanes b) { return choose((words)(a > b), a, b); }
static inline lanes smaller(lanes a, lanes b) { return choose((words)(a < b), a, b); }

static inline float sum(lanes x)
{
    float total = 0;
    for (int i = 0; i < LANES; i++)
        total += x[i];
    return total;
}

static inline float largest(lanes x)
{
    float most = x[0];
    for (int i = 1; i < LANES; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

static inline lanes reciprocal(lanes x) { return 1.0f / x; }

#endif

static inline lanes from_bfloat16(shorts x) { return (lanes)(widened(x) << 16); }

#ifdef BFLOAT16
typedef uint16_t number;
typedef shorts numbers, places;
static inline lanes wide(numbers x) { return from_bfloat16(x); }
static inline numbers narrow(lanes x) { return to_bfloat16(x); }
#else
typedef float number;
typedef lanes numbers;
typedef words places;
static inline lanes wide(numbers x) { return x; }
static inline numbers narrow(lanes x) { return x; }
#endif

/* The numbers at some places of sixteen. */
static inline numbers picked(numbers from, places where)
{
#if defined(__AVX512BF16__) && defined(BFLOAT16)
    return (numbers)_mm256_permutexvar_epi16((__m256i)where, (__m256i)from);
#elif defined(__AVX512BF16__)
    return (numbers)_mm512_permutexvar_ps((__m512i)where, (__m512)from);
#else
    numbers result;
    for (int i = 0; i < LANES; i++)
        result[i] = from[where[i]];
    return result;
#endif
}

/* The nearest numbers that memory can hold. */
static inline lanes rounded(lanes x) { return wide(narrow(x)); }

static inline float one(const number *from) { return wide((numbers){*from})[0]; }

/* The first `left` numbers of memory, if they are fewer than sixteen with zeros behind them. */
static inline lanes load(const number *from, long left)
{
    numbers some = {0};
    memcpy(&some, from, left * sizeof(number));
    return wide(some);
}

static inline void store(number *to, lanes x, long left)
{
    numbers some = narrow(x);
    memcpy(to, &some, left * sizeof(number));
}

/* Do something for i = 0, 16, 32 ... below `count`, where `left` numbers are there to be worked on: sixteen, at the end fewer.

   It stands there twice, so that the compiler knows what is left everywhere but at the end. */
#define SIXTEEN_AT_A_TIME(count, ...)                     \
    do {                                                  \
        long i = 0;                                       \
        for (; i + LANES <= (count); i += LANES) {        \
            enum { left = LANES };                        \
            __VA_ARGS__                                   \
        }                                                 \
        if (i < (count)) {                                \
            const long left = (count)-i;                  \
            __VA_ARGS__                                   \
        }                                                 \
    } while (0)

/* x, and `other` in the places behind the first `left`. */
static inline lanes filled(lanes x, long left, float other)
{
    const words index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return choose((words)(index < (uint32_t)left), x, all(other));
}

/* Let the threads that torch computes with share the turns of a loop, if all its numbers are worth waking them; where turns differ
   in length, as they come. Without OpenMP, or by Clang, whose threads are not those of torch, one thread takes all turns. */
enum { WORTH_WAKING = 1 << 14 };

#if defined(_OPENMP) && !defined(__clang__)
#include <omp.h>
#define AS_PRAGMA(text) _Pragma(#text)
#define SHARED_OUT(numbers) AS_PRAGMA(omp parallel for schedule(static) if ((numbers) > WORTH_WAKING))
#define SHARED_OUT_AS_THEY_COME AS_PRAGMA(omp parallel for schedule(dynamic))
static inline int this_thread(void) { return omp_get_thread_num(); }
static inline int num_threads(void) { return omp_get_max_threads(); }
#else
#define SHARED_OUT(numbers)
#define SHARED_OUT_AS_THEY_COME
static inline int this_thread(void) { return 0; }
static inline int num_threads(void) { return 1; }
#endif

/* Do something for all numbers, in parts that threads share: `there` of them from `first` on. */
#define IN_PARTS(count, ...)                                                               \
    do {                                                                                   \
        enum { PART = 1 << 13 };                                                           \
        SHARED_OUT(count)                                                                  \
        for (long first = 0; first < (count); first += PART) {                             \
            const long there = (count)-first < PART ? (count)-first : PART;                \
            __VA_ARGS__                                                                    \
        }                                                                                  \
    } while (0)

/* e^x to two units in the last place: 2^n e^r with |r| <= ln(2) / 2. Zero below -87, and as much as e^88 above 88. */
static inline lanes exponential(lanes x)
{
    const float to_whole = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, in the lowest bits */
    lanes bounded = smaller(all(88.0f), larger(all(-87.0f), x)); /* what is not a number stays that */
    lanes shifted = bounded * 1.44269504f + to_whole;
    lanes whole = shifted - to_whole;
    lanes r = bounded - whole * 0.693145752f - whole * 1.42860677e-6f;
    lanes series = r * (1 / 720.0f) + 1 / 120.0f;
    series = series * r + 1 / 24.0f;
    series = series * r + 1 / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    lanes power = (lanes)(((words)shifted << 23) + 0x3f800000);
    return choose((words)(x < -87.0f), all(0), series * power);
}

/* 1 / (1 + e^-x) */
static inline lanes sigmoid(lanes x) { return reciprocal(1.0f + exponential(-x)); }

/* tanh(x), to some 1e-7 */
static inline lanes hyperbolic_tangent(lanes x) { return 1.0f - 2.0f * reciprocal(1.0f + exponential(2.0f * x)); }

#endif
