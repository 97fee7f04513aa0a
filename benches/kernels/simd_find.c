// SIMD: searching for bytes with comparisons and bit masks, counting lines and changing case.
#include "kernel.h"
#include <wasm_simd128.h>

enum { SIZE = 1 << 18 };
static uint8_t text[SIZE + 16];

static const uint8_t *find(const uint8_t *p, const uint8_t *end, uint8_t byte) {
    v128_t wanted = wasm_i8x16_splat((int8_t)byte);
    for (; p < end; p += 16) {
        uint32_t mask = wasm_i8x16_bitmask(wasm_i8x16_eq(wasm_v128_load(p), wanted));
        if (mask) return p + __builtin_ctz(mask) < end ? p + __builtin_ctz(mask) : end;
    }
    return end;
}

static uint32_t count(uint8_t byte) {
    v128_t wanted = wasm_i8x16_splat((int8_t)byte);
    uint32_t n = 0;
    for (const uint8_t *p = text; p < text + SIZE; p += 16)
        n += (uint32_t)__builtin_popcount(wasm_i8x16_bitmask(wasm_i8x16_eq(wasm_v128_load(p), wanted)));
    return n;
}

// Toggles the case of letters from `a` on, in the manner of `tr a-z A-Z`.
static void flip(void) {
    v128_t first = wasm_i8x16_splat('a'), range = wasm_i8x16_splat(26), bit = wasm_i8x16_splat(0x20);
    for (uint8_t *p = text; p < text + SIZE; p += 16) {
        v128_t v = wasm_v128_load(p), lower = wasm_v128_or(v, bit);
        v128_t letter = wasm_u8x16_lt(wasm_i8x16_sub(lower, first), range);
        wasm_v128_store(p, wasm_v128_xor(v, wasm_v128_and(letter, bit)));
    }
}

int main(void) {
    for (int i = 0; i < SIZE; i++) text[i] = (uint8_t)(next_random() % 80 ? 32 + next_random() % 90 : '\n');
    uint64_t sum = 0;
    for (int round = 0; round < 5000; round++) {
        uint32_t lines = 0;
        const uint8_t *end = text + SIZE;
        for (const uint8_t *p = text; (p = find(p, end, '\n')) < end; p++) lines++;
        flip();
        sum = mix(sum, lines + count((uint8_t)(33 + round % 80)));
    }
    return report(mix_bytes(sum, text, SIZE));
}
