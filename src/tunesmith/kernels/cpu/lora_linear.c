/* The small products of low-rank changes of linear layers, of bfloat16 numbers and float32 factors. See lora_linear.py. */

#include "pairs.h"

#ifdef BFLOAT16

/* Layers that read the same x `(tokens, d_in)`; of each the rank, d_out, and how far it is from one row of its output to the next. */
enum { MOST_LAYERS = 8 };
typedef struct {
    long rank, d_out, row;
} layer;
typedef struct {
    long tokens, d_in, x_row, ranks, num_layers;
    layer layers[MOST_LAYERS];
} sizes;

/* Float32 numbers in 16 bits. */
static void round_all(number *to, const float *from, long count)
{
    SIXTEEN_AT_A_TIME(count, {
        lanes some = {0};
        memcpy(&some, from + i, left * sizeof(float));
        store(to + i, some, left);
    });
}

/* What becomes of a product: how far it is from one row to the next, and, unless it is null, what is added to every row. */
typedef struct {
    number *rows;
    long row;
    float scale;
    const number *bias;
} result;

/* ROWS rows and some columns of y = scale a b + bias in 16 bits. */
static inline __attribute__((always_inline)) void write_tile(result y, left a, const pair *b, long inner, long columns, int num_lanes)
{
    tile t = add_product((tile){0}, a, b, inner, num_lanes);
    for (int c = 0; c < num_lanes; c++) {
        long there = columns - c * LANES < LANES ? columns - c * LANES : LANES;
        lanes bias = y.bias ? load(y.bias + c * LANES, there) : (lanes){0};
        for (int r = 0; r < ROWS; r++)
            store(y.rows + r * y.row + c * LANES, t.sums[r][c] * y.scale + bias, there);
    }
}

/* y = scale a b + bias in 16 bits, row by row of b's columns; the last eight rows may be made twice. */
static void write_product(result y, left a, const pair *b, long tokens, long inner, long columns)
{
    SHARED_OUT(tokens * columns * inner)
    for (long turn = 0; turn < (tokens + ROWS - 1) / ROWS; turn++) {
        long t = (turn + 1) * ROWS > tokens ? tokens - ROWS : turn * ROWS;
        for (long column = 0; column < columns; column += PANEL) {
            result to = {y.rows + t * y.row + column, y.row, y.scale, y.bias ? y.bias + column : 0};
            left rows = {a.pairs + t * a.row, a.row, a.inner};
            const pair *panel = b + column * inner;
            long there = columns - column;
            if (there >= PANEL)
                write_tile(to, rows, panel, inner, PANEL, 2);
            else if (there == LANES)
                write_tile(to, rows, panel, inner, LANES, 1);
            else if (there > LANES)
                write_tile(to, rows, panel, inner, there, 2);
            else
                write_tile(to, rows, panel, inner, there, 1);
        }
    }
}

/* For every layer: projected = s x At, beside each other, and output = projected Bt + bias; `stacked` gets all A in 16 bits. */
void low_rank_forward(
    const number *x, const sizes *n, const float *const *a, const float *const *b, const float *scales, const number *const *biases,
    number *stacked, number *projected, number *const *outputs, pair *panels, number *rounded_b)
{
    long first = 0;
    for (long l = 0; l < n->num_layers; first += n->layers[l++].rank)
        round_all(stacked + first * n->d_in, a[l], n->layers[l].rank * n->d_in);
    first = 0;
    for (long l = 0; l < n->num_layers; first += n->layers[l++].rank) {
        layer it = n->layers[l];
        left read = {(const pair *)x, n->x_row / 2, 1}, rows = {(const pair *)(projected + first), n->ranks / 2, 1};
        pack_columns(panels, stacked + first * n->d_in, n->d_in, it.rank, n->d_in);
        write_product((result){projected + first, n->ranks, scales[l], 0}, read, panels, n->tokens, n->d_in / 2, it.rank);
        round_all(rounded_b, b[l], it.d_out * it.rank);
        pack_columns(panels, rounded_b, it.rank, it.d_out, it.rank);
        write_product((result){outputs[l], it.row, 1, biases[l]}, rows, panels, n->tokens, it.rank / 2, it.d_out);
    }
}

/* y (rows, columns) float32, or its transpose, = at x, where both have as many rows as there are tokens. */
static void write_sum(float *y, left at, const number *x, long x_row, long tokens, long rows, long columns, int transposed, pair *panels)
{
    SHARED_OUT(tokens * columns * rows)
    for (long column = 0; column < columns; column += PANEL) {
        long width = columns - column < PANEL ? columns - column : PANEL;
        pair *panel = panels + this_thread() * PANEL * ((tokens + 1) / 2);
        pack_rows(panel, x + column, x_row, tokens, width);
        for (long row = 0; row < rows; row += ROWS) {
            tile t = add_product((tile){0}, (left){at.pairs + row * at.row, at.row, at.inner}, panel, (tokens + 1) / 2, 2);
            const float *sums = (const float *)t.sums;
            for (long r = 0; r < ROWS && row + r < rows; r++)
                if (transposed)
                    for (long c = 0; c < width; c++)
                        y[(column + c) * rows + row + r] = sums[r * PANEL + c];
                else
                    memcpy(y + (row + r) * columns + column, sums + r * PANEL, width * sizeof(float));
        }
    }
}

/* Pairs of tokens beside each other, `((tokens + 1) / 2, row)`; behind the width as many zeros as a tile may read. Returns `row`. */
static long pair_tokens(pair *to, const number *from, long tokens, long width)
{
    const long row = UP_TO(LANES, width + ROWS);
    SHARED_OUT(tokens * row)
    for (long t = 0; t < tokens; t += 2)
        for (long i = 0; i < row; i += LANES) {
            const number *even = from + t * width + i;
            shorts odd = t + 1 < tokens ? some_of(even + width, width - i) : (shorts){0};
            words both = interleaved(some_of(even, width - i), odd);
            memcpy(to + t / 2 * row + i, &both, sizeof both);
        }
    return row;
}

/* From the gradients of the outputs: dx = their part by way of the changes (if it is asked for), da of all layers on top of each
   other, and db of each. */
void low_rank_gradients(
    const number *x, const sizes *n, const number *const *doutputs, const number *stacked, const number *projected,
    const float *const *b, const float *scales, number *dx, float *da, float *const *db, number *dprojected, pair *panels,
    pair *paired, number *rounded_b)
{
    long first = 0, row = pair_tokens(paired, projected, n->tokens, n->ranks);
    for (long l = 0; l < n->num_layers; first += n->layers[l++].rank) {
        layer it = n->layers[l];
        left read = {(const pair *)doutputs[l], it.row / 2, 1};
        round_all(rounded_b, b[l], it.d_out * it.rank);
        pack_rows(panels, rounded_b, it.rank, it.d_out, it.rank);
        write_product((result){dprojected + first, n->ranks, scales[l], 0}, read, panels, n->tokens, it.d_out / 2, it.rank);
        write_sum(db[l], (left){paired + first, 1, row}, doutputs[l], it.row, n->tokens, it.rank, it.d_out, 1, panels);
    }
    if (dx) {
        pack_rows(panels, stacked, n->d_in, n->ranks, n->d_in);
        left rows = {(const pair *)dprojected, n->ranks / 2, 1};
        write_product((result){dx, n->d_in, 1, 0}, rows, panels, n->tokens, n->ranks / 2, n->d_in);
    }
    pair_tokens(paired, dprojected, n->tokens, n->ranks);
    write_sum(da, (left){paired, 1, row}, x, n->x_row, n->tokens, n->ranks, n->d_in, 0, panels);
}

#endif
