// An interpreter of single characters: nested loops that count, with the jumps worked out before.
#include "kernel.h"

enum { CELLS = 30000, LENGTH = 4096 };

static uint64_t run(const char *program, uint64_t sum) {
    static uint8_t cells[CELLS];
    static uint16_t other[LENGTH], open[256];
    int depth = 0;
    memset(cells, 0, sizeof cells);
    for (int i = 0; program[i]; i++) {
        if (program[i] == '[') open[depth++] = (uint16_t)i;
        if (program[i] == ']') {
            other[i] = open[--depth];
            other[open[depth]] = (uint16_t)i;
        }
    }
    uint64_t steps = 0;
    uint32_t at = 0;
    for (int i = 0; program[i]; i++, steps++) {
        switch (program[i]) {
        case '+': cells[at]++; break;
        case '-': cells[at]--; break;
        case '>': at = at + 1 == CELLS ? 0 : at + 1; break;
        case '<': at = at ? at - 1 : CELLS - 1; break;
        case '.': sum = mix(sum, cells[at]); break;
        case '[': if (!cells[at]) i = other[i]; break;
        case ']': if (cells[at]) i = other[i]; break;
        }
    }
    return mix(sum, steps);
}

int main(void) {
    // For each of 250 values: multiplies by repeated addition, copies there and back, prints.
    static const char program[] =
        "++++++++++[>+++++++++++++++++++++++++<-]>[>++++++++++++[>+++++++++[>+++++++>++<<-]"
        ">[>+>+<<-]>>[<<+>>-]<[>>+<<-]>>[<<<+>>>-]<<<<<-]>>.[-]>[-]<<<<<"
        "+++[>>>>>>>[-]<<<<<<<>>>>>>>>+++++++++++++[<+++++++++++>-]<[>>+>+<<<-]>>>[<<<+>>>-]<<.>[-]<<[-]<<<<<<<-]>-]";
    uint64_t sum = 0;
    for (int round = 0; round < 8; round++) sum = run(program, sum);
    return report(sum);
}
