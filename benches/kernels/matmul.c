// Floating point from memory: products of dense matrices of doubles, in the order that is kind to caches.
#include "kernel.h"

enum { N = 256 };
static double a[N][N], b[N][N], c[N][N];

static void multiply(void) {
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            double factor = a[i][k];
            for (int j = 0; j < N; j++) c[i][j] += factor * b[k][j];
        }
}

int main(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(next_random() % 1000) / 1000;
            b[i][j] = (double)(next_random() % 1000) / 1000;
        }
    for (int round = 0; round < 24; round++) multiply();
    uint64_t sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) sum = mix(sum, bits_of(c[i][j]));
    return report(sum);
}
