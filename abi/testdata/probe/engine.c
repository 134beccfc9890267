// SPDX-License-Identifier: Apache-2.0

// An engine for tests: it does what the container's arguments say.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wasm_shim.h"

static volatile sig_atomic_t stopped;

static void print(const wasm_shim_context *ctx) {
    const char *const *list;
    printf("id=%s pod=%s ns=%s\n", wasm_shim_container_id(ctx), wasm_shim_pod_id(ctx), wasm_shim_namespace(ctx));
    size_t n = wasm_shim_args(ctx, &list);
    for (size_t i = 0; i < n; i++)
        printf("arg=%s\n", list[i]);
    printf("end of args: %d\n", list[n] == NULL);
    n = wasm_shim_env(ctx, &list);
    for (size_t i = 0; i < n; i++)
        printf("env=%s\n", list[i]);
    printf("cwd=%s path=%s func=%s name=%s arg0=%s file=%s\n", wasm_shim_cwd(ctx), wasm_shim_entry_path(ctx),
           wasm_shim_entry_func(ctx), wasm_shim_entry_name(ctx), wasm_shim_entry_arg0(ctx), wasm_shim_source_file(ctx));
    printf("kind=%u memory=%llu cpu=%llu\n", wasm_shim_kind(ctx), (unsigned long long)wasm_shim_memory_limit(ctx),
           (unsigned long long)wasm_shim_cpu_limit(ctx));
    const char *value = wasm_shim_option_value(ctx, "speed");
    printf("speed=%s spee=%s\n", value != NULL ? value : "(none)",
           wasm_shim_option_value(ctx, "spee") != NULL ? "set" : "(none)");
    for (size_t i = 0; i < wasm_shim_preopen_count(ctx); i++)
        printf("preopen=%s:%s\n", wasm_shim_preopen_host(ctx, i), wasm_shim_preopen_guest(ctx, i));
    printf("beyond=%d\n", wasm_shim_preopen_host(ctx, 1000) == NULL);
    printf("abi=%d\n", wasm_shim_abi_version() == WASM_SHIM_ABI_VERSION);
    printf("home=%d\n", getenv("HOME") != NULL);
}

static void at_exit(void) {
    printf("atexit ran\n");
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    const char *const *args;
    size_t n = wasm_shim_args(ctx, &args);
    const char *verb = n > 1 ? args[1] : "print";
    const char *with = n > 2 ? args[2] : "";
    if (user_data != &stopped)
        return WASM_SHIM_ERROR;
    if (strcmp(verb, "print") == 0) {
        print(ctx);
    } else if (strcmp(verb, "exit") == 0) {
        *exit_code = atoi(with);
    } else if (strcmp(verb, "status") == 0) {
        // A code that was set before failing is not looked at.
        *exit_code = 7;
        if (n > 3)
            wasm_shim_set_error(ctx, args[3]);
        return atoi(with);
    } else if (strcmp(verb, "log") == 0) {
        for (int32_t level = WASM_SHIM_LOG_ERROR; level <= WASM_SHIM_LOG_TRACE; level++)
            wasm_shim_log(ctx, level, with);
    } else if (strcmp(verb, "atexit") == 0) {
        atexit(at_exit);
    } else if (strcmp(verb, "sleep") == 0) {
        write(1, "ready\n", 6);
        for (;;)
            pause();
    } else if (strcmp(verb, "until-stopped") == 0) {
        write(1, "ready\n", 6);
        while (!stopped)
            usleep(1000);
        *exit_code = 3;
    } else if (strcmp(verb, "stopped-trap") == 0) {
        write(1, "ready\n", 6);
        while (!stopped)
            usleep(1000);
        return WASM_SHIM_ERROR_TRAP;
    } else if (strcmp(verb, "write") == 0) {
        *exit_code = write(1, "x", 1) == 1 ? 0 : 9;
    } else if (strcmp(verb, "abort") == 0) {
        abort();
    }
    return WASM_SHIM_OK;
}

// SIGUSR1 is stopped for, SIGUSR2 only promises to; the rest is not ours.
static int32_t stop(int32_t sig, void *user_data) {
    if (user_data != &stopped)
        return WASM_SHIM_ERROR;
    if (sig == SIGUSR1)
        stopped = 1;
    return sig == SIGUSR1 || sig == SIGUSR2 ? WASM_SHIM_OK : WASM_SHIM_UNSUPPORTED;
}

static const wasm_shim_option speed = {
    .size = sizeof(wasm_shim_option),
    .key = "speed",
    .help = "how fast",
    .flags = WASM_SHIM_OPTION_AFFECTS_COMPILATION,
};
static const wasm_shim_option *const options[] = {&speed, NULL};
static const char *const layer_types[] = {"application/vnd.probe+wasm", NULL};

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD,   .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT,
    .stop_deadline_ms = 200, .name = "probe",
    .version = "1.2.3",      .layer_types = layer_types,
    .options = options,      .user_data = (void *)&stopped,
    .run_wasi = run_wasi,    .stop = stop,
};

int main(int argc, char **argv) {
    return wasm_shim_main(argc, argv, &engine);
}
