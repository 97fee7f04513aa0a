// Deep calls: Ackermann's function, Takeuchi's function and Hanoi, each with more parameters than the last.
#include "kernel.h"

__attribute__((noinline)) static uint32_t ackermann(uint32_t m, uint32_t n) {
    if (!m) return n + 1;
    return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

__attribute__((noinline)) static int tak(int x, int y, int z) {
    if (y >= x) return z;
    return tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y));
}

__attribute__((noinline)) static uint64_t hanoi(int n, int from, int to, int over, uint64_t seed) {
    if (!n) return seed;
    seed = hanoi(n - 1, from, over, to, seed);
    seed = mix(seed, (uint64_t)(n * 9 + from * 3 + to));
    return hanoi(n - 1, over, to, from, seed);
}

int main(void) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 200; i++) sum += ackermann(2, 400 + i) + ackermann(3, 5);
    for (int i = 0; i < 80; i++) sum = mix(sum, (uint64_t)tak(18 + i % 3, 12, 6));
    return report(hanoi(24, 0, 1, 2, sum));
}
