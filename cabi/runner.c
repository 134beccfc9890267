// SPDX-License-Identifier: Apache-2.0

// The container's first process: no Go, no thread, nothing but the engine.

#include "cabi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "context.h"
#include "sandbox.h"

enum {
    STOP_DEADLINE_MS = 5000,
};

// Read by the signal handler; set before it is installed.
static const wasm_shim_engine *engine;
static volatile sig_atomic_t stopped_by;

// Says what went wrong, and where: as data to the daemon, which never makes us
// wait, and as text on the container's stderr.
static void report(const char *name, const char *where, const char *cause) {
    struct iovec record[] = {
        {.iov_base = "", .iov_len = 1},
        {.iov_base = (void *)where, .iov_len = strlen(where) + 1},
        {.iov_base = (void *)cause, .iov_len = strlen(cause)},
    };
    wasmshim_tell(record, sizeof(record) / sizeof(record[0]));

    struct iovec line[] = {
        {.iov_base = (void *)name, .iov_len = strlen(name)},
        {.iov_base = ": ", .iov_len = 2},
        {.iov_base = (void *)cause, .iov_len = strlen(cause)},
        {.iov_base = "\n", .iov_len = 1},
    };
    ssize_t n = writev(STDERR_FILENO, line, sizeof(line) / sizeof(line[0]));
    (void)n; // nobody is left to tell
}

static int fail(const char *where, const char *format, ...) {
    char cause[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(cause, sizeof(cause), format, args);
    va_end(args);
    report(engine->name, where, cause);
    return WASMSHIM_EXIT_ERROR;
}

// Runs on any thread, at any time. A PID 1 ignores signals that it has no
// handler for, so this ends the process as the default action would have done
// elsewhere. A second signal does not wait for the first one's deadline.
static void on_signal(int sig) {
    int saved = errno;
    if (stopped_by == 0 && engine->stop != NULL && engine->stop(sig, engine->user_data) == WASM_SHIM_OK) {
        stopped_by = sig;
        uint32_t ms = engine->stop_deadline_ms != 0 ? engine->stop_deadline_ms : STOP_DEADLINE_MS;
        struct itimerval deadline = {.it_value = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000}};
        if (setitimer(ITIMER_REAL, &deadline, NULL) == 0) {
            errno = saved;
            return;
        }
    }
    _exit(WASMSHIM_EXIT_SIGNAL + (stopped_by != 0 ? stopped_by : sig));
}

void wasmshim_catch_signals(void (*handler)(int)) {
    // Those that are not raised by a fault: these stay the engine's.
    static const int terminating[] = {SIGHUP,  SIGINT,  SIGQUIT,   SIGABRT, SIGUSR1, SIGUSR2, SIGALRM,  SIGTERM,
                                      SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSTKFLT};
    // The alternate stack, where a thread has one: a guest may have filled its
    // own to the brim.
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(terminating) / sizeof(terminating[0]); i++)
        sigaction(terminating[i], &action, NULL);
    for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
        sigaction(sig, &action, NULL);

    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

// Reads the context into memory that lives as long as the process.
static const char *read_stage(struct wasmshim_stage *stage) {
    struct stat st;
    if (fstat(WASMSHIM_FD_STAGE, &st) < 0)
        return "no context on descriptor 4: this process is started by containerd only";
    if (st.st_size <= 0 || st.st_size > WASMSHIM_STAGE_MAX)
        return "context of a wrong size";
    uint8_t *bytes = malloc((size_t)st.st_size);
    if (bytes == NULL)
        return "out of memory";
    if (pread(WASMSHIM_FD_STAGE, bytes, (size_t)st.st_size, 0) != st.st_size)
        return "cannot read the context";
    return wasmshim_stage_decode(bytes, (size_t)st.st_size, stage);
}

// Makes the command line what the container's spec says. argv[0] is the path
// by which this binary was executed; the rest is the container's.
static void set_title(int argc, char **argv, const char *name) {
    prctl(PR_SET_NAME, name);
    if (argc < 2)
        return;
    char *end = argv[argc - 1] + strlen(argv[argc - 1]) + 1;
    size_t n = (size_t)(end - argv[1]);
    memmove(argv[0], argv[1], n);
    memset(argv[0] + n, 0, (size_t)(end - argv[0]) - n);
    // Cuts off the NULs that are left over; needs a capability that few
    // containers have, and only ps with odd options shows the difference.
    prctl(PR_SET_MM, PR_SET_MM_ARG_END, argv[0] + n, 0, 0);
}

