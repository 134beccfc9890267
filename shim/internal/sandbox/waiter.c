// SPDX-License-Identifier: Apache-2.0

// The waiting process: what a pod without a pause container has in its place. It
// holds the pod's namespaces for whoever looks for them in /proc/PID/ns, and there
// is nothing in it: no Go, no capability, no file system, no system call but those
// with which it waits and ends.
//
// It is this same binary, which becomes the waiting process in a constructor: before
// main, before Go, and before what an engine's own constructors would touch.

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// The daemon's end of the socket is what this process lives by: it says what to do,
// is told what came of it, and closes with the daemon.
enum { DAEMON = 3 };

// An answer: what it is, and a text.
enum { STARTED = 'p', READY = 'r', MAP_USERS = 'u', FAILED = '!' };

static void answer(char kind, const char *text) {
    char message[512];
    int n = snprintf(message, sizeof(message), "%c%s", kind, text);
    if (n >= (int)sizeof(message))
        n = sizeof(message) - 1;
    if (send(DAEMON, message, (size_t)n, MSG_NOSIGNAL) < 0)
        _exit(1); // the daemon has ended
}

// Says what could not be done, of what, and why.
static _Noreturn void fail(const char *what, const char *of) {
    char text[480];
    snprintf(text, sizeof(text), "%s%s%s: %s", what, *of ? " " : "", of, strerror(errno));
    answer(FAILED, text);
    _exit(1);
}

// exit_group is not among what the strict mode of seccomp leaves; there is one thread.
static void end(int sig) {
    syscall(SYS_exit, sig == 0 ? 0 : 128 + sig);
}

// Closes all but the socket, also what whoever started containerd has left open.
static void close_others(void) {
    for (int fd = 0; fd < DAEMON; fd++)
        close(fd);
    if (syscall(SYS_close_range, DAEMON + 1, ~0U, 0) == 0)
        return;
    for (int fd = DAEMON + 1; fd < 1024; fd++) // before Linux 5.9
        close(fd);
}

