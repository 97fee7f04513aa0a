// Integer arithmetic: greatest common divisors (division), Collatz walks (shifts, branches), powers modulo a prime (64-bit
// remainders), bit counting.
#include "kernel.h"

static uint32_t gcd(uint32_t a, uint32_t b) {
    while (b) {
        uint32_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static uint32_t collatz(uint64_t n) {
    uint32_t steps = 0;
    for (; n != 1; steps++) n = n & 1 ? 3 * n + 1 : n >> 1;
    return steps;
}

static uint64_t power(uint64_t base, uint32_t exponent, uint64_t modulus) {
    uint64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = result * base % modulus;
        base = base * base % modulus;
    }
    return result;
}

int main(void) {
    uint64_t sum = 0;
    for (uint32_t i = 1; i < 600000; i++) sum = mix(sum, gcd((uint32_t)next_random(), i));
    for (uint32_t i = 1; i < 400000; i++) sum += collatz(i);
    for (uint32_t i = 1; i < 150000; i++) sum ^= power(i, (uint32_t)next_random(), 4294967291u);
    for (uint32_t i = 0; i < 20000000; i++) {
        uint64_t x = i * 0x9e3779b97f4a7c15;
        sum += (uint64_t)(__builtin_popcountll(x) + __builtin_ctzll(x | 1ull << 63) * __builtin_clz(i | 1));
    }
    return report(sum);
}
