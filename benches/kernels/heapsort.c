// Sorting with unpredictable strides: heapsort of doubles.
#include "kernel.h"

static void sift(double *v, uint32_t root, uint32_t n) {
    double x = v[root];
    for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && v[child] < v[child + 1]) child++;
        if (x >= v[child]) break;
        v[root] = v[child];
    }
    v[root] = x;
}

static void heap_sort(double *v, uint32_t n) {
    for (uint32_t i = n / 2; i--;) sift(v, i, n);
    while (n > 1) {
        double t = v[--n];
        v[n] = v[0];
        v[0] = t;
        sift(v, 0, n);
    }
}

int main(void) {
    enum { N = 100000 };
    static double v[N];
    uint64_t sum = 0;
    for (int round = 0; round < 15; round++) {
        for (int i = 0; i < N; i++) v[i] = (double)(int64_t)next_random() / 1e6;
        heap_sort(v, N);
        for (int i = 0; i < N; i += 61) sum = mix(sum, bits_of(v[i]));
    }
    return report(sum);
}
