// Hashing by table: CRC-32, one byte at a time and eight bytes at a time.
#include "kernel.h"

static uint32_t table[8][256];

static uint32_t simple(uint32_t crc, const uint8_t *p, size_t n) {
    for (crc = ~crc; n; n--) crc = table[0][(crc ^ *p++) & 255] ^ crc >> 8;
    return ~crc;
}

static uint32_t sliced(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    return simple(~crc, p, n);
}

int main(void) {
    enum { BYTES = 1 << 20 };
    static uint8_t data[BYTES];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
        table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (uint32_t i = 0; i < 256; i++) table[t][i] = table[0][table[t - 1][i] & 255] ^ table[t - 1][i] >> 8;
    for (int i = 0; i < BYTES; i++) data[i] = (uint8_t)next_random();
    uint32_t crc = 0;
    for (int round = 0; round < 60; round++) {
        crc = simple(crc, data, BYTES);
        for (int twice = 0; twice < 3; twice++) crc = sliced(crc, data + 1, BYTES - 3);
    }
    return report(crc);
}
