// SPDX-License-Identifier: Apache-2.0

// Takes files away from this process by Landlock. Landlock knows only what is
// allowed, in hierarchies: to hide a directory, everything beside it and beside
// its parents is allowed.

#include "sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The kernel's interface; headers of the build machine may be older than the
// kernel that this runs on.
struct ruleset {
    uint64_t handled_access_fs;
};
struct path_beneath {
    uint64_t allowed_access;
    int32_t parent_fd;
} __attribute__((packed));

enum {
    CREATE_RULESET = 444,
    ADD_RULE = 445,
    RESTRICT_SELF = 446,
    RULESET_VERSION = 1, // a flag of CREATE_RULESET
    PATH_BENEATH = 1,    // a type of rule
};

enum {
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REFER = 1 << 13,     // since version 2
    FS_TRUNCATE = 1 << 14,  // since version 3
    FS_IOCTL_DEV = 1 << 15, // since version 5
    // Everything of version 1 but to execute: nobody here executes files.
    FS_1 = (1 << 13) - 2,
    FS_OF_FILES = FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
};

struct sandbox {
    const struct wasmshim_list *hidden;
    uint64_t handled;
    int ruleset;
    char unlisted[PATH_MAX]; // a directory on the way to a hidden one that this user may not list; empty if there is
                             // none
};

static bool is_hidden(const struct sandbox *s, const char *path) {
    for (size_t i = 0; i < s->hidden->count; i++)
        if (strcmp(s->hidden->items[i], path) == 0)
            return true;
    return false;
}

// Says whether something hidden lies below path.
static bool leads_to_hidden(const struct sandbox *s, const char *path) {
    size_t n = strlen(path);
    for (size_t i = 0; i < s->hidden->count; i++)
        if (strncmp(s->hidden->items[i], path, n) == 0 && s->hidden->items[i][n] == '/')
            return true;
    return false;
}

static int allow(const struct sandbox *s, int fd, uint64_t access) {
    struct path_beneath rule = {.allowed_access = access & s->handled, .parent_fd = fd};
    return (int)syscall(ADD_RULE, s->ruleset, PATH_BENEATH, &rule, 0);
}

static int allow_entries(struct sandbox *s, const char *path);

// Allows one entry with all that is below it, as far as it is not hidden.
static int allow_entry(struct sandbox *s, int dir, const char *name, const char *path) {
    if (is_hidden(s, path))
        return 0;
    int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    // One that this user may not reach, or that has just gone, needs no rule.
    if (fd < 0)
        return 0;
    struct stat st;
    int result = fstat(fd, &st);
    if (result == 0 && S_ISDIR(st.st_mode) && leads_to_hidden(s, path))
        result = allow_entries(s, path);
    else if (result == 0 && !S_ISLNK(st.st_mode))
        result = allow(s, fd, S_ISDIR(st.st_mode) ? s->handled : FS_OF_FILES);
    close(fd);
    return result;
}

// What cannot be listed cannot be allowed. Where this user cannot pass through
// the directory either, nothing is lost by that; else everything in it would be,
// as with "/" of mode 0711.
static int cannot_list(struct sandbox *s, const char *path) {
    if (errno == ENOENT || errno == ENOTDIR)
        return 0;
    if (errno != EACCES)
        return -1;
    if (faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) != 0)
        return 0;
    snprintf(s->unlisted, sizeof(s->unlisted), "%s", path);
    errno = EACCES;
    return -1;
}

static int allow_entries(struct sandbox *s, const char *path) {
    DIR *dir = opendir(path[0] != 0 ? path : "/");
    if (dir == NULL)
        return cannot_list(s, path[0] != 0 ? path : "/");
    int result = 0;
    struct dirent *e;
    while (result == 0 && (e = readdir(dir)) != NULL) {
        char child[PATH_MAX];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        int n = snprintf(child, sizeof(child), "%s/%s", path, e->d_name);
        if (n > 0 && (size_t)n < sizeof(child))
            result = allow_entry(s, dirfd(dir), e->d_name, child);
    }
    int saved = errno;
    closedir(dir);
    errno = saved;
    return result;
}

// Directories stay readable as such everywhere, or "/" could not be opened:
// names are no secret, what is in the files is.
static int allow_listing(const struct sandbox *s) {
    int fd = open("/", O_PATH | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = allow(s, fd, FS_READ_DIR);
    close(fd);
    return result;
}

// A memory file has no rules: EBADFD.
static int allow_reading(const struct sandbox *s, uint32_t fd) {
    return allow(s, (int)fd, FS_READ_FILE) == 0 || errno == EBADFD ? 0 : -1;
}

// Layers stay readable as /proc/self/fd/N, which is how an engine has a library
// map them.
static int allow_layers(const struct sandbox *s, const struct wasmshim_stage *stage) {
    for (size_t i = 0; i < stage->layer_count; i++) {
        const struct wasmshim_layer *l = &stage->layers[i];
        if ((l->fd != 0 && allow_reading(s, l->fd) < 0) || (l->artifact != 0 && allow_reading(s, l->artifact) < 0))
            return -1;
    }
    return 0;
}

// Makes a set of rules that allows nothing yet.
static int begin(struct sandbox *s) {
    long version = syscall(CREATE_RULESET, NULL, 0, RULESET_VERSION);
    if (version < 0)
        return -1;
    s->handled = FS_1;
    if (version >= 2)
        s->handled |= FS_REFER;
    if (version >= 3)
        s->handled |= FS_TRUNCATE;
    if (version >= 5)
        s->handled |= FS_IOCTL_DEV;
    struct ruleset attributes = {.handled_access_fs = s->handled};
    s->ruleset = (int)syscall(CREATE_RULESET, &attributes, sizeof(attributes), 0);
    return s->ruleset < 0 ? -1 : 0;
}

// Puts the rules in force, if result is 0, and gives them up.
static int enforce(const struct sandbox *s, int result) {
    // Asked for by the kernel where a capability is missing; a guest executes
    // nothing that could give privileges.
    if (result == 0)
        result = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (result == 0)
        result = (int)syscall(RESTRICT_SELF, s->ruleset, 0);
    int saved = errno;
    close(s->ruleset);
    errno = saved;
    return result;
}

static int hide(struct sandbox *s, const struct wasmshim_stage *stage) {
    if (begin(s) < 0)
        return -1;
    int result = allow_listing(s);
    if (result == 0)
        result = allow_entries(s, "");
    if (result == 0)
        result = allow_layers(s, stage);
    return enforce(s, result);
}

int wasmshim_hide(const struct wasmshim_stage *stage, char *why, size_t size) {
    struct sandbox s = {.hidden = &stage->hidden};
    int result = hide(&s, stage);
    int saved = errno;
    if (result < 0 && s.unlisted[0] != 0)
        snprintf(why, size, "the container's user may not list %s, where everything else has to be allowed",
                 s.unlisted);
    else if (result < 0)
        snprintf(why, size, "Landlock: %s", strerror(saved));
    errno = saved;
    return result;
}

int wasmshim_hide_all(void) {
    struct sandbox s = {0};
    return begin(&s) < 0 ? -1 : enforce(&s, 0);
}
