// SPDX-License-Identifier: Apache-2.0

// Makes the kernel's next move of a process into a cgroup cheap.
//
// Such a move takes a lock for writing (cgroup_threadgroup_rwsem) that is made
// for readers: the first writer waits for an RCU grace period, 10 to 40 ms, and
// those that follow within the next one do not. A container's create moves one.
// Moving this process to where it is already, in a thread of its own, starts
// the wait while Go starts and containerd connects. Best effort: without it
// create is only slower.

#include "cabi.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Finds the cgroup.procs file of a cgroup of this process.
static bool own_cgroup(char *path, size_t size) {
    char text[8192];
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    // Lines are "4:memory:/a/b", version 2's "0::/a/b"; where both are mounted,
    // the first in the list is version 1's.
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        strsep(&line, ":");
        char *controller = strsep(&line, ":");
        if (line == NULL || strncmp(controller, "name=", 5) == 0)
            continue;
        int len = snprintf(path, size, "/sys/fs/cgroup/%s%s/cgroup.procs", controller, line);
        if (len > 0 && (size_t)len < size && access(path, W_OK) == 0)
            return true;
    }
    return false;
}

static void *warm(void *unused) {
    (void)unused;
    char path[PATH_MAX];
    int fd;
    if (own_cgroup(path, sizeof(path)) && (fd = open(path, O_WRONLY | O_CLOEXEC)) >= 0) {
        ssize_t ignored = write(fd, "0", 1); // this process
        (void)ignored;
        close(fd);
    }
    return NULL;
}

void wasmshim_warm_cgroups(void) {
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 64 << 10);
    pthread_create(&thread, &attr, warm, NULL);
    pthread_attr_destroy(&attr);
}
