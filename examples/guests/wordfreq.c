/* Counts words: in the files and, recursively, the directories given as arguments ("-" is stdin).
 *
 *   wordfreq [-n COUNT] [-o FILE] PATH...
 *
 * A word is a run of ASCII letters and digits or of bytes above 127 (so that UTF-8 words stay whole); ASCII letters are
 * folded to lower case. Prints the COUNT (default 10, or $WORDFREQ_COUNT) most frequent words, ties in byte order, then totals.
 * Exit status: 0; 1 if something could not be read or written; 2 for wrong usage.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { WORD_MAX = 256, DEPTH_MAX = 32 };

struct entry {
    char *word;
    size_t count;
};

/* Open addressing with linear probing; `capacity` is a power of two and never more than half full. */
static struct entry *table;
static size_t capacity, distinct, words, bytes, files;
static int failures;

static void complain(const char *what, const char *path) {
    fprintf(stderr, "wordfreq: %s %s: %s\n", what, path, strerror(errno));
    failures++;
}

static void *must(void *memory) {
    if (!memory) {
        fputs("wordfreq: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static uint32_t hash(const char *word) {
    uint32_t h = 2166136261u;
    for (; *word; word++)
        h = (h ^ (unsigned char)*word) * 16777619u;
    return h;
}

static struct entry *slot(struct entry *entries, size_t size, const char *word) {
    size_t i = hash(word) & (size - 1);
    while (entries[i].word && strcmp(entries[i].word, word) != 0)
        i = (i + 1) & (size - 1);
    return &entries[i];
}

static void grow(void) {
    size_t size = capacity ? capacity * 2 : 1024;
    struct entry *larger = must(calloc(size, sizeof *larger));
    for (size_t i = 0; i < capacity; i++)
        if (table[i].word)
            *slot(larger, size, table[i].word) = table[i];
    free(table);
    table = larger;
    capacity = size;
}

static void count(const char *word) {
    if (distinct * 2 >= capacity)
        grow();
    struct entry *e = slot(table, capacity, word);
    if (!e->word) {
        e->word = must(strdup(word));
        distinct++;
    }
    e->count++;
    words++;
}

static void read_stream(FILE *in, const char *name) {
    char word[WORD_MAX + 1];
    size_t length = 0;
    int c;
    while ((c = getc(in)) != EOF) {
        bytes++;
        if (c > 127 || isalnum(c)) {
            if (length < WORD_MAX)
                word[length++] = (char)(c < 128 ? tolower(c) : c);
        } else if (length) {
            word[length] = 0;
            count(word);
            length = 0;
        }
    }
    if (length) {
        word[length] = 0;
        count(word);
    }
    if (ferror(in))
        complain("cannot read", name);
    files++;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_path(const char *path, int depth);

static void read_directory(const char *path, int depth) {
    DIR *directory = opendir(path);
    if (!directory) {
        complain("cannot open", path);
        return;
    }
    char **names = NULL;
    size_t n = 0;
    for (struct dirent *e; (e = readdir(directory));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        names = must(realloc(names, (n + 1) * sizeof *names));
        names[n++] = must(strdup(e->d_name));
    }
    closedir(directory);
    if (n)
        qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        char *child = must(malloc(strlen(path) + strlen(names[i]) + 2));
        sprintf(child, "%s/%s", path, names[i]);
        read_path(child, depth + 1);
        free(child);
        free(names[i]);
    }
    free(names);
}

static void read_path(const char *path, int depth) {
    if (strcmp(path, "-") == 0) {
        read_stream(stdin, "stdin");
        return;
    }
    struct stat s;
    if (stat(path, &s) != 0) {
        complain("cannot stat", path);
    } else if (S_ISDIR(s.st_mode)) {
        if (depth < DEPTH_MAX) {
            read_directory(path, depth);
        } else {
            errno = ELOOP;
            complain("too deep:", path);
        }
    } else {
        FILE *in = fopen(path, "rb");
        if (!in) {
            complain("cannot open", path);
            return;
        }
        read_stream(in, path);
        fclose(in);
    }
}

static int by_count(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->word, y->word);
}

static int usage(void) {
    fputs("usage: wordfreq [-n COUNT] [-o FILE] PATH...\n", stderr);
    return 2;
}

int main(int argc, char **argv) {
    const char *top = getenv("WORDFREQ_COUNT"), *output = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        if (strcmp(argv[i], "-n") == 0 && i + 1 < argc)
            top = argv[++i];
        else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc)
            output = argv[++i];
        else
            return usage();
    }
    char *end;
    unsigned long wanted = strtoul(top ? top : "10", &end, 10);
    if (i == argc || *end || (top && !isdigit((unsigned char)*top)))
        return usage();
    for (; i < argc; i++)
        read_path(argv[i], 0);

    /* Pack the used entries to the front, then sort them. */
    size_t used = 0;
    for (size_t k = 0; k < capacity; k++)
        if (table[k].word)
            table[used++] = table[k];
    if (used)
        qsort(table, used, sizeof *table, by_count);

    FILE *out = output ? fopen(output, "w") : stdout;
    if (!out) {
        complain("cannot create", output);
        return 1;
    }
    for (size_t k = 0; k < used && k < wanted; k++)
        fprintf(out, "%6zu %s\n", table[k].count, table[k].word);
    fprintf(out, "%zu words, %zu distinct, in %zu files of %zu bytes\n", words, distinct, files, bytes);
    if (fflush(out) != 0 || (out != stdout && fclose(out) != 0))
        complain("cannot write", output ? output : "stdout");
    return failures ? 1 : 0;
}
