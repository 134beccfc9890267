// SPDX-License-Identifier: Apache-2.0

// A guest with a function for each way in which it may be initialised; it says what it
// was told then, and what it finds later.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static char before[64] = "nothing";
static struct timespec begun;

// Of wasi-libc: the directories are looked up again.
void __wasilibc_reset_preopens(void);

static int is_there(void) {
    FILE *f = fopen("/etc/motd", "r");
    if (f != NULL)
        fclose(f);
    return f != NULL;
}

__attribute__((export_name("prepare"))) void prepare(void) {
    snprintf(before, sizeof(before), "prepared");
    clock_gettime(CLOCK_MONOTONIC, &begun);
}

__attribute__((export_name("look"))) void look(void) {
    snprintf(before, sizeof(before), "file %d", is_there());
}

__attribute__((export_name("look_again"))) void look_again(void) {
    look();
    __wasilibc_reset_preopens();
}

__attribute__((export_name("ask"))) void ask(void) {
    const char *value = getenv("NAME");
    snprintf(before, sizeof(before), "variable %s", value != NULL ? value : "none");
}

__attribute__((export_name("speak"))) void speak(void) {
    snprintf(before, sizeof(before), "spoke");
    printf("to nobody\n");
}

int main(int argc, char **argv) {
    struct timespec now;
    const char *value = getenv("NAME");
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%s; file %d, variable %s, arguments %d (%s), back %d\n", before, is_there(), value != NULL ? value : "none",
           argc, argv[0], now.tv_sec < begun.tv_sec);
    return 0;
}
