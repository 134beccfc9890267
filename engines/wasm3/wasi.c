// SPDX-License-Identifier: Apache-2.0

// WASI preview 1 for an engine that has none of its own that would do: files,
// clocks, arguments. Names are resolved by the kernel below the directories that
// the guest was given (openat2, RESOLVE_BENEATH), and every address that the
// guest gives is checked against its memory.
//
// The witx files of WASI say what each function takes; layouts are written down
// where they are used.

#include "wasm3.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    FDS = 1024,
    IOVS = 64,
    RIGHTS_WRITE = 1 << 6, // fd_write, of the rights that path_open asks for
    RIGHTS_READ = 1 << 1,  // fd_read
};

// Errors that are ours and no errno.
enum { E_BADF = 8, E_FAULT = 21, E_INVAL = 28, E_NAMETOOLONG = 37, E_NOTSUP = 58, E_NOTCAPABLE = 76 };

// The guest's descriptors: the host's, or -1. name is what a directory that it
// was given is called.
static struct {
    int host;
    const char *name;
} fds[FDS];

static uint32_t to_wasi(int error) {
    static const struct {
        int host;
        uint16_t wasi;
    } table[] = {
        {E2BIG, 1},         {EACCES, 2},   {EAGAIN, 6},     {EBADF, 8},    {EBUSY, 10},  {EDQUOT, 19}, {EEXIST, 20},
        {EFAULT, 21},       {EFBIG, 22},   {EINTR, 27},     {EINVAL, 28},  {EIO, 29},    {EISDIR, 31}, {ELOOP, 32},
        {EMFILE, 33},       {EMLINK, 34},  {ENFILE, 41},    {ENODEV, 43},  {ENOENT, 44}, {ENOMEM, 48}, {ENOSPC, 51},
        {ENOSYS, 52},       {ENOTDIR, 54}, {ENOTEMPTY, 55}, {ENOTSUP, 58}, {ENXIO, 60},  {EPERM, 63},  {EPIPE, 64},
        {ENAMETOOLONG, 37}, {EROFS, 69},   {ESPIPE, 70},    {ETXTBSY, 74}, {EXDEV, 75},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].host == error)
            return table[i].wasi;
    return 29; // io
}

static uint32_t failed(void) {
    return to_wasi(errno);
}

// One call: its arguments, and the guest's memory.
struct call {
    struct guest *guest;
    const uint64_t *args;
    uint8_t *memory;
    uint32_t size;
};

static uint32_t arg(const struct call *c, int i) {
    return (uint32_t)c->args[i];
}

// The guest's memory from address on, if it has n bytes there.
static void *at(const struct call *c, uint32_t address, uint64_t n) {
    return address + n <= c->size ? c->memory + address : NULL;
}

static bool put32(const struct call *c, uint32_t address, uint32_t v) {
    void *p = at(c, address, 4);
    if (p != NULL)
        memcpy(p, &v, 4);
    return p != NULL;
}

static bool put64(const struct call *c, uint32_t address, uint64_t v) {
    void *p = at(c, address, 8);
    if (p != NULL)
        memcpy(p, &v, 8);
    return p != NULL;
}

static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static int host_fd(const struct call *c, int i) {
    uint32_t fd = arg(c, i);
    return fd < FDS ? fds[fd].host : -1;
}

static uint32_t new_fd(int host, uint32_t *fd) {
    for (uint32_t i = 3; i < FDS; i++)
        if (fds[i].host < 0) {
            fds[i].host = host;
            *fd = i;
            return 0;
        }
    close(host);
    return to_wasi(EMFILE);
}

// Copies a name out of the guest's memory.
static uint32_t get_path(const struct call *c, int i, char path[PATH_MAX]) {
    uint32_t n = arg(c, i + 1);
    const char *p = at(c, arg(c, i), n);
    if (p == NULL)
        return E_FAULT;
    if (n >= PATH_MAX)
        return E_NAMETOOLONG;
    if (n == 0 || memchr(p, 0, n) != NULL)
        return E_INVAL;
    memcpy(path, p, n);
    path[n] = 0;
    return 0;
}

