// SPDX-License-Identifier: Apache-2.0

// wasm_shim_main: which process is this one? Decided before the Go runtime
// exists, because most of them do without it, and the rest start it once.

#include "cabi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "_cgo_export.h"
#include "context.h"

// What starts a Go program: its own constructor, of which scripts/pack.sh makes a
// function so that it does not run before nsexec, which needs a process with a single
// thread. There are two, of which a process starts one: the core, and the stage in a
// container (cmd/libwasmshim-init). Weak, because they are not there where this package
// is part of an ordinary Go program, which does not call them.
extern void wasmshim_rt0(int, char **, char **) __attribute__((weak));
extern void wasmshim_init_rt0(int, char **, char **) __attribute__((weak));
extern void wasmshimGoInit(void) __attribute__((weak));

static void start_go(void (*rt0)(int, char **, char **), int argc, char **argv) {
    if (rt0 == NULL) {
        // Calling Go would wait for ever.
        fprintf(stderr,
                "wasm_shim_main: no Go runtime in this binary: link it with the libwasmshim.a of `make build`\n");
        exit(1);
    }
    // Each thread would have an arena of its own, several system calls and pages for the
    // little that Go's threads take from C.
    mallopt(M_ARENA_MAX, 1);
    rt0(argc, argv, environ);
}

void wasmshim_start_go(int argc, char **argv) {
    start_go(wasmshim_rt0, argc, argv);
}

static void end_created(int sig, siginfo_t *info, void *unused) {
    (void)info;
    (void)unused;
    _exit(WASMSHIM_EXIT_SIGNAL + sig);
}

static int go_init(int argc, char **argv) {
    // A first process ignores signals that it has no handler for. Until the
    // container is started, this is what a signal finds; exec takes it away.
    wasmshim_catch_signals(end_created);
    start_go(wasmshim_init_rt0, argc, argv);
    wasmshimGoInit();
    return 1;
}

static int go_main(int argc, char **argv, const wasm_shim_engine *engine, struct wasmshim_start *start) {
    wasmshim_start_go(argc, argv);
    return wasmshimGoMain((wasm_shim_engine *)engine, start);
}

// Answers `delete` from the record that the daemon left once it had cleaned
// up. Returns false if there is none: then the cleanup is ours, in Go.
static bool answer_delete(const char *bundle) {
    char path[PATH_MAX];
    char record[4096];
    int n = snprintf(path, sizeof(path), "%s/shim.deleted", bundle);
    if (n < 0 || (size_t)n >= sizeof(path))
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    struct stat st;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= (off_t)sizeof(record) &&
              read(fd, record, sizeof(record)) == st.st_size;
    close(fd);
    ok = ok && !wasmshim_socket_is_left(bundle);
    return ok && wasmshim_write_all(STDOUT_FILENO, record, (size_t)st.st_size) == 0;
}

