// What every kernel in C shares: a generator of reproducible data, a hash of results, and the line that it prints.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 0x9e3779b97f4a7c15;

// xorshift64*: the same numbers on every machine.
static inline uint64_t next_random(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1d;
}

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x100000001b3;
    return hash ^ hash >> 29;
}

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t length) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < length; i++) hash = mix(hash, p[i]);
    return hash;
}

static inline void *allocate(size_t bytes) {
    void *block = malloc(bytes);
    if (!block) {
        puts("out of memory");
        exit(1);
    }
    return block;
}

static inline int report(uint64_t checksum) {
    printf("%016llx\n", (unsigned long long)checksum);
    return 0;
}
