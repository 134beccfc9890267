// SPDX-License-Identifier: Apache-2.0

#include <errno.h>
#include <unistd.h>

#include "cabi.h"

int wasmshim_write_all(int fd, const void *bytes, size_t size) {
    for (const char *p = bytes; size > 0;) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}
