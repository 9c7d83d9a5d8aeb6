/* Memory for the tensors of a pass, apart from all else. See ../pool.py.

   A region is reserved once; pages of it are the system's until they are written to. It is one list of spans in the order of their
   addresses, taken or free; free neighbours become one. A tensor is handed out as DLPack has it (dlpack.h, version 0.8), and gives its
   span back when nobody holds it, from whichever thread. */

#include "numbers.h"

#ifndef BFLOAT16

#include <pthread.h>
#include <sys/mman.h>

enum { MOST_SPANS = 1 << 13, LINE = 64, PAGE = 1 << 12, CPU = 1 };

typedef struct {
    char *start;
    long size;
    int before, after; /* neighbours, -1 for none */
    int is_free;
} span;

typedef struct tensor {
    void *data;
    int32_t device_type, device_id, num_axes;
    uint8_t kind, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
    void *context;
    void (*give_back)(struct tensor *);
} tensor;

static span spans[MOST_SPANS]; /* the first is always that of the lowest address */
static tensor tensors[MOST_SPANS];
static int64_t counts[MOST_SPANS];
static int unused[MOST_SPANS], num_unused; /* numbers of spans that are none */
static int is_open;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void acquire(void) { pthread_mutex_lock(&lock); }

static void release(void) { pthread_mutex_unlock(&lock); }

/* Whether there is a region; asked for only once. */
static int is_reserved(long bytes)
{
    if (!is_open) {
        void *start = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        spans[0] = (span){start, start == MAP_FAILED ? 0 : bytes, -1, -1, 1};
        for (int i = MOST_SPANS - 1; i > 0; i--)
            unused[num_unused++] = i;
        pthread_atfork(acquire, release, release); /* no child finds it held by a thread that it does not have */
        is_open = 1;
    }
    return spans[0].start != MAP_FAILED;
}

/* The smallest free span that is large enough, -1 if there is none. */
static int best_for(long size)
{
    int best = -1;
    for (int i = 0; i >= 0; i = spans[i].after)
        if (spans[i].is_free && spans[i].size >= size && (best < 0 || spans[i].size < spans[best].size))
            best = i;
    return best;
}

/* Let a span end after `size`; what is left becomes a free one behind it. */
static void split(int i, long size)
{
    int rest = unused[--num_unused], after = spans[i].after;
    spans[rest] = (span){spans[i].start + size, spans[i].size - size, i, after, 1};
    if (after >= 0)
        spans[after].before = rest;
    spans[i].size = size;
    spans[i].after = rest;
}

/* Make one span of it and the next, where both are free. */
static void join(int i)
{
    int next = i < 0 ? -1 : spans[i].after;
    if (next < 0 || !spans[i].is_free || !spans[next].is_free)
        return;
    spans[i].size += spans[next].size;
    spans[i].after = spans[next].after;
    if (spans[i].after >= 0)
        spans[spans[i].after].before = i;
    unused[num_unused++] = next;
}

static void give_back(tensor *t)
{
    int i = (int)(t - tensors);
    acquire();
    spans[i].is_free = 1;
    join(i);
    join(spans[i].before);
    release();
}

/* A tensor of so many numbers, of DLPack's kind and so many bits each; null where there is no memory for it. */
tensor *pool_take(long reserved, long count, long kind, long bits)
{
    long size = UP_TO(LINE, count * bits / 8);
    tensor *given = 0;
    acquire();
    int i = is_reserved(reserved) && num_unused > 0 ? best_for(size) : -1;
    if (i >= 0) {
        if (spans[i].size > size)
            split(i, size);
        spans[i].is_free = 0;
        counts[i] = count;
        given = tensors + i;
        *given = (tensor){spans[i].start, CPU, 0, 1, kind, bits, 1, counts + i, 0, 0, 0, give_back};
    }
    release();
    return given;
}

/* Give the pages of free spans back to the system. */
void pool_give_back(void)
{
#ifdef __linux__
    acquire();
    for (int i = 0; is_open && i >= 0; i = spans[i].after) {
        uintptr_t start = UP_TO(PAGE, (uintptr_t)spans[i].start), end = ((uintptr_t)spans[i].start + spans[i].size) / PAGE * PAGE;
        if (spans[i].is_free && end > start)
            madvise((void *)start, end - start, MADV_DONTNEED);
    }
    release();
#endif
}

#endif
