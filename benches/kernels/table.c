// A hash table with open addressing: insertions, look-ups, deletions by backward shift, growth.
#include "kernel.h"

typedef struct {
    uint64_t key, value;
} Slot;
static Slot *slots;
static uint32_t capacity, used;

static uint32_t home(uint64_t key) { return (uint32_t)(key * 0x9e3779b97f4a7c15 >> 32) & (capacity - 1); }

static Slot *find(uint64_t key) {
    uint32_t i = home(key);
    while (slots[i].key && slots[i].key != key) i = (i + 1) & (capacity - 1);
    return &slots[i];
}

static void insert(uint64_t key, uint64_t value) {
    if (used * 4 >= capacity * 3) {
        Slot *old = slots;
        uint32_t n = capacity;
        capacity = n ? 2 * n : 16;
        slots = calloc(capacity, sizeof *slots);
        if (!slots) exit(1);
        for (uint32_t i = 0; i < n; i++)
            if (old[i].key) *find(old[i].key) = old[i];
        free(old);
    }
    Slot *slot = find(key);
    used += !slot->key;
    slot->key = key;
    slot->value += value;
}

static void delete(uint64_t key) {
    Slot *slot = find(key);
    if (!slot->key) return;
    uint32_t hole = (uint32_t)(slot - slots);
    for (uint32_t i = (hole + 1) & (capacity - 1); slots[i].key; i = (i + 1) & (capacity - 1))
        if (((i - home(slots[i].key)) & (capacity - 1)) >= ((i - hole) & (capacity - 1))) {
            slots[hole] = slots[i];
            hole = i;
        }
    slots[hole] = (Slot){0};
    used--;
}

int main(void) {
    uint64_t sum = 0;
    insert(1, 1);
    for (int i = 0; i < 9000000; i++) {
        uint64_t r = next_random(), key = (r >> 8) % 60000 + 1;
        switch (r & 7) {
        case 0: delete(key); break;
        case 1: case 2: insert(key, r >> 40); break;
        default: sum = mix(sum, find(key)->value);
        }
    }
    return report(mix(sum, used));
}
