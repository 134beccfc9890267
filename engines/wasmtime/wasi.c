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

static int32_t set_env(struct guest *g, wasi_config_t *config) {
    const char *const *env;
    size_t count = wasm_shim_env(g->ctx, &env);
    const char **names = calloc(2 * (count + 1), sizeof(*names));
    if (names == NULL)
        return fail(g, WASM_SHIM_ERROR, "out of memory");
    const char **values = names + count + 1;
    size_t n = 0;
    bool has_pwd = false;
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(env[i], '=');
        if (equals == NULL || equals == env[i])
            continue;
        names[n] = strndup(env[i], (size_t)(equals - env[i]));
        if (names[n] == NULL)
            return fail(g, WASM_SHIM_ERROR, "out of memory");
        has_pwd = has_pwd || strcmp(names[n], "PWD") == 0;
        values[n++] = equals + 1;
    }
    // Preview 1 knows no working directory, and the C API cannot set preview
    // 2's. Guests that have one by convention, Go's among them, read PWD.
    if (!has_pwd && strcmp(wasm_shim_cwd(g->ctx), "/") != 0) {
        names[n] = "PWD";
        values[n++] = wasm_shim_cwd(g->ctx);
    }
    if (!wasi_config_set_env(config, n, names, values))
        return fail(g, WASM_SHIM_ERROR_LOAD, "an environment variable is not UTF-8, which WASI requires");
    return WASM_SHIM_OK;
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

int32_t set_wasi(struct guest *g) {
    wasi_config_t *config = wasi_config_new();
    wasi_config_inherit_stdin(config);
    wasi_config_inherit_stdout(config);
    wasi_config_inherit_stderr(config);
    int32_t status = set_args(g, config);
    if (status == WASM_SHIM_OK)
        status = set_env(g, config);
    if (status == WASM_SHIM_OK)
        status = set_preopens(g, config);
    if (status != WASM_SHIM_OK)
        return status;
    wasmtime_error_t *error = wasmtime_context_set_wasi(g->context, config);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR, error, "cannot set up WASI");
    return WASM_SHIM_OK;
}