struct outcome {
    const char *where;
    const char *text; // when the engine said nothing
    int code;
};

static struct outcome outcome(int32_t status) {
    switch (status) {
    case WASM_SHIM_ERROR_LOAD:
        return (struct outcome){"load", "the guest cannot be loaded", WASMSHIM_EXIT_LOAD};
    case WASM_SHIM_ERROR_COMPILE:
        return (struct outcome){"compile", "the guest cannot be compiled", WASMSHIM_EXIT_LOAD};
    case WASM_SHIM_UNSUPPORTED:
        return (struct outcome){"load", "the engine does not run this kind of guest", WASMSHIM_EXIT_LOAD};
    case WASM_SHIM_ERROR_TRAP:
        return (struct outcome){"trap", "the guest trapped", WASMSHIM_EXIT_TRAP};
    case WASM_SHIM_ERROR:
        return (struct outcome){"run", "the engine failed", WASMSHIM_EXIT_ERROR};
    default:
        return (struct outcome){"run", "the engine returned an unknown status", WASMSHIM_EXIT_ERROR};
    }
}

static int run(wasm_shim_context *ctx) {
    const struct wasmshim_stage *s = &ctx->stage;
    int32_t exit_code = 0;
    int32_t status = WASM_SHIM_OK;

    if (s->kind == WASM_SHIM_KIND_OTHER && engine->can_handle != NULL)
        status = engine->can_handle(ctx, engine->user_data);
    if ((s->kind & engine->kinds) == 0)
        status = WASM_SHIM_UNSUPPORTED;
    if (status == WASM_SHIM_OK)
        status = engine->run_wasi(ctx, &exit_code, engine->user_data);
    if (status == WASM_SHIM_OK)
        return exit_code & 0xff;
    // Whatever a stopped guest fails with, the signal is the reason.
    if (stopped_by != 0)
        return WASMSHIM_EXIT_SIGNAL + stopped_by;

    struct outcome o = outcome(status);
    report(engine->name, o.where, ctx->error != NULL ? ctx->error : o.text);
    return o.code;
}

int wasmshim_runner(int argc, char **argv, const wasm_shim_engine *e) {
    engine = e;
    // First of all: until then, a signal to this PID 1 is lost.
    wasmshim_catch_signals(on_signal);
    // A PID 1 never dies of it, so that a write says EPIPE; the same elsewhere.
    signal(SIGPIPE, SIG_IGN);
    fcntl(WASMSHIM_FD_STATUS, F_SETFD, FD_CLOEXEC);

    static wasm_shim_context ctx;
    const char *bad = read_stage(&ctx.stage);
    if (bad != NULL)
        return fail("load", "context: %s", bad);
    ctx.engine = engine->name;
    ctx.log_level = wasmshim_log_level(ctx.stage.log_level);
    struct stat st;
    ctx.has_log = fstat(WASMSHIM_FD_STATUS, &st) == 0 && S_ISSOCK(st.st_mode);

    close(WASMSHIM_FD_EXE);
    close(WASMSHIM_FD_STAGE);
    // Nothing else is ever passed on; a guest with "/" open must not depend on
    // that. Kernels before 5.9 do not have the call.
    syscall(SYS_close_range, WASMSHIM_FD_END, ~0U, 0);

    // Our marker, and what libcontainer adds: not the engine's business.
    clearenv();
    set_title(argc, argv, ctx.stage.entry_name);
    if (ctx.stage.hidden.count > 0 && wasmshim_hide(&ctx.stage.hidden) < 0) {
        if ((ctx.stage.flags & WASMSHIM_FLAG_MUST_HIDE) != 0)
            return fail("sandbox",
                        "cannot hide %s from the guest: Landlock: %s; set guest_proc to readonly to run without",
                        ctx.stage.hidden.items[0], strerror(errno));
        wasm_shim_log(&ctx, WASM_SHIM_LOG_DEBUG, "/proc is read-only and not hidden from the guest: no Landlock here");
    }
    return run(&ctx);
}
