// Bytes, tables and shifts: base64 there and back.
#include "kernel.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static uint8_t value[256];

static size_t encode(const uint8_t *in, size_t n, uint8_t *out) {
    uint8_t *start = out;
    for (; n >= 3; n -= 3, in += 3) {
        uint32_t w = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        for (int shift = 18; shift >= 0; shift -= 6) *out++ = (uint8_t)alphabet[w >> shift & 63];
    }
    return (size_t)(out - start);
}

static size_t decode(const uint8_t *in, size_t n, uint8_t *out) {
    uint8_t *start = out;
    for (; n >= 4; n -= 4, in += 4) {
        uint32_t w = (uint32_t)value[in[0]] << 18 | (uint32_t)value[in[1]] << 12 | (uint32_t)value[in[2]] << 6 | value[in[3]];
        *out++ = (uint8_t)(w >> 16);
        *out++ = (uint8_t)(w >> 8);
        *out++ = (uint8_t)w;
    }
    return (size_t)(out - start);
}

int main(void) {
    enum { SIZE = 3 << 16 };
    static uint8_t data[SIZE], text[SIZE / 3 * 4], back[SIZE];
    for (int i = 0; i < 64; i++) value[(uint8_t)alphabet[i]] = (uint8_t)i;
    for (int i = 0; i < SIZE; i++) data[i] = (uint8_t)next_random();
    uint64_t sum = 0;
    for (int round = 0; round < 550; round++) {
        data[round] ^= (uint8_t)round;
        size_t n = decode(text, encode(data, SIZE, text), back);
        sum = mix(sum, text[round * 7] + n);
        if (memcmp(back, data, SIZE)) return puts("wrong"), 1;
    }
    return report(sum);
}