static int open_beneath(int dir, const char *path, int flags, mode_t mode) {
    struct open_how how = {
        .flags = (unsigned)flags | O_CLOEXEC | O_NOCTTY,
        .mode = (flags & O_CREAT) != 0 ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

// Opens the directory that path's last name is in, and points *last to that
// name. For calls that the kernel has no RESOLVE_BENEATH for.
static int open_parent(int dir, char *path, const char **last) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = 0;
    char *slash = strrchr(path, '/');
    *last = slash != NULL ? slash + 1 : path;
    if (strcmp(*last, "..") == 0 || **last == 0) {
        errno = EPERM;
        return -1;
    }
    if (slash == NULL)
        return open_beneath(dir, ".", O_PATH | O_DIRECTORY, 0);
    *slash = 0;
    return open_beneath(dir, slash == path ? "/" : path, O_PATH | O_DIRECTORY, 0);
}

static uint32_t put_strings(const struct call *c, const char *const *list, size_t count) {
    uint32_t to = arg(c, 1);
    for (size_t i = 0; i < count; i++) {
        size_t n = strlen(list[i]) + 1;
        char *p = at(c, to, n);
        if (p == NULL || !put32(c, arg(c, 0) + 4 * (uint32_t)i, to))
            return E_FAULT;
        memcpy(p, list[i], n);
        to += (uint32_t)n;
    }
    return 0;
}

static uint32_t put_sizes(const struct call *c, const char *const *list, size_t count) {
    uint32_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += (uint32_t)strlen(list[i]) + 1;
    return put32(c, arg(c, 0), (uint32_t)count) && put32(c, arg(c, 1), size) ? 0 : E_FAULT;
}

static uint32_t args_get(struct call *c) {
    const char *const *list;
    size_t count = wasm_shim_args(c->guest->ctx, &list);
    return put_strings(c, list, count);
}

static uint32_t args_sizes_get(struct call *c) {
    const char *const *list;
    size_t count = wasm_shim_args(c->guest->ctx, &list);
    return put_sizes(c, list, count);
}

static uint32_t environ_get(struct call *c) {
    const char *const *list;
    size_t count = wasm_shim_env(c->guest->ctx, &list);
    return put_strings(c, list, count);
}

static uint32_t environ_sizes_get(struct call *c) {
    const char *const *list;
    size_t count = wasm_shim_env(c->guest->ctx, &list);
    return put_sizes(c, list, count);
}

static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};

