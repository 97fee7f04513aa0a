// SIMD: dot products of floats, and of 16-bit integers with widening.
#include "kernel.h"
#include <wasm_simd128.h>

enum { N = 4096 };
static float x[N], y[N];
static int16_t u[N], v[N];

static float dot(const float *a, const float *b) {
    v128_t sum[4] = {0};
    for (int i = 0; i < N; i += 16)
        for (int k = 0; k < 4; k++)
            sum[k] = wasm_f32x4_add(sum[k], wasm_f32x4_mul(wasm_v128_load(a + i + 4 * k), wasm_v128_load(b + i + 4 * k)));
    v128_t s = wasm_f32x4_add(wasm_f32x4_add(sum[0], sum[1]), wasm_f32x4_add(sum[2], sum[3]));
    return wasm_f32x4_extract_lane(s, 0) + wasm_f32x4_extract_lane(s, 1) + wasm_f32x4_extract_lane(s, 2) +
           wasm_f32x4_extract_lane(s, 3);
}

static int32_t dot16(const int16_t *a, const int16_t *b) {
    v128_t sum = {0};
    for (int i = 0; i < N; i += 8) sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_v128_load(a + i), wasm_v128_load(b + i)));
    return wasm_i32x4_extract_lane(sum, 0) + wasm_i32x4_extract_lane(sum, 1) + wasm_i32x4_extract_lane(sum, 2) +
           wasm_i32x4_extract_lane(sum, 3);
}

int main(void) {
    for (int i = 0; i < N; i++) {
        uint64_t r = next_random();
        x[i] = (float)(r & 255) / 16;
        y[i] = (float)(r >> 8 & 255) / 16;
        u[i] = (int16_t)(r >> 16 & 1023);
        v[i] = (int16_t)(r >> 32 & 1023);
    }
    uint64_t sum = 0;
    for (int round = 0; round < 500000; round++) {
        x[round & (N - 1)] += 0.0625f;
        u[round & (N - 1)] ^= 1;
        sum = mix(sum, bits_of(dot(x, y))) + (uint32_t)dot16(u, v);
    }
    return report(sum);
}
