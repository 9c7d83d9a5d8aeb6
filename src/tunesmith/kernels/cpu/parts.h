/* Parts of a packed stream: queries, and the keys that they look at. See ../segments.py. */

#ifndef TUNESMITH_PARTS_H
#define TUNESMITH_PARTS_H

#include "numbers.h"

/* Which queries, which keys of their own, and how many of the first keys, which are shared, they see before those. */
typedef struct {
    long query, queries, key, own_keys, shared;
} part;

/* What is the same for all parts: heads of keys, heads of queries for each, and how far it is from one token to the next. */
typedef struct {
    long parts, heads, group, width, query_row, key_row, value_row, is_causal;
} stream;

/* How large the products of one part are. */
typedef struct {
    long queries, keys, width, is_causal;
} sizes;

/* Tokens of one head. */
typedef struct {
    const number *numbers;
    long row;
} tokens;

/* All keys, or values, that a part sees; where some are shared they are put together in `place`. */
static inline tokens seen_by(const part *p, const number *all, long row, long width, number *place)
{
    if (!p->shared)
        return (tokens){all + p->key * row, row};
    for (long t = 0; t < p->shared + p->own_keys; t++)
        memcpy(place + t * width, all + (t < p->shared ? t : t - p->shared + p->key) * row, width * sizeof(number));
    return (tokens){place, width};
}

/* The gradients of what a part sees: those of its own written, those of what is shared added to the sums. */
static inline void write_seen(const part *p, number *to, float *sums, long row, const float *from, long from_row, long width, float scale)
{
    for (long t = 0; t < p->shared; t++)
        for (long i = 0; i < width; i++)
            sums[t * row + i] += from[t * from_row + i] * scale;
    for (long t = 0; t < p->own_keys; t++)
        SIXTEEN_AT_A_TIME(width, {
            store(to + (p->key + t) * row + i, *(const lanes *)(from + (p->shared + t) * from_row + i) * scale, left);
        });
}

/* Parts in groups, each of which adds what reaches shared tokens to sums of its own, `(tokens, heads, width)`; without such tokens
   each part is a group. They depend on the parts alone, so that the sums do not depend on who takes which group when. */
enum { MOST_GROUPS = 8 };
typedef struct {
    long count, parts, sums;
} groups;

static inline groups grouped(const part *parts, const stream *s)
{
    long shared = 0;
    for (long i = 0; i < s->parts; i++)
        shared = parts[i].shared > shared ? parts[i].shared : shared;
    long at_once = shared ? (s->parts + MOST_GROUPS - 1) / MOST_GROUPS : 1;
    return (groups){(s->parts + at_once - 1) / at_once, at_once, shared * s->heads * s->width};
}

/* What attention's gradients are made of, and where they go; dq, dk and dv lie side by side, as q, k and v may not, and dout does. */
typedef struct {
    const number *q, *k, *v, *dout;
    number *dq, *dk, *dv;
    float *shared_dk, *shared_dv; /* where what reaches shared tokens is added */
} attention;

/* The sums of all groups added to `to`, group by group. */
static inline void add_sums(float *to, const float *of_groups, groups g)
{
    SHARED_OUT(g.sums * g.count)
    for (long i = 0; i < g.sums; i++)
        for (long group = 0; group < g.count; group++)
            to[i] += of_groups[group * g.sums + i];
}

typedef void one_part(const attention *of, const part *p, const stream *s, long head, float scale);

/* The gradients of all parts, each by `go_back`; the sums of the groups are zero. */
static inline void go_back_through_all(
    one_part *go_back, attention of, float *group_dk, float *group_dv, const part *parts, const stream *s, float scale)
{
    groups g = grouped(parts, s);
    SHARED_OUT_AS_THEY_COME
    for (long place = 0; place < g.count * s->heads; place++) {
        long group = place / s->heads, end = (group + 1) * g.parts;
        attention own = of;
        own.shared_dk = group_dk + group * g.sums;
        own.shared_dv = group_dv + group * g.sums;
        for (long i = group * g.parts; i < end && i < s->parts; i++)
            go_back(&own, parts + i, s, place % s->heads, scale);
    }
    add_sums(of.shared_dk, group_dk, g);
    add_sums(of.shared_dv, group_dv, g);
}

#endif
