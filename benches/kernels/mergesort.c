// Sorting of records: a bottom-up merge sort, stable, moving 16 bytes at a time.
#include "kernel.h"

typedef struct {
    uint32_t key, tag;
    uint64_t payload;
} Record;

static void merge_sort(Record *from, Record *to, uint32_t n) {
    for (uint32_t width = 1; width < n; width *= 2) {
        for (uint32_t start = 0; start < n; start += 2 * width) {
            uint32_t middle = start + width < n ? start + width : n, end = middle + width < n ? middle + width : n;
            uint32_t i = start, j = middle;
            for (uint32_t k = start; k < end; k++)
                to[k] = i < middle && (j >= end || from[i].key <= from[j].key) ? from[i++] : from[j++];
        }
        Record *t = from;
        from = to;
        to = t;
    }
}

int main(void) {
    enum { N = 1 << 16 };
    Record *a = allocate(N * sizeof *a), *b = allocate(N * sizeof *b);
    uint64_t sum = 0;
    for (int round = 0; round < 60; round++) {
        for (uint32_t i = 0; i < N; i++) {
            uint64_t r = next_random();
            a[i] = (Record){(uint32_t)(r >> 20) % 50000, i, r};
        }
        merge_sort(a, b, N);
        for (uint32_t i = 0; i < N; i += 31) sum = mix(sum, a[i].key + a[i].tag * 3ull + a[i].payload);
    }
    return report(sum);
}
