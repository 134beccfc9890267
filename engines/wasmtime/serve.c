// SPDX-License-Identifier: Apache-2.0

// Components that answer HTTP.

#include "wasmtime.h"

#ifdef WASMSHIM_WASMTIME_FULL

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    // Beside those that run guests: the clock, the log, and some for files.
    MORE_THREADS = 4,
};

bool is_service(struct guest *g) {
    return g->component != NULL && strcmp(wasm_shim_entry_func(g->ctx), "_start") == 0 &&
           wasmshim_http_serves(g->component);
}

int32_t permit_http(struct guest *g) {
    struct variables v = {0};
    const char *bundle = NULL;
    int32_t status = list_env(g, &v);
    for (size_t i = 0; i < v.count; i++)
        if (strcmp(v.names[i], "SSL_CERT_FILE") == 0)
            bundle = v.values[i]; // the last one counts
    if (status == WASM_SHIM_OK)
        wasmshim_http_permit(g->network, bundle);
    return status;
}

static wasmtime_error_t *set_up(struct guest *g, wasmshim_http_t *http, const struct variables *v) {
    const char *const *args;
    size_t count = wasm_shim_args(g->ctx, &args);
    wasmtime_error_t *error = wasmshim_http_cwd(http, wasm_shim_cwd(g->ctx));
    for (size_t i = 0; i < count && error == NULL; i++)
        error = wasmshim_http_arg(http, args[i]);
    for (size_t i = 0; i < v->count && error == NULL; i++)
        error = wasmshim_http_env(http, v->names[i], v->values[i]);
    for (size_t i = 0; i < wasm_shim_preopen_count(g->ctx) && error == NULL; i++)
        error = wasmshim_http_dir(http, wasm_shim_preopen_host(g->ctx, i), wasm_shim_preopen_guest(g->ctx, i));
    return error;
}

static wasmtime_error_t *set_option(struct guest *g, wasmshim_http_t *http, const char *key) {
    const char *value = wasm_shim_option_value(g->ctx, key);
    return value != NULL ? wasmshim_http_option(http, key, value) : NULL;
}

static wasmtime_error_t *set_options(struct guest *g, wasmshim_http_t *http) {
    unsigned want = cpus(g) + MORE_THREADS, threads = startable_threads(want);
    char number[16];
    threads = threads > MORE_THREADS ? threads - MORE_THREADS : 1;
    // Each has its own heap: with one for all they would wait for each other.
    mallopt(M_ARENA_MAX, (int)threads + 1);
    snprintf(number, sizeof(number), "%u", threads);
    wasmtime_error_t *error = wasmshim_http_option(http, "threads", number);
    int artifact = wasm_shim_artifact_fd(g->ctx, g->layer);
    if (artifact >= 0 && error == NULL) {
        char file[32];
        snprintf(file, sizeof(file), "/proc/self/fd/%d", artifact);
        error = wasmshim_http_option(http, "artifact", file);
    }
    for (size_t i = 0; http_options[i] != NULL && error == NULL; i++)
        error = set_option(g, http, http_options[i]->key);
    if (error == NULL)
        error = set_option(g, http, "max-memory");
    return error != NULL ? error : set_option(g, http, "fuel");
}

static int signalled;

static void on_signal(int number) {
    int saved = errno;
    unsigned char byte = (unsigned char)number;
    // A full pipe says it already.
    ssize_t written = write(signalled, &byte, 1);
    (void)written;
    errno = saved;
}

// Has SIGTERM and SIGINT go to a pipe, as bytes. Returns its end for reading, or -1.
static int open_signals(void) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    signalled = ends[1];
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    return ends[0];
}

int32_t serve(struct guest *g) {
    struct variables v = {0};
    int32_t status = list_env(g, &v);
    if (status == WASM_SHIM_OK)
        status = set_network(g);
    if (status == WASM_SHIM_OK)
        status = permit_http(g);
    if (status != WASM_SHIM_OK)
        return status;
    wasmshim_http_t *http = wasmshim_http_new(g->network);
    wasmtime_error_t *error = set_up(g, http, &v);
    if (error == NULL)
        error = set_options(g, http);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR_LOAD, error, "cannot serve %s", g->path);
    int signals = open_signals();
    if (signals < 0)
        return fail(g, WASM_SHIM_ERROR, "cannot make a pipe: %s", strerror(errno));
    trim_memory();
    error = wasmshim_http_serve(g->component, http, signals, &g->exit_code);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR, error, NULL);
    return WASM_SHIM_OK;
}

#endif
