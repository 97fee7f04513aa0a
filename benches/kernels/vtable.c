// Indirect calls: shapes behind tables of methods, visited in random order.
#include "kernel.h"

typedef struct Shape Shape;
typedef struct {
    uint32_t (*area)(const Shape *);
    void (*grow)(Shape *, uint32_t);
} Methods;
struct Shape {
    const Methods *methods;
    uint32_t width, height;
};

static uint32_t square_area(const Shape *s) { return s->width * s->width; }
static uint32_t box_area(const Shape *s) { return s->width * s->height; }
static uint32_t triangle_area(const Shape *s) { return s->width * s->height / 2; }
static uint32_t ring_area(const Shape *s) { return 3 * (s->width * s->width - s->height * s->height); }
static void grow_both(Shape *s, uint32_t by) {
    s->width = (s->width + by) & 1023;
    s->height = (s->height + by) & 1023;
}
static void grow_wide(Shape *s, uint32_t by) { s->width = (s->width + 2 * by) & 1023; }
static void grow_high(Shape *s, uint32_t by) { s->height = (s->height + 2 * by) & 1023; }

static const Methods methods[4] = {
    {square_area, grow_wide}, {box_area, grow_both}, {triangle_area, grow_high}, {ring_area, grow_both}};

int main(void) {
    enum { SHAPES = 1000 };
    static Shape shapes[SHAPES];
    for (int i = 0; i < SHAPES; i++) {
        uint64_t r = next_random();
        // Runs of one kind, so that the processor's prediction of targets is not all that is measured.
        shapes[i] = (Shape){&methods[(i / 50 + (r & 15 ? 0 : 1)) % 4], (uint32_t)(r >> 20) & 1023, (uint32_t)(r >> 40) & 1023};
    }
    uint64_t sum = 0;
    for (int round = 0; round < 80000; round++) {
        for (int i = 0; i < SHAPES; i++) {
            Shape *s = &shapes[i];
            sum += s->methods->area(s);
            if (!(i & 3)) s->methods->grow(s, (uint32_t)round);
        }
    }
    return report(sum);
}
