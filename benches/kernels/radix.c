// Sorting without comparisons: least significant digit first, eight bits at a time.
#include "kernel.h"

static void radix_sort(uint32_t *from, uint32_t *to, uint32_t n) {
    for (uint32_t shift = 0; shift < 32; shift += 8) {
        uint32_t start[257] = {0};
        for (uint32_t i = 0; i < n; i++) start[(from[i] >> shift & 255) + 1]++;
        for (uint32_t d = 0; d < 256; d++) start[d + 1] += start[d];
        for (uint32_t i = 0; i < n; i++) to[start[from[i] >> shift & 255]++] = from[i];
        uint32_t *t = from;
        from = to;
        to = t;
    }
}

int main(void) {
    enum { N = 1 << 18 };
    uint32_t *a = allocate(N * sizeof *a), *b = allocate(N * sizeof *b);
    uint64_t sum = 0;
    for (int round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < N; i++) a[i] = (uint32_t)next_random();
        radix_sort(a, b, N);
        for (uint32_t i = 0; i < N; i += 127) sum = mix(sum, a[i]);
    }
    return report(sum);
}