static uint64_t nanoseconds(const struct timespec *t) {
    return (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec;
}

static uint32_t clock_res_get(struct call *c) {
    struct timespec t;
    if (arg(c, 0) >= sizeof(clocks) / sizeof(clocks[0]) || clock_getres(clocks[arg(c, 0)], &t) < 0)
        return E_INVAL;
    return put64(c, arg(c, 1), nanoseconds(&t)) ? 0 : E_FAULT;
}

static uint32_t clock_time_get(struct call *c) {
    struct timespec t;
    if (arg(c, 0) >= sizeof(clocks) / sizeof(clocks[0]) || clock_gettime(clocks[arg(c, 0)], &t) < 0)
        return E_INVAL;
    return put64(c, arg(c, 2), nanoseconds(&t)) ? 0 : E_FAULT;
}

static uint32_t random_get(struct call *c) {
    uint8_t *p = at(c, arg(c, 0), arg(c, 1));
    if (p == NULL)
        return E_FAULT;
    for (size_t left = arg(c, 1); left > 0;) {
        ssize_t n = getrandom(p, left, 0);
        if (n < 0)
            return failed();
        p += n;
        left -= (size_t)n;
    }
    return 0;
}

static uint32_t sched_yield_(struct call *c) {
    (void)c;
    sched_yield();
    return 0;
}

// Turns the guest's list of {address, length} into the kernel's. A long list is
// cut: a call may do less than it was asked for.
static int iovecs(const struct call *c, int i, struct iovec *out) {
    uint32_t count = arg(c, i + 1);
    if (count > IOVS)
        count = IOVS;
    const uint8_t *list = at(c, arg(c, i), 8 * (uint64_t)count);
    for (uint32_t k = 0; list != NULL && k < count; k++) {
        out[k].iov_len = get32(list + 8 * k + 4);
        out[k].iov_base = at(c, get32(list + 8 * k), out[k].iov_len);
        if (out[k].iov_base == NULL)
            return -1;
    }
    return list != NULL ? (int)count : -1;
}

static uint32_t transfer(struct call *c, bool writes, bool positioned) {
    struct iovec list[IOVS];
    int count = iovecs(c, 1, list);
    if (count < 0)
        return E_FAULT;
    int fd = host_fd(c, 0);
    off_t offset = positioned ? (off_t)c->args[3] : -1;
    ssize_t n = writes ? pwritev2(fd, list, count, offset, 0) : preadv2(fd, list, count, offset, 0);
    if (n < 0)
        return failed();
    return put32(c, arg(c, positioned ? 4 : 3), (uint32_t)n) ? 0 : E_FAULT;
}

static uint32_t fd_read(struct call *c) {
    return transfer(c, false, false);
}
static uint32_t fd_write(struct call *c) {
    return transfer(c, true, false);
}
static uint32_t fd_pread(struct call *c) {
    return transfer(c, false, true);
}
static uint32_t fd_pwrite(struct call *c) {
    return transfer(c, true, true);
}

static uint32_t fd_seek(struct call *c) {
    static const int whence[] = {SEEK_SET, SEEK_CUR, SEEK_END};
    if (arg(c, 2) > 2)
        return E_INVAL;
    off_t position = lseek(host_fd(c, 0), (off_t)c->args[1], whence[arg(c, 2)]);
    if (position < 0)
        return failed();
    return put64(c, arg(c, 3), (uint64_t)position) ? 0 : E_FAULT;
}

static uint32_t fd_tell(struct call *c) {
    off_t position = lseek(host_fd(c, 0), 0, SEEK_CUR);
    if (position < 0)
        return failed();
    return put64(c, arg(c, 1), (uint64_t)position) ? 0 : E_FAULT;
}

static uint32_t fd_close(struct call *c) {
    int fd = host_fd(c, 0);
    if (fd < 0)
        return E_BADF;
    fds[arg(c, 0)].host = -1;
    fds[arg(c, 0)].name = NULL;
    return close(fd) == 0 ? 0 : failed();
}

static uint32_t fd_renumber(struct call *c) {
    uint32_t from = arg(c, 0), to = arg(c, 1);
    if (from >= FDS || to >= FDS || fds[from].host < 0 || fds[to].host < 0)
        return E_BADF;
    if (from == to)
        return 0;
    close(fds[to].host);
    fds[to] = fds[from];
    fds[from].host = -1;
    fds[from].name = NULL;
    return 0;
}

static uint32_t fd_sync(struct call *c) {
    return fsync(host_fd(c, 0)) == 0 ? 0 : failed();
}

static uint32_t fd_nothing(struct call *c) {
    return host_fd(c, 0) < 0 ? E_BADF : 0;
}

static uint8_t filetype(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFBLK:
        return 1;
    case S_IFCHR:
        return 2;
    case S_IFDIR:
        return 3;
    case S_IFREG:
        return 4;
    case S_IFSOCK:
        return 6;
    case S_IFLNK:
        return 7;
    default:
        return 0;
    }
}

// {filetype u8, flags u16 at 2, rights u64 at 8, inheriting u64 at 16}
static uint32_t fd_fdstat_get(struct call *c) {
    struct stat st;
    int flags = fcntl(host_fd(c, 0), F_GETFL);
    uint8_t *p = at(c, arg(c, 1), 24);
    if (flags < 0 || fstat(host_fd(c, 0), &st) < 0)
        return failed();
    if (p == NULL)
        return E_FAULT;
    memset(p, 0, 24);
    p[0] = filetype(st.st_mode);
    p[2] = (uint8_t)(((flags & O_APPEND) != 0 ? 1 : 0) | ((flags & O_NONBLOCK) != 0 ? 4 : 0));
    uint64_t rights = (UINT64_C(1) << 30) - 1;
    if (S_ISDIR(st.st_mode))
        rights &= ~(uint64_t)(RIGHTS_READ | RIGHTS_WRITE | 1 << 2 | 1 << 5);
    // No seek and no tell: that makes a stream a stream, and a terminal of a device.
    else if (!S_ISREG(st.st_mode) && (!S_ISCHR(st.st_mode) || isatty(host_fd(c, 0))))
        rights &= ~(uint64_t)(1 << 2 | 1 << 5);
    memcpy(p + 8, &rights, 8);
    rights = (UINT64_C(1) << 30) - 1;
    memcpy(p + 16, &rights, 8);
    return 0;
}

static uint32_t fd_fdstat_set_flags(struct call *c) {
    int flags = ((arg(c, 1) & 1) != 0 ? O_APPEND : 0) | ((arg(c, 1) & 4) != 0 ? O_NONBLOCK : 0);
    return fcntl(host_fd(c, 0), F_SETFL, flags) == 0 ? 0 : failed();
}