static int open_namespace(const char *path) {
    if (*path == 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail("open namespace", path);
    return fd;
}

static void enter(int fd, int type, const char *path) {
    if (fd < 0)
        return;
    if (setns(fd, type) < 0)
        fail("join namespace", path);
    close(fd);
}

// An empty root, in a namespace of mounts that belongs to the host's users: whoever
// shares the pod's processes finds nothing behind /proc/PID/root, and cannot enter.
static void leave_files(const char *dir) {
    if (unshare(CLONE_NEWNS) < 0)
        fail("make a namespace of mounts", "");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        fail("make mounts private", "");
    if (mount("none", dir, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=555,size=4k,nr_inodes=2") < 0)
        fail("mount an empty root at", dir);
    if (chdir(dir) < 0)
        fail("enter", dir);
    // As libcontainer does where there is no root to pivot from, on a machine that runs
    // from its initial RAM disk.
    if (syscall(SYS_pivot_root, ".", ".") == 0) {
        if (umount2(".", MNT_DETACH) < 0)
            fail("leave the host's files", "");
    } else if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) {
        fail("change the root to", dir);
    }
    if (chdir("/") < 0)
        fail("enter the empty root", "");
}

// A new namespace of users has no mappings until the daemon, which may, has written
// them.
static void new_users(void) {
    char go;
    if (unshare(CLONE_NEWUSER) < 0)
        fail("make a namespace of users", "");
    answer(MAP_USERS, "");
    if (recv(DAEMON, &go, 1, 0) != 1)
        _exit(1);
}

static void become_root(void) {
    if (setresgid(0, 0, 0) < 0 || setgroups(0, NULL) < 0 || setresuid(0, 0, 0) < 0)
        fail("become root of the namespace of users", "");
}

// The next of the strings that the daemon has sent.
static const char *next(const char **at, const char *limit) {
    const char *s = *at;
    if (s >= limit) {
        errno = EPROTO;
        fail("read what the daemon sent", "");
    }
    *at += strlen(s) + 1;
    return s;
}

// Sets those of the pod's sysctls that are its network's, or all others.
static void set_sysctls(int sys, bool network, const char *at, const char *limit) {
    while (at < limit) {
        const char *path = next(&at, limit);
        const char *value = next(&at, limit);
        if ((strncmp(path, "net/", 4) == 0) != network)
            continue;
        int fd = openat(sys, path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, value, strlen(value)) < 0)
            fail("set sysctl", path);
        close(fd);
    }
}

// Gives up all rights. A user that is not in the namespace of users is not needed
// either: without capabilities its root is nobody.
static void drop_rights(uid_t uid, gid_t gid) {
    for (int c = 0; prctl(PR_CAPBSET_DROP, c, 0, 0, 0) == 0; c++)
        ;
    if ((setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0) && errno != EINVAL)
        fail("become the pod's user", "");
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (syscall(SYS_capset, &header, none) < 0)
        fail("drop capabilities", "");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        fail("give up rights", "");
}

static void handle(int sig, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    if (sigaction(sig, &action, NULL) < 0)
        fail("handle signals", "");
}

static void tell_pid(pid_t pid) {
    char number[16];
    snprintf(number, sizeof(number), "%d", (int)pid);
    answer(STARTED, number);
}

// Makes the pod's namespaces as the daemon says, one string after the other; see
// waiter.go.
static void wait_in_pod(void) {
    static char text[1 << 16];
    ssize_t n = recv(DAEMON, text, sizeof(text) - 1, 0);
    if (n <= 0)
        _exit(1);
    const char *at = text, *limit = text + n;
    const char *dir = next(&at, limit);
    const char *network = next(&at, limit);
    const char *users = next(&at, limit);
    const char *made = next(&at, limit); // letters: i, u, p
    uid_t uid = (uid_t)strtoul(next(&at, limit), NULL, 10);
    gid_t gid = (gid_t)strtoul(next(&at, limit), NULL, 10);
    const char *hostname = next(&at, limit);

    close_others();
    int network_fd = open_namespace(network);
    int users_fd = open_namespace(strcmp(users, "new") == 0 ? "" : users);
    int sys = open("/proc/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (sys < 0)
        fail("open", "/proc/sys");
    leave_files(dir);
    enter(network_fd, CLONE_NEWNET, network);
    set_sysctls(sys, true, at, limit); // while this is the host's root, whoever's the network is
    enter(users_fd, CLONE_NEWUSER, users);
    if (strcmp(users, "new") == 0)
        new_users();
    if (*users != 0)
        become_root();
    // Those that are made belong to the users that were entered before.
    int flags = (strchr(made, 'i') ? CLONE_NEWIPC : 0) | (strchr(made, 'u') ? CLONE_NEWUTS : 0);
    if (unshare(flags) < 0)
        fail("make namespaces", "");
    if (*hostname != 0 && sethostname(hostname, strlen(hostname)) < 0)
        fail("set hostname", hostname);
    set_sysctls(sys, false, at, limit);
    close(sys);

    // A container's process may have the pod's namespace of processes: its first one
    // gets no signal that it has no handler for, and has others' children to reap,
    // which the kernel does for whoever ignores them.
    sigset_t no_signals;
    sigemptyset(&no_signals);
    sigprocmask(SIG_SETMASK, &no_signals, NULL);
    handle(SIGTERM, end);
    handle(SIGINT, end);
    handle(SIGCHLD, SIG_IGN);
    prctl(PR_SET_NAME, "wasmshim-pod", 0, 0, 0);
    if (strchr(made, 'p') != NULL) {
        // A child of the daemon's, which waits for it.
        pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (pid < 0)
            fail("make a namespace of processes", "");
        if (pid > 0) {
            tell_pid(pid);
            _exit(0);
        }
    } else {
        tell_pid(getpid());
    }
    drop_rights(uid, gid);
    answer(READY, "");
    // Strict: read, write, exit and the return from a signal. Without it, where a kernel
    // has none, there is still nothing that this process could do.
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    char c;
    while (read(DAEMON, &c, 1) > 0)
        ;
    end(0);
}

__attribute__((constructor(101))) static void become_waiter(void) {
    const char *role = getenv("_WASMSHIM_ROLE");
    if (role != NULL && strcmp(role, "pod") == 0)
        wait_in_pod();
}
