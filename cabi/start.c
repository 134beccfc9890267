// SPDX-License-Identifier: Apache-2.0

// Answers `start` before there is Go: containerd connects while Go starts, and its first
// request waits in the socket.
//
// This is for what is usual: a container or sandbox that is a group of its own, on a
// socket that nobody has. The rules are those of shim/internal/bootstrap, whose test
// compares the two. Whatever is otherwise, and whatever fails, is left to it, which has
// a sentence for each error: a "no" here is never wrong, only slower.

#include "cabi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef DEFAULT_SOCKET_DIR // a test has its own
#define DEFAULT_SOCKET_DIR "/run/containerd/s"
#endif

static const char sandbox_dir[] = "io.containerd.sandbox.controller.v1.shim";

enum { CONFIG_MAX = 4 << 20, MAX_SLOTS = 1000 };

struct text {
    const char *at;
    size_t size;
};

static struct text text_of(const char *s) {
    return (struct text){s, strlen(s)};
}

static bool equal(struct text a, const char *b) {
    return a.size == strlen(b) && memcmp(a.at, b, a.size) == 0;
}

// Says whether a text has only letters, digits and what more has.
static bool made_of(struct text t, const char *more) {
    for (size_t i = 0; i < t.size; i++) {
        char c = t.at[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            (c == 0 || strchr(more, c) == NULL))
            return false;
    }
    return true;
}

static bool is_ascii(struct text t) {
    for (size_t i = 0; i < t.size; i++)
        if ((unsigned char)t.at[i] >= 0x80)
            return false;
    return true;
}

// Finds b in *a and moves *a behind it. Letters are given in lower case, and found in
// either if any_case.
static bool find(struct text *a, const char *b, bool any_case) {
    size_t n = strlen(b);
    for (size_t i = 0; i + n <= a->size; i++) {
        size_t j = 0;
        while (j < n && (a->at[i + j] == b[j] || (any_case && (a->at[i + j] | 0x20) == b[j])))
            j++;
        if (j == n) {
            *a = (struct text){a->at + i + n, a->size - i - n};
            return true;
        }
    }
    return false;
}

// Protobuf, of which only numbers and texts are known.
enum { WIRE_NUMBER = 0, WIRE_TEXT = 2 };
#define FIELD(number, wire) ((number) << 3 | (wire))