// {dev u64, ino u64, type u8, nlink u64 at 24, size, atim, mtim, ctim}
static uint32_t put_stat(const struct call *c, uint32_t address, const struct stat *st) {
    uint8_t *p = at(c, address, 64);
    if (p == NULL)
        return E_FAULT;
    memset(p, 0, 64);
    p[16] = filetype(st->st_mode);
    put64(c, address, st->st_dev);
    put64(c, address + 8, st->st_ino);
    put64(c, address + 24, st->st_nlink);
    put64(c, address + 32, (uint64_t)st->st_size);
    put64(c, address + 40, nanoseconds(&st->st_atim));
    put64(c, address + 48, nanoseconds(&st->st_mtim));
    put64(c, address + 56, nanoseconds(&st->st_ctim));
    return 0;
}

static uint32_t fd_filestat_get(struct call *c) {
    struct stat st;
    return fstat(host_fd(c, 0), &st) == 0 ? put_stat(c, arg(c, 1), &st) : failed();
}

static uint32_t fd_filestat_set_size(struct call *c) {
    return ftruncate(host_fd(c, 0), (off_t)c->args[1]) == 0 ? 0 : failed();
}

static uint32_t fd_prestat_get(struct call *c) {
    uint32_t fd = arg(c, 0);
    if (fd >= FDS || fds[fd].name == NULL)
        return E_BADF;
    return put32(c, arg(c, 1), 0) && put32(c, arg(c, 1) + 4, (uint32_t)strlen(fds[fd].name)) ? 0 : E_FAULT;
}

static uint32_t fd_prestat_dir_name(struct call *c) {
    uint32_t fd = arg(c, 0), room = arg(c, 2);
    if (fd >= FDS || fds[fd].name == NULL)
        return E_BADF;
    size_t n = strlen(fds[fd].name);
    char *p = at(c, arg(c, 1), room);
    if (p == NULL)
        return E_FAULT;
    memcpy(p, fds[fd].name, n < room ? n : room);
    return n <= room ? 0 : E_NAMETOOLONG;
}

// Entries of {next u64, inode u64, length of the name u32, type u8}, 24 bytes,
// and the name. The last one is cut where the room ends, which says that there
// are more. A cookie is how many entries came before.
static uint32_t fd_readdir(struct call *c) {
    uint32_t room = arg(c, 2), used = 0;
    uint8_t *buf = at(c, arg(c, 1), room);
    if (buf == NULL)
        return E_FAULT;
    int fd = open_beneath(host_fd(c, 0), ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL)
        return failed();
    struct dirent *e;
    for (uint64_t i = 0; used < room && (e = readdir(dir)) != NULL; i++) {
        if (i < c->args[3])
            continue;
        uint8_t entry[24 + sizeof(e->d_name)] = {0};
        uint64_t next = i + 1, inode = e->d_ino;
        uint32_t length = (uint32_t)strlen(e->d_name);
        memcpy(entry, &next, 8);
        memcpy(entry + 8, &inode, 8);
        memcpy(entry + 16, &length, 4);
        entry[20] = filetype((mode_t)DTTOIF(e->d_type));
        memcpy(entry + 24, e->d_name, length);
        uint32_t n = 24 + length < room - used ? 24 + length : room - used;
        memcpy(buf + used, entry, n);
        used += n;
    }
    closedir(dir);
    return put32(c, arg(c, 4), used) ? 0 : E_FAULT;
}

static uint32_t path_open(struct call *c) {
    char path[PATH_MAX];
    uint32_t error = get_path(c, 2, path);
    if (error != 0)
        return error;
    uint32_t open_flags = arg(c, 4), fd_flags = arg(c, 7), fd = 0;
    bool writes = (c->args[5] & RIGHTS_WRITE) != 0;
    bool reads = (c->args[5] & RIGHTS_READ) != 0;
    int flags = (writes ? (reads ? O_RDWR : O_WRONLY) : O_RDONLY) | ((arg(c, 1) & 1) != 0 ? 0 : O_NOFOLLOW) |
                ((open_flags & 1) != 0 ? O_CREAT : 0) | ((open_flags & 2) != 0 ? O_DIRECTORY : 0) |
                ((open_flags & 4) != 0 ? O_EXCL : 0) | ((open_flags & 8) != 0 ? O_TRUNC : 0) |
                ((fd_flags & 1) != 0 ? O_APPEND : 0) | ((fd_flags & 4) != 0 ? O_NONBLOCK : 0);
    int host = open_beneath(host_fd(c, 0), path, flags, 0666);
    // Languages ask for every right there is; of a directory nobody may write.
    if (host < 0 && errno == EISDIR && (open_flags & 1) == 0)
        host = open_beneath(host_fd(c, 0), path, (flags & ~O_ACCMODE) | O_RDONLY, 0);
    if (host < 0)
        return errno == EXDEV ? E_NOTCAPABLE : failed();
    error = new_fd(host, &fd);
    if (error != 0)
        return error;
    return put32(c, arg(c, 8), fd) ? 0 : E_FAULT;
}

