// Hashing by multiplication: four lanes of 64-bit multiply and rotate over blocks, in the manner of xxHash.
#include "kernel.h"

static uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

static uint64_t word(const uint8_t *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

static const uint64_t P = 0x9e3779b185ebca87, Q = 0xc2b2ae3d27d4eb4f, R = 0x165667b19e3779f9;

static uint64_t hash(const uint8_t *p, size_t n, uint64_t seed) {
    uint64_t lane[4] = {seed + P + Q, seed + Q, seed, seed - P};
    uint64_t total = n;
    for (; n >= 32; n -= 32, p += 32)
        for (int i = 0; i < 4; i++) lane[i] = rotate(lane[i] + word(p + 8 * i) * Q, 31) * P;
    uint64_t h = rotate(lane[0], 1) + rotate(lane[1], 7) + rotate(lane[2], 12) + rotate(lane[3], 18) + total;
    for (; n >= 8; n -= 8, p += 8) h = rotate(h ^ rotate(word(p) * Q, 31) * P, 27) * P + R;
    for (; n; n--) h = rotate(h ^ *p++ * R, 11) * P;
    h = (h ^ h >> 33) * Q;
    return h ^ h >> 29;
}

int main(void) {
    enum { BYTES = 1 << 16 };
    static uint8_t data[BYTES];
    for (int i = 0; i < BYTES; i++) data[i] = (uint8_t)next_random();
    uint64_t h = 1;
    for (int round = 0; round < 40000; round++) h = hash(data + (h & 7), BYTES - 8 - (round & 63), h);
    for (uint32_t i = 0; i < 12000000; i++) h = hash(data + (i & 0xfff), i & 31, h);
    return report(h);
}