static bool take_number(struct text *in, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 70 && in->size > 0; shift += 7) {
        uint8_t byte = (uint8_t)*in->at++;
        in->size--;
        if (shift == 63 && byte > 1)
            return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool take_field(struct text *in, uint64_t *field, struct text *value) {
    uint64_t number;
    *value = (struct text){"", 0};
    if (!take_number(in, field) || !take_number(in, &number))
        return false;
    if ((*field & 7) == WIRE_NUMBER)
        return true;
    if ((*field & 7) != WIRE_TEXT || number > in->size)
        return false;
    *value = (struct text){in->at, (size_t)number};
    *in = (struct text){in->at + number, in->size - (size_t)number};
    return true;
}

// What the parameters say besides what is in the call.
struct params {
    struct text dir;     // for sockets; empty for the default
    struct text options; // the runtime's, as they came
    bool may_share;      // they may ask for a daemon of the node
};

// Says whether options are the generic ones, written out, which give the daemon no
// cgroup: to enter that may fail, and is done before the answer.
static bool are_usual_options(struct text extension, struct params *params) {
    uint64_t field;
    struct text any, value, options = {"", 0};
    if (!take_field(&extension, &field, &any) || field != FIELD(1, WIRE_TEXT) || extension.size > 0)
        return false;
    bool generic = false;
    while (any.size > 0) {
        if (!take_field(&any, &field, &value))
            return false;
        if (field == FIELD(1, WIRE_TEXT))
            generic = equal(value, "runtimeoptions.v1.Options");
        else if (field == FIELD(2, WIRE_TEXT))
            options = value;
        else
            return false;
    }
    if (!generic)
        return false;
    params->options = options;
    while (options.size > 0) {
        if (!take_field(&options, &field, &value) || !is_ascii(value))
            return false;
        if (field == FIELD(3, WIRE_TEXT)) {
            struct text toml = value, same = value, daemon = value;
            params->may_share = params->may_share || find(&daemon, "daemon", false);
            if (find(&toml, "shimcgroup", true) || find(&same, "\\", false))
                return false;
        } else if (field != FIELD(1, WIRE_TEXT)) {
            return false; // a file's path
        }
    }
    return true;
}

// Reads BootstrapParams, if the input is that and has nothing unusual.
static bool read_params(struct text in, const struct wasmshim_call *call, struct params *params) {
    uint64_t field;
    struct text value, id = {"", 0}, ns = {"", 0};
    while (in.size > 0) {
        if (!take_field(&in, &field, &value))
            return false;
        switch (field) {
        case FIELD(1, WIRE_TEXT):
            id = value;
            break;
        case FIELD(2, WIRE_TEXT):
            ns = value;
            break;
        case FIELD(9, WIRE_TEXT):
            params->dir = value;
            break;
        case FIELD(3, WIRE_NUMBER): // log level
        case FIELD(4, WIRE_TEXT):   // containerd's version, addresses and binary
        case FIELD(5, WIRE_TEXT):
        case FIELD(6, WIRE_TEXT):
        case FIELD(7, WIRE_TEXT):
            break;
        case FIELD(8, WIRE_TEXT):
            if (!are_usual_options(value, params))
                return false;
            continue;
        default:
            return false;
        }
        if (!is_ascii(value))
            return false;
    }
    return equal(id, call->id) && equal(ns, call->ns);
}

// Says whether the container of the working directory, the bundle, is a group of its own:
// nothing in its config.json can be an annotation that says something else.
static bool is_own_group(struct text config, const char *id) {
    struct text rest = config;
    while (rest.size > 0 && strchr(" \t\r\n", rest.at[rest.size - 1]) != NULL)
        rest.size--;
    if (rest.size == 0 || rest.at[0] != '{' || rest.at[rest.size - 1] != '}')
        return false; // it is no JSON, or not all of it
    rest = config;
    if (find(&rest, "io.containerd.runc.v2.group", false))
        return false;
    for (rest = config; find(&rest, "io.kubernetes.cri.sandbox-id", false);) {
        size_t n = strlen(id);
        if (rest.size < n + 4 || memcmp(rest.at, "\":\"", 3) != 0 || memcmp(rest.at + 3, id, n) != 0 ||
            rest.at[n + 3] != '"')
            return false;
    }
    // A letter may be written as \u0061, which nobody does; these are what Go writes so.
    for (rest = config; find(&rest, "\\u", false);)
        if (rest.size < 4 || memcmp(rest.at, "00", 2) != 0 ||
            (rest.at[2] >= '2' && memcmp(rest.at, "0026", 4) != 0 && memcmp(rest.at, "003c", 4) != 0 &&
             memcmp(rest.at, "003e", 4) != 0))
            return false;
    return true;
}

// Says whether a bundle, an absolute path, is a sandbox's: DIR/sandbox_dir/NAMESPACE/ID.
static bool is_sandbox(const char *bundle) {
    size_t end = strlen(bundle);
    for (int up = 0; up < 2; up++) {
        while (end > 0 && bundle[end - 1] != '/')
            end--;
        if (end == 0)
            return false;
        end--; // the slash
    }
    size_t n = strlen(sandbox_dir);
    return end > n && bundle[end - n - 1] == '/' && memcmp(bundle + end - n, sandbox_dir, n) == 0;
}

// Reads a regular file that is not too large. The caller frees it.
static bool read_file(const char *path, struct text *out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    struct stat st;
    char *bytes = NULL;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= CONFIG_MAX &&
              (bytes = malloc((size_t)st.st_size + 1)) != NULL && read(fd, bytes, (size_t)st.st_size + 1) == st.st_size;
    close(fd);
    if (!ok)
        free(bytes);
    *out = (struct text){bytes, ok ? (size_t)st.st_size : 0};
    return ok;
}

static bool has_own_daemon(const char *id, const char *bundle) {
    if (is_sandbox(bundle))
        return true;
    struct text config;
    if (!read_file("config.json", &config))
        return false;
    bool own = is_own_group(config, id);
    free((char *)config.at);
    return own;
}

// Reads the start of a small file of /proc.
static bool read_line(const char *path, char *line, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, line, size - 1);
    close(fd);
    line[n > 0 ? n : 0] = 0;
    return n > 0;
}

// Says whether the kernel is new enough and this is no user namespace, for sure.
static bool is_usual_machine(void) {
    struct utsname u;
    int major, minor;
    char map[128];
    unsigned long inside, outside, count;
    return uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
           (major > 5 || (major == 5 && minor >= 6)) && read_line("/proc/self/uid_map", map, sizeof(map)) &&
           sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 && outside == 0 &&
           count == UINT32_MAX;
}

static bool is_set(const char *variable) {
    const char *value = getenv(variable);
    return value != NULL && *value != 0;
}