static uint32_t path_filestat_get(struct call *c) {
    char path[PATH_MAX];
    uint32_t error = get_path(c, 2, path);
    if (error != 0)
        return error;
    int fd = open_beneath(host_fd(c, 0), path, O_PATH | ((arg(c, 1) & 1) != 0 ? 0 : O_NOFOLLOW), 0);
    if (fd < 0)
        return errno == EXDEV ? E_NOTCAPABLE : failed();
    struct stat st;
    error = fstat(fd, &st) == 0 ? put_stat(c, arg(c, 4), &st) : failed();
    close(fd);
    return error;
}

// Calls that change a directory's entry: the name's arguments begin at i.
static uint32_t on_entry(struct call *c, int dir, int i, int (*change)(int parent, const char *name)) {
    char path[PATH_MAX];
    const char *name;
    uint32_t error = get_path(c, i, path);
    if (error != 0)
        return error;
    int parent = open_parent(host_fd(c, dir), path, &name);
    if (parent < 0)
        return errno == EXDEV ? E_NOTCAPABLE : failed();
    error = change(parent, name) == 0 ? 0 : failed();
    close(parent);
    return error;
}

static int make_directory(int parent, const char *name) {
    return mkdirat(parent, name, 0777);
}
static int remove_directory(int parent, const char *name) {
    return unlinkat(parent, name, AT_REMOVEDIR);
}
static int remove_file(int parent, const char *name) {
    return unlinkat(parent, name, 0);
}

static uint32_t path_create_directory(struct call *c) {
    return on_entry(c, 0, 1, make_directory);
}
static uint32_t path_remove_directory(struct call *c) {
    return on_entry(c, 0, 1, remove_directory);
}
static uint32_t path_unlink_file(struct call *c) {
    return on_entry(c, 0, 1, remove_file);
}

static uint32_t path_symlink(struct call *c) {
    char target[PATH_MAX], path[PATH_MAX];
    const char *name;
    uint32_t error = get_path(c, 0, target);
    if (error == 0)
        error = get_path(c, 3, path);
    if (error != 0)
        return error;
    int parent = open_parent(host_fd(c, 2), path, &name);
    if (parent < 0)
        return errno == EXDEV ? E_NOTCAPABLE : failed();
    error = symlinkat(target, parent, name) == 0 ? 0 : failed();
    close(parent);
    return error;
}

static uint32_t path_readlink(struct call *c) {
    char path[PATH_MAX];
    const char *name;
    uint32_t error = get_path(c, 1, path);
    if (error != 0)
        return error;
    char *buf = at(c, arg(c, 3), arg(c, 4));
    if (buf == NULL)
        return E_FAULT;
    int parent = open_parent(host_fd(c, 0), path, &name);
    if (parent < 0)
        return errno == EXDEV ? E_NOTCAPABLE : failed();
    ssize_t n = readlinkat(parent, name, buf, arg(c, 4));
    error = n < 0 ? failed() : put32(c, arg(c, 5), (uint32_t)n) ? 0 : E_FAULT;
    close(parent);
    return error;
}

static uint32_t two_names(struct call *c, int first, int (*change)(int, const char *, int, const char *)) {
    char from[PATH_MAX], to[PATH_MAX];
    const char *old_name, *new_name;
    uint32_t error = get_path(c, first, from);
    if (error == 0)
        error = get_path(c, first + 3, to);
    if (error != 0)
        return error;
    int old_dir = open_parent(host_fd(c, 0), from, &old_name);
    int new_dir = old_dir >= 0 ? open_parent(host_fd(c, first + 2), to, &new_name) : -1;
    if (new_dir < 0)
        error = errno == EXDEV ? E_NOTCAPABLE : failed();
    else
        error = change(old_dir, old_name, new_dir, new_name) == 0 ? 0 : failed();
    if (old_dir >= 0)
        close(old_dir);
    if (new_dir >= 0)
        close(new_dir);
    return error;
}

