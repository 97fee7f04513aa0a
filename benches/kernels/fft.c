// Floating point with strides: an iterative radix-2 Fourier transform, forth and back.
#include "kernel.h"
#include <math.h>

enum { LOG = 15, N = 1 << LOG };
static double re[N], im[N], cosine[N / 2], sine[N / 2];

static void transform(double direction) {
    for (uint32_t i = 0, j = 0; i < N; i++) {
        if (i < j) {
            double t = re[i];
            re[i] = re[j];
            re[j] = t;
            t = im[i];
            im[i] = im[j];
            im[j] = t;
        }
        uint32_t bit = N >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j |= bit;
    }
    for (uint32_t half = 1; half < N; half *= 2)
        for (uint32_t start = 0; start < N; start += 2 * half)
            for (uint32_t k = 0; k < half; k++) {
                double wr = cosine[k * (N / 2 / half)], wi = direction * sine[k * (N / 2 / half)];
                double *ar = &re[start + k], *ai = &im[start + k], *br = ar + half, *bi = ai + half;
                double tr = *br * wr - *bi * wi, ti = *br * wi + *bi * wr;
                *br = *ar - tr;
                *bi = *ai - ti;
                *ar += tr;
                *ai += ti;
            }
}

int main(void) {
    // By the addition theorem, since a library's `cos` may be another one tomorrow.
    double c = 1, s = 0, dc = 0.99999999816164293, ds = 0.00019174759731070331;
    for (int i = 0; i < N; i++) {
        if (i < N / 2) {
            cosine[i] = c;
            sine[i] = s;
            double t = c * dc - s * ds;
            s = s * dc + c * ds;
            c = t;
        }
        re[i] = (double)(next_random() % 2000) / 1000 - 1;
    }
    for (int round = 0; round < 160; round++) {
        transform(-1);
        transform(1);
        for (int i = 0; i < N; i++) {
            re[i] /= N;
            im[i] /= N;
        }
    }
    uint64_t sum = 0;
    for (int i = 0; i < N; i++) sum = mix(sum, bits_of(re[i] + im[i]));
    return report(sum);
}
