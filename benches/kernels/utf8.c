// Bytes and branches: validation and decoding of UTF-8, by hand.
#include "kernel.h"

// The code point at `*p`, which is advanced; -1 if there is none.
static int32_t decode(const uint8_t **p, const uint8_t *end) {
    const uint8_t *s = *p;
    uint32_t c = *s++, more, least;
    if (c < 0x80) more = 0, least = 0;
    else if (c >> 5 == 6) more = 1, least = 0x80, c &= 31;
    else if (c >> 4 == 14) more = 2, least = 0x800, c &= 15;
    else if (c >> 3 == 30) more = 3, least = 0x10000, c &= 7;
    else return -1;
    if ((uint32_t)(end - s) < more) return -1;
    for (; more; more--, s++) {
        if (*s >> 6 != 2) return -1;
        c = c << 6 | (*s & 63);
    }
    if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return -1;
    *p = s;
    return (int32_t)c;
}

static uint8_t *encode(uint8_t *p, uint32_t c) {
    if (c < 0x80) return *p++ = (uint8_t)c, p;
    if (c < 0x800) *p++ = (uint8_t)(0xc0 | c >> 6);
    else {
        if (c < 0x10000) *p++ = (uint8_t)(0xe0 | c >> 12);
        else {
            *p++ = (uint8_t)(0xf0 | c >> 18);
            *p++ = (uint8_t)(0x80 | (c >> 12 & 63));
        }
        *p++ = (uint8_t)(0x80 | (c >> 6 & 63));
    }
    *p++ = (uint8_t)(0x80 | (c & 63));
    return p;
}

int main(void) {
    enum { POINTS = 1 << 17 };
    static uint8_t text[POINTS * 4];
    uint8_t *end = text;
    for (int i = 0; i < POINTS; i++) {
        uint64_t r = next_random();
        uint32_t c = (uint32_t)(r >> 16), kind = i / 64 % 8;
        c = kind < 5 ? 32 + c % 95 : kind < 6 ? 0xa0 + c % 0x700 : kind < 7 ? 0x3000 + c % 0x6000 : 0x1f300 + c % 0x400;
        end = encode(end, c);
    }
    uint64_t sum = 0;
    for (int round = 0; round < 1200; round++) {
        text[(uint32_t)round * 97] ^= 0x80;
        for (const uint8_t *p = text; p < end;) {
            int32_t c = decode(&p, end);
            if (c < 0) p++, sum += 0x1000003;
            else sum = sum * 3 + (uint32_t)c;
        }
    }
    return report(sum);
}
