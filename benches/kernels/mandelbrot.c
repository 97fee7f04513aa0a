// Floating point in registers: escape times of the Mandelbrot set.
#include "kernel.h"

static int escape(double cx, double cy, int limit) {
    double x = 0, y = 0;
    int n = 0;
    while (n < limit && x * x + y * y < 4) {
        double t = x * x - y * y + cx;
        y = 2 * x * y + cy;
        x = t;
        n++;
    }
    return n;
}

int main(void) {
    enum { SIZE = 480, LIMIT = 800 };
    uint64_t sum = 0;
    for (int row = 0; row < SIZE; row++)
        for (int column = 0; column < SIZE; column++)
            sum = mix(sum, (uint64_t)escape(column * 3.0 / SIZE - 2.1, row * 2.4 / SIZE - 1.2, LIMIT));
    return report(sum);
}