static int make_link(int old_dir, const char *old_name, int new_dir, const char *new_name) {
    return linkat(old_dir, old_name, new_dir, new_name, 0);
}

static uint32_t path_rename(struct call *c) {
    return two_names(c, 1, renameat);
}
static uint32_t path_link(struct call *c) {
    return two_names(c, 2, make_link);
}

static uint32_t proc_exit(struct call *c) {
    c->guest->exited = true;
    c->guest->exit_code = (int32_t)arg(c, 0);
    return 0;
}

static uint32_t not_supported(struct call *c) {
    (void)c;
    return E_NOTSUP;
}

// How long until a clock's subscription is due, in ns.
static uint64_t due(const uint8_t *subscription) {
    uint64_t timeout = get64(subscription + 24);
    bool absolute = (subscription[40] & 1) != 0;
    uint32_t clock = get32(subscription + 16);
    struct timespec t;
    if (!absolute)
        return timeout;
    if (clock >= sizeof(clocks) / sizeof(clocks[0]) || clock_gettime(clocks[clock], &t) < 0)
        return 0;
    uint64_t now = nanoseconds(&t);
    return timeout > now ? timeout - now : 0;
}

// A subscription: {user data u64, tag u8, at 16: clock u32, timeout u64 at 24,
// precision u64, flags u16 at 40 | descriptor u32}, 48 bytes. An event: {user
// data u64, error u16, type u8 at 10, bytes u64 at 16, flags u16 at 24}, 32.
static uint32_t poll_oneoff(struct call *c) {
    uint32_t count = arg(c, 2);
    const uint8_t *in = at(c, arg(c, 0), 48 * (uint64_t)count);
    uint8_t *out = at(c, arg(c, 1), 32 * (uint64_t)count);
    if (in == NULL || out == NULL)
        return E_FAULT;
    if (count == 0 || count > FDS)
        return E_INVAL;
    struct pollfd list[FDS];
    uint64_t soonest = UINT64_MAX;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *s = in + 48 * i;
        list[i] = (struct pollfd){.fd = -1};
        if (s[8] == 0) {
            uint64_t ns = due(s);
            soonest = ns < soonest ? ns : soonest;
        } else {
            uint32_t fd = get32(s + 16);
            list[i].fd = fd < FDS ? fds[fd].host : -1;
            list[i].events = s[8] == 1 ? POLLIN : POLLOUT;
            if (list[i].fd < 0)
                soonest = 0;
        }
    }
    struct timespec wait = {.tv_sec = (time_t)(soonest / 1000000000), .tv_nsec = (long)(soonest % 1000000000)};
    if (ppoll(list, count, soonest == UINT64_MAX ? NULL : &wait, NULL) < 0)
        return failed();
    uint32_t events = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *s = in + 48 * i;
        bool clock = s[8] == 0;
        bool bad = !clock && list[i].fd < 0;
        if (clock ? due(s) > soonest && (s[40] & 1) == 0 : !bad && list[i].revents == 0)
            continue;
        uint8_t *e = out + 32 * events++;
        uint8_t type = s[8];
        uint64_t data = get64(s);
        memset(e, 0, 32);
        memcpy(e, &data, 8);
        e[8] = bad ? E_BADF : 0;
        e[10] = type;
        e[16] = 1; // bytes: at least so many
        e[24] = !clock && (list[i].revents & POLLHUP) != 0 ? 1 : 0;
    }
    return put32(c, arg(c, 3), events) ? 0 : E_FAULT;
}

