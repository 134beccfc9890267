// SPDX-License-Identifier: Apache-2.0
// A native program without a need: says hello, or with arguments sleeps.

#include <unistd.h>

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        if (write(1, "ready\n", 6) != 6)
            return 1;
        for (;;)
            pause();
    }
    return write(1, "hello\n", 6) == 6 ? 0 : 1;
}
