/* Attention inside parts of a stream by products of pairs of bfloat16, by blocks of queries. See part_attention.py. */

#include <math.h>

#include "pairs.h"
#include "parts.h"

#ifdef BFLOAT16

enum { MOST_KEYS = 512, MOST_WIDTH = 128, BLOCK = 64 };

/* Some queries of one head, and what the products make of them. */
typedef struct {
    float scores[BLOCK][MOST_KEYS], slopes[BLOCK][MOST_KEYS];
    number shares[BLOCK][MOST_KEYS], dscores[BLOCK][MOST_KEYS];
    pair by_key[BLOCK / 2][MOST_KEYS];
    number rows[BLOCK][MOST_WIDTH];
    float results[BLOCK][MOST_WIDTH];
    pair panels[BLOCK / 2 * MOST_WIDTH];
} workplace;

/* How many keys the queries from `row` on see that share a tile. */
static long seen_by_tile(const sizes *n, long row)
{
    long seen = n->keys - n->queries + row + ROWS;
    return n->is_causal && seen < n->keys ? seen : n->keys;
}

/* y (queries, keys) = a b for the keys that a tile sees; `first` is the block's first query. */
static void multiply_by_keys(float (*y)[MOST_KEYS], const number *a, const pair *b, const sizes *n, long first, long count)
{
    long half = n->width / 2;
    for (long row = 0; row < count; row += ROWS)
        for (long key = 0; key < seen_by_tile(n, first + row); key += PANEL)
            add_pairs_tile(y[row] + key, MOST_KEYS, (left){(const pair *)a + row * half, half, 1}, b + key * half, half, 0);
}

/* y (queries, width) = a b, where a is (queries, keys). */
static void multiply_over_keys(float (*y)[MOST_WIDTH], number (*a)[MOST_KEYS], const pair *b, const sizes *n, long first, long count)
{
    long inner = (n->keys + 1) / 2;
    for (long row = 0; row < count; row += ROWS)
        for (long i = 0; i < n->width; i += PANEL)
            add_pairs_tile(
                y[row] + i, MOST_WIDTH, (left){(const pair *)a[row], MOST_KEYS / 2, 1}, b + i * inner,
                (seen_by_tile(n, first + row) + 1) / 2, 0);
}

/* y (keys, width) += at b over the block's queries, where a is (queries, keys). */
static void add_over_queries(
    float (*y)[MOST_WIDTH], number (*a)[MOST_KEYS], const pair *b, workplace *w, const sizes *n, long first, long count)
{
    long inner = (count + 1) / 2, seen = seen_by_tile(n, first + (count - 1) / ROWS * ROWS), unseeing = n->keys - n->queries + first;
    for (long i = 0; i < inner; i++)
        for (long key = 0; key < seen; key += LANES) {
            words both = interleaved(load_shorts(a[2 * i] + key), load_shorts(a[2 * i + 1] + key));
            memcpy(w->by_key[i] + key, &both, sizeof both);
        }
    for (long key = 0; key < seen; key += ROWS) {
        long start = n->is_causal && key > unseeing ? (key - unseeing) / 2 : 0; /* queries before it see none of these keys */
        if (start < inner)
            for (long i = 0; i < n->width; i += PANEL)
                add_pairs_tile(
                    y[key] + i, MOST_WIDTH, (left){w->by_key[start] + key, 1, MOST_KEYS}, b + i * inner + start * PANEL,
                    inner - start, 1);
    }
}

/* Scores made probabilities, as they are and rounded; what a query does not see, and rows that are none, have zeros. */
static void normalise(workplace *w, const sizes *n, long first, long count, float scale)
{
    for (long row = 0; row < UP_TO(ROWS, count); row++) {
        long there = seen_by_tile(n, first + row / ROWS * ROWS), seen = n->keys - n->queries + first + row + 1;
        seen = row >= count ? 0 : n->is_causal && seen < n->keys ? seen : n->keys;
        lanes most = all(-INFINITY), total = {0}, *places = (lanes *)w->scores[row];
        for (long i = 0; i < seen; i += LANES)
            most = larger(seen - i < LANES ? filled(places[i / LANES], seen - i, -INFINITY) : places[i / LANES], most);
        float top = largest(most) * scale;
        for (long i = 0; i < seen; i += LANES) {
            lanes share = exponential(places[i / LANES] * scale - top);
            places[i / LANES] = seen - i < LANES ? filled(share, seen - i, 0) : share;
            total += places[i / LANES];
        }
        float factor = seen ? 1 / sum(total) : 0;
        for (long i = 0; i < UP_TO(PANEL, there); i += LANES) {
            places[i / LANES] = i < seen ? places[i / LANES] * factor : (lanes){0};
            store(w->shares[row] + i, places[i / LANES], LANES);
        }
    }
}

static void write_rows(number *to, long to_row, float (*from)[MOST_WIDTH], long count, long width, float scale)
{
    for (long t = 0; t < count; t++)
        SIXTEEN_AT_A_TIME(width, { store(to + t * to_row + i, *(lanes *)(from[t] + i) * scale, left); });
}

