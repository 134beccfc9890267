// SPDX-License-Identifier: Apache-2.0

// A guest that makes a table before it needs it, if it is initialised by prepare, and
// says how many primes are in it.

typedef struct {
    const char *bytes;
    __SIZE_TYPE__ size;
} piece;

__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write"))) int
fd_write(int fd, const piece *pieces, __SIZE_TYPE__ count, __SIZE_TYPE__ *written);

enum { LIMIT = 4000000 };

static char signs[] = "+-"; // that memory is not empty to begin with

static char composite[LIMIT];
static int prepared;

__attribute__((export_name("prepare"))) void prepare(void) {
    for (int n = 2; n * n < LIMIT; n++)
        for (int m = n * n; !composite[n] && m < LIMIT; m += n)
            composite[m] = 1;
    prepared = 1;
}

__attribute__((export_name("forever"))) void forever(void) {
    for (volatile int n = 0;; n++)
        ;
}

__attribute__((export_name("_start"))) void start(void) {
    if (!prepared)
        prepare();
    char digits[2];
    digits[0] = signs[(int)composite[3999972]];
    digits[1] = signs[(int)composite[3999971]]; // a prime
    __SIZE_TYPE__ written;
    piece p = {digits, sizeof(digits)};
    fd_write(1, &p, 1, &written);
}
