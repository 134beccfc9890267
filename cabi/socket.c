// SPDX-License-Identifier: Apache-2.0

// Is there a socket of a dead daemon to remove? By the rule of
// shim/internal/bootstrap/socket.go, whose test compares the two.

#include "cabi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

// Says whether a process is gone, or a zombie.
static bool ended(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = poll(&p, 1, 0);
    close(fd);
    return n > 0;
}

// Says whether there is a socket that nobody serves: its daemon is dead, or was
// until a process that it had forked held the socket for a moment longer.
static bool is_unserved(const struct sockaddr_un *name) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    bool unserved = true;
    if (connect(fd, (const struct sockaddr *)name, sizeof(*name)) == 0) {
        struct ucred listener;
        socklen_t size = sizeof(listener);
        unserved = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &listener, &size) == 0 && ended(listener.pid);
    } else if (errno == EAGAIN || errno == ENOENT) { // a full queue; no file
        unserved = false;
    }
    close(fd);
    return unserved;
}

bool wasmshim_socket_is_left(const char *bundle) {
    static const char scheme[] = "unix://";
    char path[PATH_MAX];
    char address[sizeof(scheme) + sizeof(((struct sockaddr_un *)0)->sun_path)];
    int n = snprintf(path, sizeof(path), "%s/address", bundle);
    if (n < 0 || (size_t)n >= sizeof(path))
        return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno != ENOENT;
    ssize_t size = read(fd, address, sizeof(address) - 1);
    close(fd);
    size_t prefix = sizeof(scheme) - 1;
    if (size <= (ssize_t)prefix || memcmp(address, scheme, prefix) != 0)
        return true;
    address[size] = 0;

    struct sockaddr_un name = {.sun_family = AF_UNIX};
    n = snprintf(name.sun_path, sizeof(name.sun_path), "%s", address + prefix);
    return n < 0 || (size_t)n >= sizeof(name.sun_path) || is_unserved(&name);
}
