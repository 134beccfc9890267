// SPDX-License-Identifier: Apache-2.0

// Hides what its first arguments name, and says which of those behind "--" can
// be opened then. shim/internal/landlock/testdata/try does the same.

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../sandbox.h"

int main(int argc, char **argv) {
    struct wasmshim_stage stage = {0};
    char why[512];
    int i = 1;
    while (i < argc && strcmp(argv[i], "--") != 0)
        i++;
    stage.hidden.items = (const char **)argv + 1;
    stage.hidden.count = (size_t)i - 1;
    if (wasmshim_hide(&stage, why, sizeof(why)) < 0)
        printf("cannot hide: %s\n", why);
    for (i++; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY);
        printf("%s %s\n", argv[i], fd >= 0 ? "yes" : "no");
        close(fd);
    }
    return 0;
}
