// An interpreter: a register machine with a `switch`, running loops that call a function.
#include "kernel.h"

typedef enum { LOAD, MOVE, ADD, SUB, MUL, AND, XOR, SHR, GET, PUT, LESS, JUMP, JUMP_IF, CALL, RETURN, HALT } Op;
typedef struct {
    uint8_t op, a, b, c;
    int32_t immediate;
} Instruction;

static uint32_t memory[4096];

static uint32_t run(const Instruction *code) {
    uint32_t r[16] = {0}, returns[32], depth = 0;
    for (const Instruction *i = code;;) {
        const Instruction *at = i++;
        switch ((Op)at->op) {
        case LOAD: r[at->a & 15] = (uint32_t)at->immediate; break;
        case MOVE: r[at->a & 15] = r[at->b & 15]; break;
        case ADD: r[at->a & 15] = r[at->b & 15] + r[at->c & 15]; break;
        case SUB: r[at->a & 15] = r[at->b & 15] - r[at->c & 15]; break;
        case MUL: r[at->a & 15] = r[at->b & 15] * r[at->c & 15]; break;
        case AND: r[at->a & 15] = r[at->b & 15] & r[at->c & 15]; break;
        case XOR: r[at->a & 15] = r[at->b & 15] ^ r[at->c & 15]; break;
        case SHR: r[at->a & 15] = r[at->b & 15] >> (r[at->c & 15] & 31); break;
        case GET: r[at->a & 15] = memory[r[at->b & 15] & 4095]; break;
        case PUT: memory[r[at->b & 15] & 4095] = r[at->a & 15]; break;
        case LESS: r[at->a & 15] = r[at->b & 15] < r[at->c & 15]; break;
        case JUMP: i = code + at->immediate; break;
        case JUMP_IF: if (r[at->a & 15]) i = code + at->immediate; break;
        case CALL: returns[depth++ & 31] = (uint32_t)(i - code); i = code + at->immediate; break;
        case RETURN: i = code + returns[--depth & 31]; break;
        case HALT: return r[0];
        }
    }
}

int main(void) {
    static const Instruction code[] = {
        {LOAD, 1, 0, 0, 0}, {LOAD, 2, 0, 0, 9000000}, {LOAD, 3, 0, 0, 1}, {LOAD, 4, 0, 0, 1664525}, {LOAD, 5, 0, 0, 11},
        {CALL, 0, 0, 0, 10},                                                        // 5: loop
        {ADD, 1, 1, 3, 0}, {LESS, 6, 1, 2, 0}, {JUMP_IF, 6, 0, 0, 5}, {HALT, 0, 0, 0, 0},
        {MUL, 7, 1, 4, 0}, {SHR, 8, 7, 5, 0}, {GET, 9, 8, 0, 0}, {AND, 10, 7, 3, 0}, // 10: function
        {JUMP_IF, 10, 0, 0, 17}, {XOR, 9, 9, 7, 0}, {JUMP, 0, 0, 0, 18}, {SUB, 9, 7, 9, 0},
        {PUT, 9, 8, 0, 0}, {MOVE, 11, 9, 0, 0}, {ADD, 0, 0, 11, 0}, {RETURN, 0, 0, 0, 0}};
    uint32_t result = run(code);
    return report(mix(result, memory[77]));
}