// The path of the socket of a group.
static bool name_socket(const struct wasmshim_call *call, const char *shim, struct text dir, struct text group,
                        struct sockaddr_un *name) {
    char text[16384], hash[65];
    int n = snprintf(text, sizeof(text), "io.containerd.%s.v1%c%s%c%s%c", shim, 0, call->address, 0, call->ns, 0);
    if (n < 0 || (size_t)n + group.size > sizeof(text))
        return false;
    memcpy(text + n, group.at, group.size);
    wasmshim_sha256(text, (size_t)n + group.size, hash);
    if (dir.size == 0)
        dir = text_of(DEFAULT_SOCKET_DIR);
    struct text odd = dir, dots = dir;
    // Go makes paths shorter.
    if (dir.at[0] != '/' || dir.at[dir.size - 1] == '/' || !made_of(dir, "/._-") || find(&odd, "//", false) ||
        find(&dots, "/.", false))
        return false;
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    n = snprintf(name->sun_path, sizeof(name->sun_path), "%.*s/%s", (int)dir.size, dir.at, hash);
    return n > 0 && (size_t)n < sizeof(name->sun_path);
}

// The path of a slot, where a daemon of the node gives out places.
static bool name_slot(const struct wasmshim_call *call, const char *shim, const struct params *params, int i,
                      struct sockaddr_un *name) {
    char group[8192];
    struct stat exe;
    if (stat("/proc/self/exe", &exe) < 0)
        return false;
    int n = snprintf(group, sizeof(group), "%cnode%c%d%c%llu %llu %lld.%ld %lld%c", 0, 0, i, 0,
                     (unsigned long long)exe.st_dev, (unsigned long long)exe.st_ino, (long long)exe.st_mtim.tv_sec,
                     exe.st_mtim.tv_nsec, (long long)exe.st_size, 0);
    if (n < 0 || (size_t)n + params->options.size > sizeof(group))
        return false;
    memcpy(group + n, params->options.at, params->options.size);
    return name_socket(call, shim, params->dir, (struct text){group, (size_t)n + params->options.size}, name);
}

// Locks the directory of a socket, for those who bind or remove in it. Closed, it is
// unlocked.
static int lock_dir(const struct sockaddr_un *name) {
    char dir[sizeof(name->sun_path)];
    snprintf(dir, sizeof(dir), "%s", name->sun_path);
    *strrchr(dir, '/') = 0;
    int lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock >= 0 && flock(lock, LOCK_EX) < 0) {
        close(lock);
        lock = -1;
    }
    return lock;
}

static bool is_free(const struct sockaddr_un *name) {
    struct stat st;
    return lstat(name->sun_path, &st) < 0 && errno == ENOENT;
}

// How long a daemon may take to answer. One that was killed answers never.
static const struct timeval ask_timeout = {.tv_sec = 2};

enum slot { SLOT_UNUSED, SLOT_FULL, SLOT_ADMITS };

// Asks the daemon in a slot for a place. Its answer is where it serves.
static enum slot ask(const struct sockaddr_un *slot, const char *id, const char *link, const char *bundle, char *daemon,
                     size_t size) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return SLOT_UNUSED;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ask_timeout, sizeof(ask_timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &ask_timeout, sizeof(ask_timeout));
    char text[2 * PATH_MAX];
    int n = snprintf(text, sizeof(text), "%s\n%s\n%s\n\n", id, link, bundle);
    enum slot found = SLOT_UNUSED;
    if (connect(fd, (const struct sockaddr *)slot, sizeof(*slot)) == 0) {
        size_t got = 0;
        ssize_t r = -1;
        if (wasmshim_write_all(fd, text, (size_t)n) == 0)
            while (got < size - 1 && (r = read(fd, daemon + got, size - 1 - got)) > 0)
                got += (size_t)r;
        daemon[got] = 0;
        found = r == 0 && got > 0 ? SLOT_ADMITS : SLOT_FULL;
    }
    close(fd);
    return found;
}

// Finds a place in a daemon of the node that runs, and links it to where the container's
// socket is. If there is none, it is for Go to start one.
static bool join_daemon(const struct wasmshim_call *call, const char *shim, const struct params *params,
                        const struct sockaddr_un *link, const char *bundle) {
    // Nobody else waits while a daemon is asked, which may take its time.
    enum slot found = is_free(link) ? SLOT_FULL : SLOT_UNUSED;
    struct sockaddr_un slot;
    char daemon[sizeof(slot.sun_path)];
    for (int i = 0; found == SLOT_FULL && i < MAX_SLOTS; i++) {
        if (!name_slot(call, shim, params, i, &slot))
            return false;
        found = ask(&slot, call->id, link->sun_path, bundle, daemon, sizeof(daemon));
    }
    return found == SLOT_ADMITS && symlink(daemon, link->sun_path) == 0;
}

// Binds where there is nothing, with the directory's lock.
static int listen_at(const struct sockaddr_un *name) {
    int lock = lock_dir(name);
    if (lock < 0)
        return -1;
    int fd = -1;
    if (is_free(name) && (fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) >= 0) {
        bool bound = bind(fd, (const struct sockaddr *)name, sizeof(*name)) == 0;
        if (!bound || chmod(name->sun_path, 0600) < 0 || listen(fd, SOMAXCONN) < 0) {
            if (bound)
                unlink(name->sun_path);
            close(fd);
            fd = -1;
        }
    }
    close(lock);
    return fd;
}

