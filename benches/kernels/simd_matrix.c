// SIMD: 4x4 matrices of floats, multiplied by each other and applied to vectors, with lane shuffles.
#include "kernel.h"
#include <wasm_simd128.h>

typedef struct {
    v128_t row[4];
} Matrix;

static v128_t combine(v128_t factors, const Matrix *m) {
    v128_t a = wasm_f32x4_mul(wasm_i32x4_shuffle(factors, factors, 0, 0, 0, 0), m->row[0]);
    v128_t b = wasm_f32x4_mul(wasm_i32x4_shuffle(factors, factors, 1, 1, 1, 1), m->row[1]);
    v128_t c = wasm_f32x4_mul(wasm_i32x4_shuffle(factors, factors, 2, 2, 2, 2), m->row[2]);
    v128_t d = wasm_f32x4_mul(wasm_i32x4_shuffle(factors, factors, 3, 3, 3, 3), m->row[3]);
    return wasm_f32x4_add(wasm_f32x4_add(a, b), wasm_f32x4_add(c, d));
}

static Matrix multiply(const Matrix *a, const Matrix *b) {
    Matrix product;
    for (int i = 0; i < 4; i++) product.row[i] = combine(a->row[i], b);
    return product;
}

static Matrix transpose(const Matrix *m) {
    v128_t a = wasm_i32x4_shuffle(m->row[0], m->row[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(m->row[0], m->row[1], 2, 6, 3, 7);
    v128_t c = wasm_i32x4_shuffle(m->row[2], m->row[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(m->row[2], m->row[3], 2, 6, 3, 7);
    return (Matrix){{wasm_i64x2_shuffle(a, c, 0, 2), wasm_i64x2_shuffle(a, c, 1, 3), wasm_i64x2_shuffle(b, d, 0, 2),
                     wasm_i64x2_shuffle(b, d, 1, 3)}};
}

int main(void) {
    enum { MATRICES = 64, POINTS = 1024 };
    static Matrix matrices[MATRICES];
    static v128_t points[POINTS];
    for (int i = 0; i < MATRICES; i++)
        for (int j = 0; j < 4; j++) {
            uint64_t r = next_random();
            // Rows that sum to at most one keep everything bounded.
            matrices[i].row[j] = wasm_f32x4_make((r & 63) / 256.f, (r >> 8 & 63) / 256.f, (r >> 16 & 63) / 256.f, (r >> 24 & 63) / 256.f);
        }
    for (int i = 0; i < POINTS; i++) points[i] = wasm_f32x4_splat((float)(next_random() & 4095));
    uint64_t sum = 0;
    for (int round = 0; round < 180000; round++) {
        Matrix m = multiply(&matrices[round % MATRICES], &matrices[round * 7 % MATRICES]);
        m = transpose(&m);
        for (int i = 0; i < POINTS; i++) points[i] = wasm_f32x4_add(combine(points[i], &m), wasm_f32x4_splat(1));
        sum = mix(sum, bits_of(wasm_f32x4_extract_lane(points[round % POINTS], 2)));
    }
    return report(sum);
}
