// SPDX-License-Identifier: Apache-2.0

// A process of the container: no Go, no thread, nothing but the engine.

#include "cabi.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "context.h"
#include "sandbox.h"

enum {
    STOP_DEADLINE_MS = 5000,
};

// Read by the signal handler; set before it is installed.
static const wasm_shim_engine *engine;
// The first signal; set before the engine is asked to stop, so that however the
// guest ends then, this is why.
static atomic_int stopped_by;

static int fail(const char *where, const char *format, ...) {
    char cause[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(cause, sizeof(cause), format, args);
    va_end(args);
    wasmshim_report(engine->name, where, cause);
    return WASMSHIM_EXIT_ERROR;
}

// Says whether this process has called abort.
static bool is_abort(int sig, const siginfo_t *info) {
    return sig == SIGABRT && info->si_code == SI_TKILL && info->si_pid == getpid();
}

// Runs on any thread, at any time, also on two at once. A PID 1 ignores signals
// that it has no handler for, so this ends the process as the default action
// would have done elsewhere. A second signal does not wait for the first one's
// deadline, nor for stop to return.
static void on_signal(int sig, siginfo_t *info, void *unused) {
    (void)unused;
    int saved = errno;
    int first = 0;
    if (!atomic_compare_exchange_strong(&stopped_by, &first, sig))
        _exit(WASMSHIM_EXIT_SIGNAL + first);
    if (is_abort(sig, info)) {
        wasmshim_tell_failure("run", "the engine crashed, by signal 6 (aborted)");
    } else if (engine->stop != NULL && engine->stop(sig, engine->user_data) == WASM_SHIM_OK) {
        uint32_t ms = engine->stop_deadline_ms != 0 ? engine->stop_deadline_ms : STOP_DEADLINE_MS;
        struct itimerval deadline = {.it_value = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000}};
        if (setitimer(ITIMER_REAL, &deadline, NULL) == 0) {
            errno = saved;
            return;
        }
    }
    _exit(WASMSHIM_EXIT_SIGNAL + sig);
}

void wasmshim_catch_signals(void (*handler)(int, siginfo_t *, void *)) {
    // Those that are not raised by a fault: these stay the engine's.
    static const int terminating[] = {SIGHUP,  SIGINT,  SIGQUIT,   SIGABRT, SIGUSR1, SIGUSR2, SIGALRM,  SIGTERM,
                                      SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSTKFLT};
    // The alternate stack, where a thread has one: a guest may have filled its
    // own to the brim.
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_ONSTACK | SA_SIGINFO};
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(terminating) / sizeof(terminating[0]); i++)
        sigaction(terminating[i], &action, NULL);
    for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
        sigaction(sig, &action, NULL);

    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
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
    int signal = atomic_load(&stopped_by);
    if (signal != 0)
        return WASMSHIM_EXIT_SIGNAL + signal;

    struct outcome o = outcome(status);
    char *error = wasmshim_take_error(ctx);
    if (ctx->denied)
        fail(o.where, "%s; its mode allows it: the container's AppArmor profile, or another security module, does not",
             error != NULL ? error : o.text);
    else
        wasmshim_report(engine->name, o.where, error != NULL ? error : o.text);
    free(error);
    return o.code;
}

// Hides what the context says. Returns an exit code, or 0.
static int hide(wasm_shim_context *ctx) {
    char why[512], line[640];
    const struct wasmshim_stage *s = &ctx->stage;
    if (s->hidden.count == 0 || wasmshim_hide(s, why, sizeof(why)) == 0)
        return 0;
    bool is_usual = errno == ENOSYS || errno == EOPNOTSUPP; // the kernel has no Landlock
    if ((s->flags & WASMSHIM_FLAG_MUST_HIDE) != 0)
        return fail("sandbox", "cannot hide %s from the guest: %s; set guest_proc to readonly to run without",
                    s->hidden.items[0], why);
    snprintf(line, sizeof(line), "%s is read-only, and not hidden from the guest: %s", s->hidden.items[0], why);
    wasm_shim_log(ctx, is_usual ? WASM_SHIM_LOG_DEBUG : WASM_SHIM_LOG_WARN, line, NULL);
    return 0;
}

// Sets the limits that libcontainer's init, of which this process was made, could not
// have lived with. Returns an exit code, or 0.
static int set_limits(const struct wasmshim_stage *s) {
    for (size_t i = 0; i < s->rlimit_count; i++) {
        const struct wasmshim_rlimit *l = &s->rlimits[i];
        struct rlimit limit = {.rlim_cur = l->soft, .rlim_max = l->hard};
        if (setrlimit(l->resource, &limit) < 0)
            return fail("run", "cannot set the limit %" PRIu32 " of setrlimit(2) to %" PRIu64 ", %" PRIu64 ": %s",
                        l->resource, l->soft, l->hard, strerror(errno));
    }
    return 0;
}

int wasmshim_runner(int argc, char **argv, const wasm_shim_engine *e) {
    engine = e;
    // First of all: until then, a signal to this PID 1 is lost.
    wasmshim_catch_signals(on_signal);
    // A PID 1 never dies of it, so that a write says EPIPE; the same elsewhere.
    signal(SIGPIPE, SIG_IGN);

    static wasm_shim_context ctx = {.error_lock = PTHREAD_MUTEX_INITIALIZER};
    const char *bad = wasmshim_take_over(argc, argv, e, &ctx);
    if (bad != NULL)
        return fail("load", "context: %s", bad);
    int code = hide(&ctx);
    if (code == 0)
        code = set_limits(&ctx.stage);
    return code != 0 ? code : run(&ctx);
}