static bool write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool ok = wasmshim_write_all(fd, text, strlen(text)) == 0;
    return close(fd) == 0 && ok;
}

static bool worsen_oom_score(void) {
    static const char path[] = "/proc/self/oom_score_adj";
    char text[16];
    if (!read_line(path, text, sizeof(text)))
        return false;
    int score = atoi(text) + 1;
    snprintf(text, sizeof(text), "%d", score < 1000 ? score : 1000);
    return write_file(path, text);
}

static char *put_text(char *p, int field, const char *text) {
    size_t n = strlen(text); // below 128
    *p++ = (char)FIELD(field, WIRE_TEXT);
    *p++ = (char)n;
    memcpy(p, text, n);
    return p + n;
}

// Writes the answer to start, behind the exit code that is sent before it.
static size_t write_answer(char *answer, size_t size, const char *address, bool protobuf) {
    answer[0] = 0;
    if (!protobuf) {
        const char *form =
            is_set("MAX_SHIM_VERSION") ? "{\"version\":2,\"address\":\"%s\",\"protocol\":\"ttrpc\"}" : "%s";
        return 1 + (size_t)snprintf(answer + 1, size - 1, form, address);
    }
    char any[64], extension[66], *p = answer + 1;
    *p++ = (char)FIELD(1, WIRE_NUMBER);
    *p++ = 3; // version
    p = put_text(p, 2, address);
    p = put_text(p, 3, "ttrpc");
    *put_text(any, 1, "type.googleapis.com/containerd.types.MountCapabilities") = 0;
    *put_text(extension, 1, any) = 0;
    p = put_text(p, 6, extension);
    return (size_t)(p - answer);
}

// Answers on result, where nobody may wait any more.
static bool send_answer(int result, const char *answer, size_t size) {
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGPIPE, &ignore, &before);
    bool ok = wasmshim_write_all(result, answer, size) == 0;
    sigaction(SIGPIPE, &before, NULL);
    return ok;
}

bool wasmshim_read_input(struct wasmshim_start *start) {
    size_t room = 0;
    for (;;) {
        if (start->input_size == room) {
            char *more = realloc(start->input, room = room == 0 ? 4096 : 2 * room);
            if (more == NULL)
                return false;
            start->input = more;
        }
        ssize_t n = read(STDIN_FILENO, start->input + start->input_size, room - start->input_size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        start->input_size += (size_t)n;
        if (start->input_size > WASMSHIM_INPUT_MAX)
            return true; // which is not understood
    }
}

// Writes the address into the bundle and gives the answer. It does not return if there is
// nobody to hear it.
static bool answer_with(const struct sockaddr_un *name, bool protobuf, struct wasmshim_start *start) {
    static const char scheme[] = "unix://";
    char address[sizeof(scheme) + sizeof(name->sun_path)], answer[256];
    snprintf(address, sizeof(address), "%s%s", scheme, name->sun_path);
    if (!write_file("address", address))
        return false;
    if (!send_answer(start->result, answer, write_answer(answer, sizeof(answer), address, protobuf))) {
        unlink(name->sun_path);
        _exit(1);
    }
    close(start->result);
    start->result = -1;
    return true;
}

void wasmshim_answer_start(const struct wasmshim_call *call, const char *shim, struct wasmshim_start *start) {
    struct text input = {start->input, start->input_size};
    struct params params = {.dir = {"", 0}, .options = {"", 0}};
    struct sockaddr_un name;
    char bundle[PATH_MAX];
    bool protobuf = input.size > 0;
    if (!call->is_usual || call->ns == NULL || *call->ns == 0 || call->id == NULL || *call->id == 0 ||
        call->address == NULL || call->bundle != NULL || !made_of(text_of(call->id), "._-") ||
        strcmp(call->id, ".") == 0 || strcmp(call->id, "..") == 0)
        return;
    if (protobuf && !read_params(input, call, &params))
        return;
    if (is_set("SCHED_CORE") || !is_usual_machine() || getcwd(bundle, sizeof(bundle)) == NULL ||
        !has_own_daemon(call->id, bundle) || !name_socket(call, shim, params.dir, text_of(call->id), &name))
        return;
    if (params.may_share) {
        if (!join_daemon(call, shim, &params, &name, bundle))
            return;
        if (answer_with(&name, protobuf, start))
            _exit(0); // the container's daemon runs already
        unlink(name.sun_path);
        return;
    }
    int fd = listen_at(&name);
    if (fd < 0)
        return;
    if (!worsen_oom_score() || !answer_with(&name, protobuf, start)) {
        unlink(name.sun_path);
        close(fd);
        return;
    }
    start->listener = fd;
}
