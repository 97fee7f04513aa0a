/* The smallest useful program: a line on stdout, exit status 0. */
#include <stdio.h>

int main(void) {
    puts("hello from inside the sandbox");
    return 0;
}
