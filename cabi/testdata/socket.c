// SPDX-License-Identifier: Apache-2.0

// Prints whether the bundle that is named has a socket to remove.

#include "../cabi.h"

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    puts(wasmshim_socket_is_left(argv[1]) ? "left" : "nothing left");
    return 0;
}
