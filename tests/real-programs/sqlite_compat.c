/* The two functions that SQLite's shell expects of a POSIX libc and that wasi-libc does not have. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* There is no process-wide notion of the current directory to resolve against: a path is already its own name. */
char *realpath(const char *restrict path, char *restrict resolved) {
    size_t bytes = strlen(path) + 1;
    if (bytes > PATH_MAX) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    if (!resolved && !(resolved = malloc(bytes)))
        return NULL;
    return memcpy(resolved, path, bytes);
}

/* WASI has no permission bits. */
int chmod(const char *path, mode_t mode) {
    (void)path;
    (void)mode;
    return 0;
}
