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

__attribute__((export_name("deep"))) void deep(void) {
    static volatile int n;
    deep();
    n++;
}

__attribute__((export_name("greedy"))) void greedy(void) {
    enum { PAGE = 64 << 10, PAGES = 256 };
    for (;;) {
        __SIZE_TYPE__ had = __builtin_wasm_memory_grow(0, PAGES);
        if (had == (__SIZE_TYPE__)-1)
            __builtin_trap();
        for (__SIZE_TYPE__ i = 0; i < PAGES * PAGE; i += 4096)
            ((volatile char *)(had * PAGE))[i] = 1;
    }
}

__attribute__((import_module("wasi_snapshot_preview1"), import_name("poll_oneoff"))) int
poll_oneoff(const void *subscriptions, void *events, int count, __SIZE_TYPE__ *happened);

__attribute__((export_name("asleep"))) void asleep(void) {
    struct {
        unsigned long long userdata;
        unsigned tag, pad, clock, pad2;
        unsigned long long timeout, precision;
        unsigned flags, pad3;
    } forever = {.clock = 1, .timeout = 1ULL << 60};
    char event[32];
    __SIZE_TYPE__ happened;
    poll_oneoff(&forever, event, 1, &happened);
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