static const struct function {
    const char *name;
    const char *signature;
    uint32_t (*call)(struct call *);
} functions[] = {
    {"args_get", "i(ii)", args_get},
    {"args_sizes_get", "i(ii)", args_sizes_get},
    {"clock_res_get", "i(ii)", clock_res_get},
    {"clock_time_get", "i(iIi)", clock_time_get},
    {"environ_get", "i(ii)", environ_get},
    {"environ_sizes_get", "i(ii)", environ_sizes_get},
    {"fd_advise", "i(iIIi)", fd_nothing},
    {"fd_allocate", "i(iII)", not_supported},
    {"fd_close", "i(i)", fd_close},
    {"fd_datasync", "i(i)", fd_sync},
    {"fd_fdstat_get", "i(ii)", fd_fdstat_get},
    {"fd_fdstat_set_flags", "i(ii)", fd_fdstat_set_flags},
    {"fd_fdstat_set_rights", "i(iII)", fd_nothing},
    {"fd_filestat_get", "i(ii)", fd_filestat_get},
    {"fd_filestat_set_size", "i(iI)", fd_filestat_set_size},
    {"fd_filestat_set_times", "i(iIIi)", not_supported},
    {"fd_pread", "i(iiiIi)", fd_pread},
    {"fd_prestat_dir_name", "i(iii)", fd_prestat_dir_name},
    {"fd_prestat_get", "i(ii)", fd_prestat_get},
    {"fd_pwrite", "i(iiiIi)", fd_pwrite},
    {"fd_read", "i(iiii)", fd_read},
    {"fd_readdir", "i(iiiIi)", fd_readdir},
    {"fd_renumber", "i(ii)", fd_renumber},
    {"fd_seek", "i(iIii)", fd_seek},
    {"fd_sync", "i(i)", fd_sync},
    {"fd_tell", "i(ii)", fd_tell},
    {"fd_write", "i(iiii)", fd_write},
    {"path_create_directory", "i(iii)", path_create_directory},
    {"path_filestat_get", "i(iiiii)", path_filestat_get},
    {"path_filestat_set_times", "i(iiiiIIi)", not_supported},
    {"path_link", "i(iiiiiii)", path_link},
    {"path_open", "i(iiiiiIIii)", path_open},
    {"path_readlink", "i(iiiiii)", path_readlink},
    {"path_remove_directory", "i(iii)", path_remove_directory},
    {"path_rename", "i(iiiiii)", path_rename},
    {"path_symlink", "i(iiiii)", path_symlink},
    {"path_unlink_file", "i(iii)", path_unlink_file},
    {"poll_oneoff", "i(iiii)", poll_oneoff},
    {"proc_exit", "v(i)", proc_exit},
    {"proc_raise", "i(i)", not_supported},
    {"random_get", "i(ii)", random_get},
    {"sched_yield", "i()", sched_yield_},
    {"sock_accept", "i(iii)", not_supported},
    {"sock_recv", "i(iiiiii)", not_supported},
    {"sock_send", "i(iiiii)", not_supported},
    {"sock_shutdown", "i(ii)", not_supported},
};

static struct guest *the_guest;

// A function's result and its arguments share wasm3's stack: the first slot is
// written when all have been read.
static const void *dispatch(IM3Runtime runtime, uint64_t *stack, void *memory, void *cookie) {
    const struct function *f = cookie;
    struct call c = {.guest = the_guest, .args = stack, .memory = memory};
    (void)m3_GetMemory(runtime, &c.size, 0);
    uint32_t error = f->call(&c);
    if (f->call == proc_exit)
        return m3Err_trapExit;
    *stack = error;
    return m3Err_none;
}

M3Result wasi_link(struct guest *g, IM3Module module) {
    the_guest = g;
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        const struct function *f = &functions[i];
        M3Result result = m3_LinkRawFunctionEx(module, "wasi_snapshot_preview1", f->name, f->signature, dispatch,
                                               (void *)(uintptr_t)f);
        // Not imported: not needed.
        if (result != m3Err_none && result != m3Err_functionLookupFailed)
            return result;
    }
    return m3Err_none;
}

int32_t wasi_open(struct guest *g) {
    size_t n = wasm_shim_preopen_count(g->ctx);
    for (size_t i = 0; i < FDS; i++)
        fds[i].host = i < 3 ? (int)i : -1;
    for (size_t i = 0; i < n; i++) {
        const char *host = wasm_shim_preopen_host(g->ctx, i);
        uint32_t fd = 0;
        int dir = open(host, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0 || new_fd(dir, &fd) != 0) {
            char text[PATH_MAX + 64];
            snprintf(text, sizeof(text), "cannot open directory %s for the guest: %s", host, strerror(errno));
            wasm_shim_set_error(g->ctx, text);
            return WASM_SHIM_ERROR;
        }
        fds[fd].name = wasm_shim_preopen_guest(g->ctx, i);
    }
    return WASM_SHIM_OK;
}
