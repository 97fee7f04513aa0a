// Sorting with a comparison through a pointer, and with one in line: quicksort with a median of three.
#include "kernel.h"

typedef int (*Compare)(const void *, const void *);

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static inline void swap(uint32_t *a, uint32_t *b) {
    uint32_t t = *a;
    *a = *b;
    *b = t;
}

#define QUICKSORT(NAME, PARAMETER, LESS, ...)                                       \
    static void NAME(uint32_t *v, int n PARAMETER) {                                \
        while (n > 12) {                                                            \
            uint32_t *a = v, *b = v + n / 2, *c = v + n - 1;                        \
            if (LESS(b, a)) swap(a, b);                                             \
            if (LESS(c, b)) swap(b, c);                                             \
            if (LESS(b, a)) swap(a, b);                                             \
            uint32_t pivot = *b;                                                    \
            int i = 0, j = n - 1;                                                   \
            for (;;) {                                                              \
                while (LESS((&v[i]), (&pivot))) i++;                                \
                while (LESS((&pivot), (&v[j]))) j--;                                \
                if (i >= j) break;                                                  \
                swap(&v[i++], &v[j--]);                                             \
            }                                                                       \
            NAME(v, i __VA_ARGS__);                                                 \
            v += i;                                                                 \
            n -= i;                                                                 \
        }                                                                           \
        for (int i = 1; i < n; i++)                                                 \
            for (int j = i; j && LESS((&v[j]), (&v[j - 1])); j--) swap(&v[j], &v[j - 1]); \
    }
#define COMMA ,
#define CALLED(a, b) (compare(a, b) < 0)
#define INLINE(a, b) (*(a) < *(b))
QUICKSORT(sort_called, COMMA Compare compare, CALLED, COMMA compare)
QUICKSORT(sort_inline, , INLINE, )

int main(void) {
    enum { N = 200000 };
    static uint32_t v[N];
    volatile Compare compare = by_value;
    uint64_t sum = 0;
    for (int round = 0; round < 16; round++) {
        for (int i = 0; i < N; i++) v[i] = (uint32_t)next_random() >> (round & 15);
        if (round & 1) sort_called(v, N, compare);
        else sort_inline(v, N);
        for (int i = 0; i < N; i += 97) sum = mix(sum, v[i]);
    }
    return report(sum);
}
