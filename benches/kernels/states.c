// Indirect calls: a scanner whose states are functions that return the next state's.
#include "kernel.h"

typedef struct Scanner Scanner;
typedef int (*State)(Scanner *, uint8_t);
struct Scanner {
    uint32_t words, numbers, strings, length, longest;
};

static int on_space(Scanner *, uint8_t), on_word(Scanner *, uint8_t), on_number(Scanner *, uint8_t),
    on_string(Scanner *, uint8_t), on_escape(Scanner *, uint8_t);
static const State states[] = {on_space, on_word, on_number, on_string, on_escape};

static int on_space(Scanner *s, uint8_t c) {
    s->length = 1;
    if (c == '"') return s->strings++, 3;
    if (c >= '0' && c <= '9') return s->numbers++, 2;
    if (c != ' ') return s->words++, 1;
    return 0;
}
static int leave(Scanner *s, uint8_t c) {
    if (s->length > s->longest) s->longest = s->length;
    return on_space(s, c);
}
static int on_word(Scanner *s, uint8_t c) { return c == ' ' || c == '"' ? leave(s, c) : (s->length++, 1); }
static int on_number(Scanner *s, uint8_t c) { return c >= '0' && c <= '9' ? (s->length++, 2) : leave(s, c); }
static int on_string(Scanner *s, uint8_t c) { return c == '"' ? leave(s, ' ') : c == '\\' ? 4 : (s->length++, 3); }
static int on_escape(Scanner *s, uint8_t c) { return s->length += c & 1, 3; }

int main(void) {
    enum { BYTES = 1 << 16 };
    static uint8_t text[BYTES];
    for (int i = 0; i < BYTES; i++) text[i] = (uint8_t)"etaoinshr dlu 0123456 \"\\ bcf ghj"[next_random() & 31];
    Scanner s = {0};
    int state = 0;
    uint64_t sum = 0;
    for (int round = 0; round < 900; round++) {
        for (int i = 0; i < BYTES; i++) state = states[state](&s, text[i]);
        sum = mix(sum, s.words + s.numbers * 3ull + s.strings * 7ull + s.longest);
    }
    return report(sum);
}
