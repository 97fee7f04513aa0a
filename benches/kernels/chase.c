// Memory latency: a walk along one random cycle through 16 MiB.
#include "kernel.h"

enum { NODES = 1 << 18, STRIDE = 16 };

int main(void) {
    uint32_t *order = allocate(NODES * sizeof *order), *cells = allocate(NODES * STRIDE * sizeof *cells);
    for (uint32_t i = 0; i < NODES; i++) order[i] = i;
    for (uint32_t i = NODES - 1; i; i--) {
        uint32_t j = (uint32_t)(next_random() % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < NODES; i++) cells[order[i] * STRIDE] = order[(i + 1) % NODES];
    uint64_t sum = 0;
    uint32_t at = 0;
    for (int i = 0; i < 1500000; i++) {
        at = cells[at * STRIDE];
        sum += at;
    }
    return report(mix(sum, at));
}
