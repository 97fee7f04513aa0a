// Compression: a byte-oriented LZ77 with a hash of four bytes, and its decompression.
#include "kernel.h"

enum { SIZE = 1 << 18, BITS = 13 };
static uint8_t text[SIZE + 8], packed[SIZE * 2], unpacked[SIZE + 16];
static uint32_t last[1 << BITS];

static uint32_t four(const uint8_t *p) {
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}

// A token is a byte of literal count, the literals, a byte of match length (less 4) and two bytes of distance.
static uint8_t *compress(const uint8_t *in, uint32_t n, uint8_t *out) {
    uint32_t i = 0, start = 0;
    memset(last, 0, sizeof last);
    while (i + 4 < n) {
        uint32_t hash = four(in + i) * 2654435761u >> (32 - BITS), candidate = last[hash], length = 0;
        last[hash] = i;
        if (candidate < i && i - candidate < 65536 && four(in + candidate) == four(in + i))
            for (length = 4; length < 259 && i + length < n && in[candidate + length] == in[i + length];) length++;
        if (length || i - start == 255) {
            *out++ = (uint8_t)(i - start);
            for (; start < i; start++) *out++ = in[start];
            uint32_t distance = length ? i - candidate : 0;
            *out++ = (uint8_t)(length ? length - 4 : 0);
            *out++ = (uint8_t)distance;
            *out++ = (uint8_t)(distance >> 8);
            i = start += length;
            if (length) continue;
        }
        i++;
    }
    *out++ = (uint8_t)(n - start);
    for (; start < n; start++) *out++ = in[start];
    return out;
}

static uint32_t decompress(const uint8_t *in, const uint8_t *end, uint8_t *out) {
    uint8_t *start = out;
    while (in < end) {
        for (uint32_t n = *in++; n; n--) *out++ = *in++;
        if (in >= end) break;
        uint32_t length = in[0] + 4u, distance = in[1] | (uint32_t)in[2] << 8;
        in += 3;
        if (!distance) continue;
        for (const uint8_t *from = out - distance; length; length--) *out++ = *from++;
    }
    return (uint32_t)(out - start);
}

int main(void) {
    for (uint32_t i = 0; i < SIZE;) {
        uint64_t r = next_random();
        uint32_t copy = (uint32_t)(r >> 8) % 40;
        if (i > 5000 && r & 3)
            for (uint32_t from = i - 64 - (uint32_t)(r >> 30) % 4900; copy && i < SIZE; copy--) text[i++] = text[from++];
        else text[i++] = (uint8_t)"abcdefghijklmnop"[r >> 60];
    }
    uint64_t sum = 0;
    for (int round = 0; round < 160; round++) {
        text[(uint32_t)round * 1237] ^= 1;
        const uint8_t *end = compress(text, SIZE, packed);
        uint32_t n = decompress(packed, end, unpacked);
        if (n != SIZE || memcmp(text, unpacked, SIZE)) return puts("wrong"), 1;
        sum = mix(sum, (uint64_t)(end - packed));
    }
    return report(sum);
}
