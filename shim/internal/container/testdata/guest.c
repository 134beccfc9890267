// SPDX-License-Identifier: Apache-2.0
// The program that the tests run in containers.
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void exit7(int sig) {
    (void)sig;
    _exit(7);
}

static int list_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    if (!d)
        return 1;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
            printf("%s\n", e->d_name);
    return closedir(d);
}

static int print_file(const char *path) {
    FILE *f = fopen(path, "r");
    int c;
    if (!f)
        return 1;
    while ((c = getc(f)) != EOF)
        putchar(c);
    return fclose(f);
}

// Takes memory until the kernel ends it.
static void eat(void) {
    enum { MIB = 1 << 20 };
    for (;;) {
        char *p = malloc(MIB);
        if (p)
            memset(p, 1, MIB);
    }
}

extern char **environ;

int main(int argc, char **argv) {
    const char *cmd = argc > 1 ? argv[1] : "";
    int n = argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(cmd, "exit"))
        return n;
    if (!strcmp(cmd, "sleep"))
        for (;;)
            pause();
    if (!strcmp(cmd, "term")) { // exits with 7 on SIGTERM
        signal(SIGTERM, exit7);
        puts("ready");
        fflush(stdout);
        for (;;)
            pause();
    }
    if (!strcmp(cmd, "fork")) { // leaves a sleeping child behind and exits
        if (fork() == 0)
            for (;;)
                pause();
        return n;
    }
    if (!strcmp(cmd, "eat"))
        eat();
    if (!strcmp(cmd, "eat-child")) { // stays when its child is killed
        if (fork() == 0)
            eat();
        for (;;)
            pause();
    }
    if (!strcmp(cmd, "fds"))
        return list_fds();
    if (!strcmp(cmd, "cat") && argc > 2)
        return print_file(argv[2]);
    if (!strcmp(cmd, "env")) {
        for (char **e = environ; *e; e++)
            puts(*e);
        return 0;
    }
    if (!strcmp(cmd, "write") && argc > 2) // may it be written?
        return fopen(argv[2], "r+") ? 0 : 1;
    return 99;
}