static int null_streams(void) {
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup2(fd, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
        return -1;
    if (fd > STDERR_FILENO)
        close(fd);
    return 0;
}

static int refuse_start(int result_fd, const char *what) {
    char text[256] = {1}; // the exit code
    int n = snprintf(text + 1, sizeof(text) - 1, "%s: %s\n", what, strerror(errno));
    wasmshim_write_all(result_fd, text, 1 + (size_t)n);
    return 1;
}

// Where Go writes when it crashes before it has a log.
static void crash_into_log(void) {
    int fd = open("log", O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
        dup2(fd, STDERR_FILENO);
    close(fd);
}

// The daemon's half of `start`. The word "start" itself, the last argument, is taken out
// of the command line, which shows this process as what it is.
static int daemon_main(int argc, char **argv, const wasm_shim_engine *engine, struct wasmshim_call *call,
                       int result_fd) {
    setsid();
    struct wasmshim_start start = {.result = result_fd, .listener = -1};
    if (!wasmshim_read_input(&start))
        return refuse_start(result_fd, "read bootstrap parameters from standard input");
    if (null_streams() < 0)
        return refuse_start(result_fd, "open /dev/null for the shim daemon's streams");
    memset(call->word, 0, strlen(call->word));
    // Without it the line ends with a few NULs more; not all kernels allow it.
    prctl(PR_SET_MM, PR_SET_MM_ARG_END, call->word, 0, 0);
    wasmshim_answer_start(call, engine->shim_name != NULL ? engine->shim_name : engine->name, &start);
    if (start.listener >= 0) {
        // Else the daemon may have a cgroup to join, and could be moved back.
        wasmshim_warm_cgroups();
        if (engine->no_setup_logger == 0)
            crash_into_log();
    }
    return go_main(argc, argv, engine, &start);
}

// Waits for the daemon's answer: one byte, the exit code, and a text.
static int relay(int fd, pid_t daemon) {
    char text[65536];
    size_t n = 0;
    ssize_t r;
    while (n < sizeof(text) && ((r = read(fd, text + n, sizeof(text) - n)) > 0 || (r < 0 && errno == EINTR)))
        n += r > 0 ? (size_t)r : 0;
    if (n > 0) {
        int code = (unsigned char)text[0];
        wasmshim_write_all(code == 0 ? STDOUT_FILENO : STDERR_FILENO, text + 1, n - 1);
        return code;
    }
    int status = 0;
    if (waitpid(daemon, &status, 0) == daemon && WIFSIGNALED(status))
        fprintf(stderr, "shim daemon died before it answered (signal %d)\n", WTERMSIG(status));
    else
        fprintf(stderr, "shim daemon died before it answered (exit %d)\n", WEXITSTATUS(status));
    return 1;
}

// `start` forks here, where a process is small and has one thread, instead of
// executing the binary and starting Go a second time.
static int start(int argc, char **argv, const wasm_shim_engine *engine, struct wasmshim_call *call) {
    int result[2];
    if (pipe2(result, O_CLOEXEC) < 0) {
        perror("pipe for the shim daemon's answer");
        return 1;
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork the shim daemon");
        return 1;
    }
    if (pid == 0) {
        close(result[0]);
        return daemon_main(argc, argv, engine, call, result[1]);
    }
    close(result[1]);
    // The parent must not hold open what the daemon reads.
    close(STDIN_FILENO);
    return relay(result[0], pid);
}

int wasm_shim_main(int argc, char **argv, const wasm_shim_engine *given) {
    const char *role = getenv("_WASMSHIM_ROLE");
    bool runner = role != NULL && strcmp(role, "runner") == 0;
    bool compiler = role != NULL && strcmp(role, "compiler") == 0;
    // The role is looked at first: a container's arguments may be anything.
    if (!runner && !compiler && argc == 2 && strcmp(argv[1], "init") == 0 && getenv("_LIBCONTAINER_INITPIPE") != NULL)
        return go_init(argc, argv);

    static wasm_shim_engine engine;
    char msg[512];
    if (wasmshim_engine_read(given, &engine, msg, sizeof(msg)) < 0) {
        fprintf(stderr, "wasm_shim_main: %s\n", msg);
        return runner || compiler ? WASMSHIM_EXIT_ERROR : 1;
    }
    if (runner)
        wasmshim_end(wasmshim_runner(argc, argv, &engine));
    if (compiler)
        wasmshim_end(wasmshim_compiler(argc, argv, &engine));

    struct wasmshim_call call = wasmshim_parse_call(argc, argv);
    if (call.word != NULL && strcmp(call.word, "delete") == 0 && answer_delete(call.bundle != NULL ? call.bundle : "."))
        return 0;
    if (call.word != NULL && strcmp(call.word, "start") == 0)
        return start(argc, argv, &engine, &call);
    return go_main(argc, argv, &engine, NULL);
}

uint32_t wasm_shim_abi_version(void) {
    return WASM_SHIM_ABI_VERSION;
}
