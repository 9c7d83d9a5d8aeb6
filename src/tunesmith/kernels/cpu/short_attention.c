/* Attention inside short parts of a stream, head by head, all of it in a core's own cache. See part_attention.py. */

#include <math.h>

#include "parts.h"

enum { MOST_TOKENS = 64, MOST_WIDTH = 128, TILE = 4 };

typedef float token_rows[MOST_TOKENS][MOST_WIDTH] __attribute__((aligned(64))); /* (tokens, width), rest zero */
typedef float token_columns[MOST_WIDTH][MOST_TOKENS] __attribute__((aligned(64))); /* the same transposed */
typedef float square[MOST_TOKENS][MOST_TOKENS] __attribute__((aligned(64))); /* (queries, keys) */

/* A matrix in memory: how many numbers there are from one row to the next, and from one column to the next. */
typedef struct {
    float *numbers;
    long row, column;
} matrix;

static inline matrix in_rows(token_rows x) { return (matrix){x[0], MOST_WIDTH, 1}; }
static inline matrix in_columns(token_columns x) { return (matrix){x[0], MOST_TOKENS, 1}; }
static inline matrix of_scores(square x) { return (matrix){x[0], MOST_TOKENS, 1}; }
static inline matrix transposed(matrix x) { return (matrix){x.numbers, x.column, x.row}; }

/* TILE rows of y = a b, or y += a b, and `width` times sixteen columns. */
static inline __attribute__((always_inline)) void add_tile(matrix y, matrix a, matrix b, long inner, int width, int add)
{
    lanes total[TILE][2];
    for (int r = 0; r < TILE; r++)
        for (int c = 0; c < width; c++)
            total[r][c] = add ? *(lanes *)(y.numbers + r * y.row + c * LANES) : (lanes){0};
    for (long i = 0; i < inner; i++)
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < width; c++)
                total[r][c] += a.numbers[r * a.row + i * a.column] * *(lanes *)(b.numbers + i * b.row + c * LANES);
    for (int r = 0; r < TILE; r++)
        for (int c = 0; c < width; c++)
            *(lanes *)(y.numbers + r * y.row + c * LANES) = total[r][c];
}

/* y = a b, or y += a b; rows are rounded up to a multiple of TILE, columns to one of sixteen. */
static void product(matrix y, matrix a, matrix b, long rows, long inner, long columns, int add)
{
    for (long column = 0; column < columns; column += 2 * LANES)
        for (long row = 0; row < rows; row += TILE) {
            matrix to = {y.numbers + row * y.row + column, y.row, 1}, left = {a.numbers + row * a.row, a.row, a.column};
            matrix right = {b.numbers + column, b.row, 1};
            if (columns - column > LANES)
                add_tile(to, left, right, inner, 2, add);
            else
                add_tile(to, left, right, inner, 1, add);
        }
}

static void read_rows(token_rows to, const number *from, long from_row, long count, long width, float scale)
{
    for (long t = 0; t < UP_TO(TILE, count); t++)
        for (long i = 0; i < width; i += LANES) {
            lanes some = t < count ? load(from + t * from_row + i, width - i < LANES ? width - i : LANES) * scale : (lanes){0};
            *(lanes *)(to[t] + i) = some;
        }
}

static void write_rows(number *to, long to_row, token_rows from, long count, long width)
{
    for (long t = 0; t < count; t++)
        for (long i = 0; i < width; i += LANES)
            store(to + t * to_row + i, *(lanes *)(from[t] + i), width - i < LANES ? width - i : LANES);
}

static void turn(token_columns to, token_rows from, long count, long width)
{
    for (long i = 0; i < width; i++)
        for (long t = 0; t < UP_TO(LANES, count); t++)
            to[i][t] = t < count ? from[t][i] : 0;
}

/* Scores made probabilities; what a query does not see has none. */
static void normalise(square scores, const sizes *n)
{
    for (long row = 0; row < n->queries; row++) {
        long seen = n->is_causal ? n->keys - n->queries + row + 1 : n->keys;
        lanes most = all(-INFINITY), total = {0}, *places = (lanes *)scores[row];
        for (long i = 0; i < seen; i += LANES)
            most = larger(filled(places[i / LANES], seen - i, -INFINITY), most);
        float top = largest(most);
        for (long i = 0; i < n->keys; i += LANES) {
            places[i / LANES] = filled(exponential(places[i / LANES] - top), seen - i > 0 ? seen - i : 0, 0);
            total += places[i / LANES];
        }
        float factor = 1 / sum(total);
        for (long i = 0; i < n->keys; i += LANES)
            places[i / LANES] *= factor;
    }
}

