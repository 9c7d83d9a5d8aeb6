/* What the inputs of a head get of the slopes of their logits, when few words matter. See head_gradient.py. */

#include <math.h>

#include "pairs.h"

#ifdef BFLOAT16

enum { WORDS_IN_SIGHT = 1024, WORDS_AT_ONCE = 256, WEIGHTS_AT_ONCE = 4 };

/* Which words have a slope above `least`, or below zero, in any row of slopes (rows, vocabulary): chosen (vocabulary) 1, else 0.

   sums (vocabulary) are those of the others' slopes over the rows, and zero for the chosen; row_sums (rows) those of all words. */
void choose_words(
    const number *slopes, uint8_t *chosen, float *sums, float *row_sums, long rows, long vocabulary, float least)
{
    float of_sight[(vocabulary + WORDS_IN_SIGHT - 1) / WORDS_IN_SIGHT][rows]; /* sums of each row */
    SHARED_OUT(rows * vocabulary)
    for (long start = 0; start < vocabulary; start += WORDS_IN_SIGHT) {
        long count = vocabulary - start < WORDS_IN_SIGHT ? vocabulary - start : WORDS_IN_SIGHT;
        lanes most[WORDS_IN_SIGHT / LANES] = {{0}}, total[WORDS_IN_SIGHT / LANES] = {{0}};
        for (long row = 0; row < rows; row++) {
            const number *from = slopes + row * vocabulary + start;
            lanes of_row = {0};
            SIXTEEN_AT_A_TIME(count, {
                lanes slope = load(from + i, left);
                most[i / LANES] = larger(choose((words)(slope < 0), all(INFINITY), slope), most[i / LANES]);
                total[i / LANES] += slope;
                of_row += slope;
            });
            of_sight[start / WORDS_IN_SIGHT][row] = sum(of_row);
        }
        for (long i = 0; i < count; i++) {
            int is_chosen = most[i / LANES][i % LANES] > least;
            chosen[start + i] = is_chosen;
            sums[start + i] = is_chosen ? 0 : total[i / LANES][i % LANES];
        }
    }
    memset(row_sums, 0, rows * sizeof(float));
    for (long start = 0; start < vocabulary; start += WORDS_IN_SIGHT)
        for (long row = 0; row < rows; row++)
            row_sums[row] += of_sight[start / WORDS_IN_SIGHT][row];
}

/* Panels of the rows of weight (vocabulary, hidden) of some words, `pairs` of them, the last with a zero if `count` is odd. */
static void pack_words(pair *panels, const number *weight, const int64_t *chosen, long count, long pairs, long hidden)
{
    SHARED_OUT(count * hidden)
    for (long i = 0; i < pairs; i++) {
        const number *even = weight + chosen[2 * i] * hidden, *odd = 2 * i + 1 < count ? weight + chosen[2 * i + 1] * hidden : 0;
        for (long column = 0; column < hidden; column += LANES) {
            words both = interleaved(some_of(even + column, hidden - column), odd ? some_of(odd + column, hidden - column) : (shorts){0});
            memcpy(panels + column / PANEL * PANEL * pairs + i * PANEL + column % PANEL, &both, sizeof both);
        }
    }
}

/* total (rows, width) += few panels, for rows and a width that are multiples of a tile's. */
static void add_to(float *total, const number *few, const pair *panels, long rows, long width, long pairs)
{
    SHARED_OUT(rows * width)
    for (long column = 0; column < width; column += PANEL)
        for (long row = 0; row < rows; row += ROWS) {
            left of_rows = {(const pair *)few + row * pairs, pairs, 1};
            add_pairs_tile(total + row * width + column, width, of_rows, panels + column * pairs, pairs, 1);
        }
}

/* Some columns, `width` of them, of the mean of the rows of weight (vocabulary, hidden), each as often as sums (vocabulary) say. */
static void mean_columns(const number *weight, const float *sums, float *mean, long vocabulary, long hidden, long width)
{
    float all_sums = 0;
    memset(mean, 0, width * sizeof(float));
    for (long word = 0; word < vocabulary; word += WEIGHTS_AT_ONCE) {
        const number *from[WEIGHTS_AT_ONCE];
        float often[WEIGHTS_AT_ONCE], together = 0;
        for (long k = 0; k < WEIGHTS_AT_ONCE; k++) {
            int is_there = word + k < vocabulary;
            from[k] = weight + (is_there ? word + k : word) * hidden;
            often[k] = is_there ? sums[word + k] : 0;
            together += often[k];
        }
        if (together == 0)
            continue;
        all_sums += together;
        SIXTEEN_AT_A_TIME(width, {
            lanes total = {0};
            memcpy(&total, mean + i, left * sizeof(float));
            for (long k = 0; k < WEIGHTS_AT_ONCE; k++)
                total += often[k] * load(from[k] + i, left);
            memcpy(mean + i, &total, left * sizeof(float));
        });
    }
    for (long i = 0; all_sums > 0 && i < width; i++)
        mean[i] /= all_sums;
}

/* The whole of it: mean (hidden). */
static void mean_word(const number *weight, const float *sums, float *mean, long vocabulary, long hidden)
{
    long width = UP_TO(PANEL, (hidden + num_threads() - 1) / num_threads()); /* rows are read side by side, by one thread whole */
    SHARED_OUT(vocabulary * hidden)
    for (long column = 0; column < hidden; column += width)
        mean_columns(weight + column, sums, mean + column, vocabulary, hidden, hidden - column < width ? hidden - column : width);
}

/* dhidden (rows, hidden) of slopes and weight: `count` chosen words by themselves, the others by their mean.

   Needs zeros in total (rows up to ROWS, hidden up to PANEL), and room in few (as many rows, WORDS_AT_ONCE), in panels
   (WORDS_AT_ONCE / 2, hidden up to PANEL) and in mean (hidden). row_sums become what is left for the others. */
void gradient_by_few_words(
    const number *slopes, const number *weight, const int64_t *chosen, const float *sums, float *row_sums, number *dhidden,
    float *total, number *few, pair *panels, float *mean, long rows, long vocabulary, long hidden, long count)
{
    long width = UP_TO(PANEL, hidden), all_rows = UP_TO(ROWS, rows);
    for (long start = 0; start < count; start += WORDS_AT_ONCE) {
        long now = count - start < WORDS_AT_ONCE ? count - start : WORDS_AT_ONCE, pairs = (now + 1) / 2;
        memset(few, 0, all_rows * 2 * pairs * sizeof(number));
        SHARED_OUT(rows * now)
        for (long row = 0; row < rows; row++) {
            number *to = few + row * 2 * pairs;
            lanes taken = {0};
            for (long i = 0; i < now; i++)
                to[i] = slopes[row * vocabulary + chosen[start + i]];
            SIXTEEN_AT_A_TIME(now, taken += load(to + i, left););
            row_sums[row] -= sum(taken);
        }
        pack_words(panels, weight, chosen + start, now, pairs, hidden);
        add_to(total, few, panels, all_rows, width, pairs);
    }
    mean_word(weight, sums, mean, vocabulary, hidden);
    for (long row = 0; row < rows; row++)
        SIXTEEN_AT_A_TIME(hidden, {
            lanes of_chosen = {0}, of_others = {0};
            memcpy(&of_chosen, total + row * width + i, left * sizeof(float));
            memcpy(&of_others, mean + i, left * sizeof(float));
            store(dhidden + row * hidden + i, of_chosen + row_sums[row] * of_others, left);
        });
}

#endif
