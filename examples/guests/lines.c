// A guest that traps: its backtrace names these lines when it is compiled with debugging information.
#include <stdlib.h>

__attribute__((noinline)) static int divide(int number, int by) {
    return number / by;
}

__attribute__((noinline)) static int halve(const int *numbers, int count) {
    int sum = 0;
    for (int i = 0; i < count; i++)
        sum += divide(numbers[i], i - 3);
    return sum;
}

int main(int argc, char **argv) {
    int numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    (void)argv;
    // With an argument it goes as far as a division by zero.
    return halve(numbers, argc > 1 ? 8 : 3) == -4 ? EXIT_SUCCESS : EXIT_FAILURE;
}
