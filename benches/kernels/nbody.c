// Floating point with square roots and divisions: five bodies under gravity, symplectic Euler.
#include "kernel.h"
#include <math.h>

enum { BODIES = 5 };
typedef struct {
    double position[3], velocity[3], mass;
} Body;

static void step(Body *bodies, double dt) {
    for (int i = 0; i < BODIES; i++) {
        Body *a = &bodies[i];
        for (int j = i + 1; j < BODIES; j++) {
            Body *b = &bodies[j];
            double d[3], square = 0;
            for (int k = 0; k < 3; k++) {
                d[k] = a->position[k] - b->position[k];
                square += d[k] * d[k];
            }
            double pull = dt / (square * sqrt(square));
            for (int k = 0; k < 3; k++) {
                a->velocity[k] -= d[k] * b->mass * pull;
                b->velocity[k] += d[k] * a->mass * pull;
            }
        }
    }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) bodies[i].position[k] += dt * bodies[i].velocity[k];
}

int main(void) {
    Body bodies[BODIES];
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) {
            bodies[i].position[k] = (double)(next_random() % 4000) / 100 - 20;
            bodies[i].velocity[k] = (double)(next_random() % 400) / 100 - 2;
        }
        bodies[i].mass = i ? 0.01 * i : 40;
    }
    for (int i = 0; i < 4000000; i++) step(bodies, 0.001);
    uint64_t sum = 0;
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) sum = mix(sum, bits_of(bodies[i].position[k]));
    return report(sum);
}