static void attend(
    const number *q, const number *k, const number *v, number *out, const part *p, const stream *s, long head, float scale)
{
    static _Thread_local pair keys[MOST_KEYS * MOST_WIDTH / 2], values[MOST_KEYS * MOST_WIDTH / 2];
    static _Thread_local number place[MOST_KEYS * MOST_WIDTH];
    static _Thread_local workplace w __attribute__((aligned(64)));
    const sizes n[] = {{p->queries, p->shared + p->own_keys, s->width, s->is_causal}};
    long out_row = s->heads * s->group * s->width;
    tokens seen = seen_by(p, k + head * s->width, s->key_row, s->width, place);
    pack_columns(keys, seen.numbers, seen.row, n->keys, n->width);
    seen = seen_by(p, v + head * s->width, s->value_row, s->width, place);
    pack_rows(values, seen.numbers, seen.row, n->keys, n->width);
    for (long own = head * s->group; own < (head + 1) * s->group; own++)
        for (long first = 0; first < n->queries; first += BLOCK) {
            long count = n->queries - first < BLOCK ? n->queries - first : BLOCK, token = p->query + first;
            copy_rows(w.rows[0], q + token * s->query_row + own * n->width, s->query_row, count, n->width);
            multiply_by_keys(w.scores, w.rows[0], keys, n, first, count);
            normalise(&w, n, first, count, scale);
            multiply_over_keys(w.results, w.shares, values, n, first, count);
            write_rows(out + token * out_row + own * n->width, out_row, w.results, count, n->width, 1);
        }
}

/* out (queries, heads * group, width), side by side. */
void row_attention_forward(
    const number *q, const number *k, const number *v, number *out, const part *parts, const stream *s, float scale)
{
    SHARED_OUT_AS_THEY_COME
    for (long place = 0; place < s->parts * s->heads; place++)
        attend(q, k, v, out, parts + place / s->heads, s, place % s->heads, scale);
}

/* Slopes of the probabilities made slopes of the scores, rounded. */
static void go_back(workplace *w, const sizes *n, long first, long count)
{
    for (long row = 0; row < UP_TO(ROWS, count); row++) {
        long there = UP_TO(PANEL, seen_by_tile(n, first + row / ROWS * ROWS));
        lanes *share = (lanes *)w->scores[row], *slope = (lanes *)w->slopes[row], products = {0};
        for (long i = 0; i < there / LANES; i++)
            products += share[i] * slope[i];
        float mean = sum(products);
        for (long i = 0; i < there / LANES; i++)
            store(w->dscores[row] + i * LANES, share[i] * (slope[i] - mean), LANES);
    }
}

static void go_back_through(const attention *of, const part *p, const stream *s, long head, float scale)
{
    static _Thread_local pair keys[MOST_KEYS * MOST_WIDTH / 2], key_rows[MOST_KEYS * MOST_WIDTH / 2];
    static _Thread_local pair values[MOST_KEYS * MOST_WIDTH / 2];
    static _Thread_local float dkeys[MOST_KEYS][MOST_WIDTH] __attribute__((aligned(64)));
    static _Thread_local float dvalues[MOST_KEYS][MOST_WIDTH] __attribute__((aligned(64)));
    static _Thread_local number place[MOST_KEYS * MOST_WIDTH];
    static _Thread_local workplace w __attribute__((aligned(64)));
    const sizes n[] = {{p->queries, p->shared + p->own_keys, s->width, s->is_causal}};
    long row = s->heads * s->group * s->width, key_row = s->heads * s->width;
    long there = head * n->width;
    tokens seen = seen_by(p, of->k + there, s->key_row, n->width, place);
    pack_columns(keys, seen.numbers, seen.row, n->keys, n->width);
    pack_rows(key_rows, seen.numbers, seen.row, n->keys, n->width);
    seen = seen_by(p, of->v + there, s->value_row, n->width, place);
    pack_columns(values, seen.numbers, seen.row, n->keys, n->width);
    memset(dkeys, 0, UP_TO(ROWS, n->keys) * sizeof dkeys[0]);
    memset(dvalues, 0, UP_TO(ROWS, n->keys) * sizeof dvalues[0]);
    for (long own = head * s->group; own < (head + 1) * s->group; own++)
        for (long first = 0; first < n->queries; first += BLOCK) {
            long count = n->queries - first < BLOCK ? n->queries - first : BLOCK, token = p->query + first;
            const number *queries = of->q + token * s->query_row + own * n->width, *slopes = of->dout + token * row + own * n->width;
            copy_rows(w.rows[0], queries, s->query_row, count, n->width);
            multiply_by_keys(w.scores, w.rows[0], keys, n, first, count);
            normalise(&w, n, first, count, scale);
            copy_rows(w.rows[0], slopes, row, count, n->width);
            multiply_by_keys(w.slopes, w.rows[0], values, n, first, count);
            pack_rows(w.panels, slopes, row, count, n->width);
            add_over_queries(dvalues, w.shares, w.panels, &w, n, first, count);
            go_back(&w, n, first, count);
            pack_rows(w.panels, queries, s->query_row, count, n->width);
            add_over_queries(dkeys, w.dscores, w.panels, &w, n, first, count);
            multiply_over_keys(w.results, w.dscores, key_rows, n, first, count);
            write_rows(of->dq + token * row + own * n->width, row, w.results, count, n->width, scale);
        }
    write_seen(p, of->dk + there, of->shared_dk + there, key_row, dkeys[0], MOST_WIDTH, n->width, scale);
    write_seen(p, of->dv + there, of->shared_dv + there, key_row, dvalues[0], MOST_WIDTH, n->width, 1);
}

void row_attention_gradients(
    const number *q, const number *k, const number *v, const number *dout, number *dq, number *dk, number *dv,
    float *shared_dk, float *shared_dv, float *group_dk, float *group_dv, const part *parts, const stream *s, float scale)
{
    attention of = {q, k, v, dout, dq, dk, dv, shared_dk, shared_dv};
    go_back_through_all(go_back_through, of, group_dk, group_dv, parts, s, scale);
}

#endif
