// SIMD: a 3x3 blur of a grey image, with widening to 16 bits, shifts and saturated narrowing.
#include "kernel.h"
#include <wasm_simd128.h>

enum { WIDTH = 1024, HEIGHT = 512, PITCH = WIDTH + 32 };
static uint8_t images[2][(HEIGHT + 2) * PITCH];

// 1 2 1 of three rows or columns of eight pixels.
static v128_t weigh(v128_t a, v128_t b, v128_t c) {
    return wasm_i16x8_add(wasm_i16x8_add(a, c), wasm_i16x8_shl(b, 1));
}

static v128_t column(const uint8_t *p) {
    return weigh(wasm_u16x8_load8x8(p - PITCH), wasm_u16x8_load8x8(p), wasm_u16x8_load8x8(p + PITCH));
}

static void blur(const uint8_t *from, uint8_t *to) {
    v128_t half = wasm_i16x8_splat(8);
    for (int row = 0; row < HEIGHT; row++) {
        const uint8_t *in = from + (row + 1) * PITCH + 16;
        uint8_t *out = to + (row + 1) * PITCH + 16;
        for (int i = 0; i < WIDTH; i += 16) {
            v128_t low = weigh(column(in + i - 1), column(in + i), column(in + i + 1));
            v128_t high = weigh(column(in + i + 7), column(in + i + 8), column(in + i + 9));
            low = wasm_u16x8_shr(wasm_i16x8_add(low, half), 4);
            high = wasm_u16x8_shr(wasm_i16x8_add(high, half), 4);
            wasm_v128_store(out + i, wasm_u8x16_narrow_i16x8(low, high));
        }
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof images[0]; i++) images[0][i] = (uint8_t)(next_random() >> 30);
    for (int round = 0; round < 2000; round++) {
        blur(images[round & 1], images[~round & 1]);
        images[~round & 1][PITCH * (round & 255) + 16 + (round & 1023)] ^= 0xff;
    }
    return report(mix_bytes(0, images[0], sizeof images[0]));
}
