// Memory-bound with byte stores: the sieve of Eratosthenes.
#include "kernel.h"

enum { LIMIT = 5000000 };
static uint8_t composite[LIMIT];

int main(void) {
    uint64_t sum = 0;
    for (int round = 0; round < 12; round++) {
        memset(composite, 0, sizeof composite);
        for (uint32_t i = 2; i < LIMIT; i++) {
            if (composite[i]) continue;
            sum = sum + i + (uint32_t)round;
            for (uint64_t j = (uint64_t)i * i; j < LIMIT; j += i) composite[j] = 1;
        }
    }
    return report(sum);
}
