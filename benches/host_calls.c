// Times one kind of host call: host_calls KIND ROUNDS. `host_calls copy 0` copies its input to its output instead. Prints nanoseconds per call, the median of 9 batches, on stderr. The kinds that
// a native program can have too (read, write) are compiled for the host as well.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 9
static char buffer[1 << 16];
static int file = -1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s failed\n", what);
        exit(1);
    }
}

static void read_4k(long i) { check(pread(file, buffer, 4096, (i % 256) * 4096) == 4096, "pread"); }
static void write_4k(long i) { check(pwrite(file, buffer, 4096, (i % 256) * 4096) == 4096, "pwrite"); }
static void read_64k(long i) { check(pread(file, buffer, 65536, (i % 16) * 65536) == 65536, "pread"); }
static void write_64k(long i) { check(pwrite(file, buffer, 65536, (i % 16) * 65536) == 65536, "pwrite"); }

#ifdef __wasm__
#include <wasi/api.h>
static __wasi_fdstat_t stat_of;
static __wasi_filestat_t found;
static __wasi_filesize_t position;
static __wasi_timestamp_t stamp;
static __wasi_size_t sizes[2];
static __wasi_ciovec_t text = {(const uint8_t *)"sixteen letters\n", 16};

static void yield(long i) { (void)i; check(!__wasi_sched_yield(), "sched_yield"); }
static void clock_(long i) { (void)i; check(!__wasi_clock_time_get(1, 1, &stamp), "clock_time_get"); }
static void random_(long i) { (void)i; check(!__wasi_random_get((uint8_t *)buffer, 16), "random_get"); }
static void args(long i) { (void)i; check(!__wasi_args_sizes_get(&sizes[0], &sizes[1]), "args_sizes_get"); }
static void fdstat(long i) { (void)i; check(!__wasi_fd_fdstat_get(file, &stat_of), "fd_fdstat_get"); }
static void seek(long i) { check(!__wasi_fd_seek(file, i % 4096, 0, &position), "fd_seek"); }
static void tell(long i) { (void)i; check(!__wasi_fd_tell(file, &position), "fd_tell"); }
static void print(long i) { (void)i; check(!__wasi_fd_write(1, &text, 1, &sizes[0]), "fd_write"); }
static void filestat(long i) { (void)i; check(!__wasi_fd_filestat_get(file, &found), "fd_filestat_get"); }
static void path_filestat(long i) {
    (void)i;
    check(!__wasi_path_filestat_get(3, 0, "data", &found), "path_filestat_get");
}
static void open_close(long i) {
    (void)i;
    int fd = open("data", O_RDONLY);
    check(fd >= 0 && !close(fd), "open and close");
}
#endif

static const struct {
    const char *name;
    void (*call)(long);
} kinds[] = {
    {"read-4k", read_4k}, {"write-4k", write_4k}, {"read-64k", read_64k}, {"write-64k", write_64k},
#ifdef __wasm__
    {"sched_yield", yield}, {"clock_time_get", clock_}, {"random_get-16", random_}, {"args_sizes_get", args},
    {"fd_fdstat_get", fdstat}, {"fd_seek", seek}, {"fd_tell", tell}, {"fd_write-stdout-16", print},
    {"fd_filestat_get", filestat}, {"path_filestat_get", path_filestat}, {"open-close", open_close},
#endif
};

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    check(argc == 3, "host_calls KIND ROUNDS");
    if (!strcmp(argv[1], "copy")) {
        for (ssize_t got; (got = read(0, buffer, sizeof buffer)) > 0;) check(write(1, buffer, got) == got, "write");
        return 0;
    }
    long rounds = atol(argv[2]);
    file = open("data", O_RDWR | O_CREAT, 0644);
    check(file >= 0, "open");
    for (int i = 0; i < 16; i++) write_64k(i);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (strcmp(kinds[k].name, argv[1])) continue;
        double times[BATCHES];
        for (int b = -1; b < BATCHES; b++) {
            double start = now();
            for (long i = 0; i < rounds; i++) kinds[k].call(i);
            if (b >= 0) times[b] = (now() - start) / rounds;
        }
        qsort(times, BATCHES, sizeof *times, ascending);
        fprintf(stderr, "%.1f\n", times[BATCHES / 2]);
        return 0;
    }
    check(0, "unknown kind");
}