/* All keys, or values, of a head that a part sees. */
static void read_seen(token_rows to, const part *p, const number *all, long row, long width)
{
    number place[MOST_TOKENS * MOST_WIDTH];
    tokens seen = seen_by(p, all, row, width, place);
    read_rows(to, seen.numbers, seen.row, p->shared + p->own_keys, width, 1);
}

static void attend(
    const number *q, const number *k, const number *v, number *out, const part *p, const stream *s, long head, float scale)
{
    token_rows query, key, value, result;
    token_columns keys;
    square shares;
    const sizes n[] = {{p->queries, p->shared + p->own_keys, s->width, s->is_causal}};
    long row = s->heads * s->group * n->width;
    read_seen(key, p, k + head * n->width, s->key_row, n->width);
    read_seen(value, p, v + head * n->width, s->value_row, n->width);
    turn(keys, key, n->keys, n->width);
    for (long own = head * s->group; own < (head + 1) * s->group; own++) {
        read_rows(query, q + p->query * s->query_row + own * n->width, s->query_row, n->queries, n->width, scale);
        product(of_scores(shares), in_rows(query), in_columns(keys), n->queries, n->width, n->keys, 0);
        normalise(shares, n);
        product(in_rows(result), of_scores(shares), in_rows(value), n->queries, n->keys, n->width, 0);
        write_rows(out + p->query * row + own * n->width, row, result, n->queries, n->width);
    }
}

/* out (queries, heads * group, width), side by side. */
void short_attention_forward(
    const number *q, const number *k, const number *v, number *out, const part *parts, const stream *s, float scale)
{
    SHARED_OUT_AS_THEY_COME
    for (long place = 0; place < s->parts * s->heads; place++)
        attend(q, k, v, out, parts + place / s->heads, s, place % s->heads, scale);
}

static void go_back_through(const attention *of, const part *p, const stream *s, long head, float scale)
{
    token_rows query, key, value, slope, dquery, dkey, dvalue;
    token_columns keys, values;
    square shares, dshares;
    const sizes n[] = {{p->queries, p->shared + p->own_keys, s->width, s->is_causal}};
    long row = s->heads * s->group * n->width, key_row = s->heads * n->width;
    long there = head * n->width;
    read_seen(key, p, of->k + there, s->key_row, n->width);
    read_seen(value, p, of->v + there, s->value_row, n->width);
    turn(keys, key, n->keys, n->width);
    turn(values, value, n->keys, n->width);
    for (long own = head * s->group; own < (head + 1) * s->group; own++) {
        int add = own > head * s->group;
        read_rows(query, of->q + p->query * s->query_row + own * n->width, s->query_row, n->queries, n->width, scale);
        read_rows(slope, of->dout + p->query * row + own * n->width, row, n->queries, n->width, 1);
        product(of_scores(shares), in_rows(query), in_columns(keys), n->queries, n->width, n->keys, 0);
        normalise(shares, n);
        product(of_scores(dshares), in_rows(slope), in_columns(values), n->queries, n->width, n->keys, 0);
        product(in_rows(dvalue), transposed(of_scores(shares)), in_rows(slope), n->keys, n->queries, n->width, add);
        for (long t = 0; t < n->queries; t++) {
            lanes *share = (lanes *)shares[t], *dshare = (lanes *)dshares[t], products = {0};
            for (long i = 0; i < UP_TO(LANES, n->keys) / LANES; i++)
                products += share[i] * dshare[i];
            float mean = sum(products);
            for (long i = 0; i < UP_TO(LANES, n->keys) / LANES; i++)
                dshare[i] = share[i] * (dshare[i] - mean);
        }
        product(in_rows(dkey), transposed(of_scores(dshares)), in_rows(query), n->keys, n->queries, n->width, add);
        product(in_rows(dquery), of_scores(dshares), in_rows(key), n->queries, n->keys, n->width, 0);
        for (long t = 0; t < n->queries; t++)
            for (long i = 0; i < n->width; i++)
                dquery[t][i] *= scale;
        write_rows(of->dq + p->query * row + own * n->width, row, dquery, n->queries, n->width);
    }
    write_seen(p, of->dk + there, of->shared_dk + there, key_row, dkey[0], MOST_WIDTH, n->width, 1);
    write_seen(p, of->dv + there, of->shared_dv + there, key_row, dvalue[0], MOST_WIDTH, n->width, 1);
}

void short_attention_gradients(
    const number *q, const number *k, const number *v, const number *dout, number *dq, number *dk, number *dv,
    float *shared_dk, float *shared_dv, float *group_dk, float *group_dv, const part *parts, const stream *s, float scale)
{
    attention of = {q, k, v, dout, dq, dk, dv, shared_dk, shared_dv};
    go_back_through_all(go_back_through, of, group_dk, group_dv, parts, s, scale);
}
