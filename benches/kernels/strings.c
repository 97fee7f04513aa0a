// Strings: the C library's search, comparison, tokens and number conversion.
#include "kernel.h"

enum { LENGTH = 1 << 17 };
static char text[LENGTH + 1], copy[LENGTH + 1];

int main(void) {
    static const char *syllables[] = {"ka", "lo", "mi", "ne", "ru", "sta", "vi", "tor", "qu", "ex", "an", "den"};
    size_t at = 0;
    while (at + 32 < LENGTH) {
        for (uint64_t n = 1 + next_random() % 4; n; n--) {
            const char *s = syllables[next_random() % 12];
            memcpy(text + at, s, strlen(s));
            at += strlen(s);
        }
        text[at++] = next_random() % 9 ? ' ' : '\n';
    }
    uint64_t sum = 0;
    for (int round = 0; round < 120; round++) {
        const char *needles[] = {"tormina", "quexan", "stavilo", "denden", "zebra"};
        for (int n = 0; n < 5; n++)
            for (const char *p = text; (p = strstr(p, needles[n])); p++) sum = mix(sum, (uint64_t)(p - text));
        strcpy(copy, text);
        const char *before = "";
        for (char *token = strtok(copy, " \n"); token; token = strtok(NULL, " \n")) {
            sum += strlen(token) + (uint64_t)(strcmp(before, token) < 0) + (strchr(token, 'q') ? 5 : 0);
            before = token;
        }
        for (int i = 0; i < 4000; i++) {
            char number[24];
            snprintf(number, sizeof number, "%d:%x", i * round, i);
            sum += strtoul(number, NULL, 10);
        }
    }
    return report(sum);
}
