// SPDX-License-Identifier: Apache-2.0

// Answers a start on standard output as a daemon does, or says that Go has to. The
// socket is served until standard input is closed a second time: descriptor 3.

#include "../cabi.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct wasmshim_call call = wasmshim_parse_call(argc, argv);
    struct wasmshim_start start = {.result = dup(STDOUT_FILENO), .listener = -1};
    if (call.word == NULL || strcmp(call.word, "start") != 0 || !wasmshim_read_input(&start))
        return 2;
    wasmshim_answer_start(&call, "test", &start);
    if (start.listener < 0) {
        puts("left to Go");
        return 0;
    }
    char c;
    return read(3, &c, 1) == 0 ? 0 : 2;
}
