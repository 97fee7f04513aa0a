// `memory.copy` and `memory.fill`: many short ones and some long ones, overlapping ones among them.
#include "kernel.h"

enum { SIZE = 1 << 20 };
static uint8_t a[SIZE], b[SIZE];

int main(void) {
    for (int i = 0; i < SIZE; i++) a[i] = (uint8_t)next_random();
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 16000000; i++) {
        uint32_t r = i * 2654435761u, length = 1 + (r >> 27) * (r >> 30), at = (r >> 4) & (SIZE / 2 - 1);
        if (i & 1) memcpy(b + at, a + (at ^ 4096), length);
        else memset(b + at, (int)i, length);
    }
    for (uint32_t i = 0; i < 2000; i++) {
        memcpy(a + (i & 63), b, SIZE / 2);
        memmove(a + i, a, SIZE - 2000);
        memset(b, (int)i, SIZE / 4);
        sum = mix(sum, a[i * 251]);
    }
    return report(mix(sum, b[SIZE / 3]));
}
