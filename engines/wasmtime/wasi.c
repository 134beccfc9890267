// SPDX-License-Identifier: Apache-2.0

// What a guest gets of its container: arguments, environment, directories and
// the standard streams.

#include "wasmtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int32_t set_args(struct guest *g, wasi_config_t *config) {
    const char *const *args;
    size_t count = wasm_shim_args(g->ctx, &args);
    if (!wasi_config_set_argv(config, count, (const char **)args))
        return fail(g, WASM_SHIM_ERROR_LOAD, "an argument is not UTF-8, which WASI requires");
    return WASM_SHIM_OK;
}

int32_t list_env(struct guest *g, struct variables *v) {
    const char *const *env;
    size_t count = wasm_shim_env(g->ctx, &env);
    v->names = calloc(2 * (count + 1), sizeof(*v->names));
    if (v->names == NULL)
        return fail(g, WASM_SHIM_ERROR, "out of memory");
    v->values = v->names + count + 1;
    bool has_pwd = false;
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(env[i], '=');
        if (equals == NULL || equals == env[i])
            continue;
        v->names[v->count] = strndup(env[i], (size_t)(equals - env[i]));
        if (v->names[v->count] == NULL)
            return fail(g, WASM_SHIM_ERROR, "out of memory");
        has_pwd = has_pwd || strcmp(v->names[v->count], "PWD") == 0;
        v->values[v->count++] = equals + 1;
    }
    // Preview 1 knows no working directory, and wasmtime's C API cannot set
    // preview 2's. Guests that have one by convention, Go's among them, read PWD.
    if (!has_pwd && strcmp(wasm_shim_cwd(g->ctx), "/") != 0) {
        v->names[v->count] = "PWD";
        v->values[v->count++] = wasm_shim_cwd(g->ctx);
    }
    return WASM_SHIM_OK;
}

static int32_t set_env(struct guest *g, wasi_config_t *config) {
    struct variables v = {0};
    int32_t status = list_env(g, &v);
    if (status == WASM_SHIM_OK && !wasi_config_set_env(config, v.count, v.names, v.values))
        return fail(g, WASM_SHIM_ERROR_LOAD, "an environment variable is not UTF-8, which WASI requires");
    return status;
}

// For reading and writing: what may be written, the kernel decides.
static bool preopen(wasi_config_t *config, const char *host, const char *guest) {
#if WASMTIME_VERSION_MAJOR < 48
    return wasi_config_preopen_dir(config, host, guest, WASMTIME_WASI_DIR_PERMS_READ | WASMTIME_WASI_DIR_PERMS_WRITE,
                                   WASMTIME_WASI_FILE_PERMS_READ | WASMTIME_WASI_FILE_PERMS_WRITE);
#else
    return wasi_config_preopen_dir(config, host, guest, true);
#endif
}

static int32_t set_preopens(struct guest *g, wasi_config_t *config) {
    for (size_t i = 0; i < wasm_shim_preopen_count(g->ctx); i++) {
        const char *host = wasm_shim_preopen_host(g->ctx, i);
        if (preopen(config, host, wasm_shim_preopen_guest(g->ctx, i)))
            continue;
        // It does not say why; asking the kernel again usually does.
        int fd = open(host, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int why = errno;
        if (fd >= 0)
            close(fd);
        return fail(g, WASM_SHIM_ERROR_LOAD, "cannot open directory %s for the guest: %s", host,
                    fd < 0 ? strerror(why) : "its name in the guest is not valid");
    }
    return WASM_SHIM_OK;
}

#ifdef WASMSHIM_WASMTIME_FULL
static int32_t set_p1(struct guest *g) {
    g->p1 = wasmshim_p1_new();
    const char *const *args;
    size_t count = wasm_shim_args(g->ctx, &args);
    for (size_t i = 0; i < count; i++)
        wasmshim_p1_arg(g->p1, args[i]);
    struct variables v = {0};
    int32_t status = list_env(g, &v);
    for (size_t i = 0; i < v.count && status == WASM_SHIM_OK; i++)
        wasmshim_p1_env(g->p1, v.names[i], v.values[i]);
    wasmshim_p1_streams(g->p1);
    const char *sockets = wasm_shim_option_value(g->ctx, "tcplisten");
    wasmtime_error_t *error = sockets == NULL || *sockets == 0 ? NULL : wasmshim_p1_listen(g->p1, g->network, sockets);
    if (error != NULL)
        status = fail_with(g, WASM_SHIM_ERROR_LOAD, error, "engine option tcplisten");
    for (size_t i = 0; i < wasm_shim_preopen_count(g->ctx) && status == WASM_SHIM_OK; i++) {
        const char *host = wasm_shim_preopen_host(g->ctx, i);
        int number = wasmshim_p1_dir(g->p1, host, wasm_shim_preopen_guest(g->ctx, i));
        if (number != 0)
            status =
                fail(g, WASM_SHIM_ERROR_LOAD, "cannot open directory %s for the guest: %s", host, strerror(number));
    }
    return status;
}
#endif

int32_t set_wasi(struct guest *g) {
    int32_t status = WASM_SHIM_OK;
#ifdef WASMSHIM_WASMTIME_FULL
    status = set_network(g);
    if (status != WASM_SHIM_OK)
        return status;
    if (g->module != NULL)
        return set_p1(g);
    const char *sockets = wasm_shim_option_value(g->ctx, "tcplisten");
    if (sockets != NULL && *sockets != 0)
        return fail(g, WASM_SHIM_ERROR_LOAD,
                    "engine option tcplisten: found \"%s\", accepted: one only for modules; a component listens by "
                    "itself",
                    sockets);
    status = permit_http(g);
    if (status != WASM_SHIM_OK)
        return status;
#endif
    wasi_config_t *config = wasi_config_new();
#ifdef WASMSHIM_WASMTIME_FULL
    wasmshim_component_config(config, g->network, wasm_shim_cwd(g->ctx));
#else
    wasi_config_inherit_stdin(config);
    wasi_config_inherit_stdout(config);
    wasi_config_inherit_stderr(config);
#endif
    status = set_args(g, config);
    if (status == WASM_SHIM_OK)
        status = set_env(g, config);
    if (status == WASM_SHIM_OK)
        status = set_preopens(g, config);
    if (status != WASM_SHIM_OK)
        return status;
    wasmtime_error_t *error = wasmtime_context_set_wasi(g->context, config);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR, error, "cannot set up WASI");
#ifdef WASMSHIM_WASMTIME_FULL
    wasmtime_context_set_wasi_http(g->context);
#endif
    return WASM_SHIM_OK;
}
