// SPDX-License-Identifier: Apache-2.0

// The process that compiles: a container of its own, without rights. What it
// reads and writes are the descriptors of the layers' table.

#include "cabi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "context.h"
#include "sandbox.h"

// There is also a signal when the daemon has read after a queue was full.
static void end_with_daemon(int sig) {
    (void)sig;
    int saved = errno;
    struct pollfd status = {.fd = WASMSHIM_FD_STATUS};
    if (poll(&status, 1, 0) > 0 && (status.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0)
        _exit(WASMSHIM_EXIT_ERROR);
    errno = saved;
}

// A compiler whose daemon has died serves nobody. The other end of the status
// socket dies with the daemon; an event on this end sends the signal.
static void follow_daemon(void) {
    struct sigaction action = {.sa_handler = end_with_daemon, .sa_flags = SA_RESTART};
    sigaction(SIGIO, &action, NULL);
    fcntl(WASMSHIM_FD_STATUS, F_SETOWN, getpid());
    fcntl(WASMSHIM_FD_STATUS, F_SETFL, O_ASYNC | fcntl(WASMSHIM_FD_STATUS, F_GETFL));
}

static int failed(const wasm_shim_engine *engine, wasm_shim_context *ctx, int32_t status) {
    char *error = wasmshim_take_error(ctx);
    const char *cause = error != NULL                    ? error
                        : status == WASM_SHIM_ERROR_LOAD ? "the guest cannot be read"
                        : status == WASM_SHIM_ERROR_COMPILE || status == WASM_SHIM_ERROR
                            ? "the guest cannot be compiled"
                            : "the engine returned an unknown status";
    wasmshim_report(engine->name, "compile", cause);
    free(error);
    return status == WASM_SHIM_ERROR_LOAD || status == WASM_SHIM_ERROR_COMPILE ? WASMSHIM_EXIT_LOAD
                                                                               : WASMSHIM_EXIT_ERROR;
}

int wasmshim_compiler(int argc, char **argv, const wasm_shim_engine *engine) {
    // Nobody but root looks into this process, or opens what it has open.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    follow_daemon();
    signal(SIGXFSZ, SIG_IGN); // an artifact that is too large is an error of its write
    static wasm_shim_context ctx = {.compiles = true, .error_lock = PTHREAD_MUTEX_INITIALIZER};
    const char *bad = wasmshim_take_over(argc, argv, engine, &ctx);
    if (bad != NULL) {
        wasmshim_report(engine->name, "compile", bad);
        return WASMSHIM_EXIT_ERROR;
    }
    if (wasmshim_hide_all() < 0)
        wasm_shim_log(&ctx, WASM_SHIM_LOG_DEBUG, "the compiler's empty root is not closed: no Landlock here", NULL);
    if (engine->compile == NULL)
        return WASMSHIM_EXIT_UNSUPPORTED;
    int32_t status = engine->compile(&ctx, engine->user_data);
    if (status == WASM_SHIM_UNSUPPORTED)
        return WASMSHIM_EXIT_UNSUPPORTED;
    return status == WASM_SHIM_OK ? 0 : failed(engine, &ctx, status);
}
