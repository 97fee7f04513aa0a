// Memory bandwidth: a = b + x * c over arrays larger than the caches.
#include "kernel.h"

enum { N = 1 << 20 };

int main(void) {
    double *a = allocate(N * sizeof *a), *b = allocate(N * sizeof *b), *c = allocate(N * sizeof *c);
    for (int i = 0; i < N; i++) {
        b[i] = (double)(next_random() % 1000);
        c[i] = (double)(next_random() % 1000);
    }
    for (int round = 0; round < 120; round++) {
        double factor = round * 0.01;
        for (int i = 0; i < N; i++) a[i] = b[i] + factor * c[i];
        double *t = a;
        a = b;
        b = t;
    }
    uint64_t sum = 0;
    for (int i = 0; i < N; i++) sum = mix(sum, bits_of(b[i]));
    return report(sum);
}
