// SPDX-License-Identifier: Apache-2.0

// An engine for tests of the compile cache: its artifact is the layer with a
// word before it and the option behind it, its guests print what they were given, and the option
// "compile" says what goes wrong.

#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "wasm_shim.h"

static const char *option(wasm_shim_context *ctx, const char *key) {
    const char *value = wasm_shim_option_value(ctx, key);
    return value != NULL ? value : "";
}

// A sealed memory file can be opened so, and not be changed.
static bool changes(const char *name) {
    int fd = open(name, O_RDWR);
    return write(fd, "x", 1) >= 0 || ftruncate(fd, 0) == 0;
}

// Tries what a compiler has no business with, and says what has worked.
static int32_t reach(wasm_shim_context *ctx) {
    static char found[512] = "it reaches";
    char layer[64];
    snprintf(layer, sizeof(layer), "/proc/self/fd/%d", wasm_shim_layer_fd(ctx, 0));
    const struct {
        const char *what;
        bool worked;
    } tries[] = {
        {"network", socket(AF_INET, SOCK_STREAM, 0) >= 0},
        {"unix sockets", socket(AF_UNIX, SOCK_STREAM, 0) >= 0},
        {"root", open("/", O_RDONLY) >= 0},
        {"its memory", open("/proc/self/mem", O_RDWR) >= 0},
        {"its environment", open("/proc/self/environ", O_RDONLY) >= 0},
        {"its binary", open("/proc/self/exe", O_RDONLY) >= 0},
        {"a new file", open("/dev/new", O_RDWR | O_CREAT, 0600) >= 0},
        {"the layer", write(wasm_shim_layer_fd(ctx, 0), "x", 1) >= 0},
        {"the layer by its name", changes(layer)},
        {"others' memory", ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) >= 0},
        {"other processes", kill(-1, SIGCONT) >= 0},
        {"mounts", mount("none", "/dev", "tmpfs", 0, NULL) >= 0},
        {"namespaces", unshare(CLONE_NEWUSER) >= 0},
        {"a program", execve("/proc/self/exe", (char *const[]){"x", NULL}, NULL) >= 0},
    };
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        if (tries[i].worked) {
            strcat(found, ", ");
            strcat(found, tries[i].what);
        }
    }
    wasm_shim_set_error(ctx, found);
    return WASM_SHIM_ERROR_COMPILE;
}

static int32_t compile(wasm_shim_context *ctx, void *user_data) {
    (void)user_data;
    const char *verb = option(ctx, "compile");
    if (wasm_shim_option_value(ctx, "other") != NULL) {
        wasm_shim_set_error(ctx, "what is not in the key is shown");
        return WASM_SHIM_ERROR;
    }
    if (strcmp(verb, "none") == 0)
        return WASM_SHIM_UNSUPPORTED;
    if (strcmp(verb, "fail") == 0) {
        wasm_shim_set_error(ctx, "it does not please me");
        return WASM_SHIM_ERROR_COMPILE;
    }
    if (strcmp(verb, "reach") == 0)
        return reach(ctx);
    if (strcmp(verb, "crash") == 0)
        *(volatile int *)1 = 0;
    if (strcmp(verb, "hang") == 0)
        for (;;)
            sleep(3600);
    if (strcmp(verb, "loop") == 0)
        for (volatile int i = 0;; i++)
            ;
    if (strcmp(verb, "work") == 0)
        while (clock() < CLOCKS_PER_SEC * 3 / 10)
            ;
    if (strcmp(verb, "slow") == 0)
        usleep(1500 * 1000);
    if (strcmp(verb, "memory") == 0)
        for (;;)
            memset(malloc(1 << 20), 1, 1 << 20);
    for (size_t i = 0; i < wasm_shim_layer_count(ctx); i++) {
        const char *type = wasm_shim_layer_media_type(ctx, i);
        if (type != NULL && strcmp(type, "application/vnd.test.data") == 0)
            continue; // nothing to compile
        size_t size;
        const uint8_t *bytes = wasm_shim_layer_bytes(ctx, i, &size);
        const char *word = strcmp(verb, "garbage") == 0 ? "garbage " : "compiled ";
        if (bytes == NULL || wasm_shim_artifact_write(ctx, i, word, strlen(word)) < 0 ||
            wasm_shim_artifact_write(ctx, i, bytes, size) < 0 ||
            wasm_shim_artifact_write(ctx, i, verb, strlen(verb)) < 0)
            return WASM_SHIM_ERROR;
    }
    return WASM_SHIM_OK;
}

static void print_layer(wasm_shim_context *ctx, size_t i) {
    size_t size = 0, artifact_size = 0;
    const char *type = wasm_shim_layer_media_type(ctx, i);
    const uint8_t *bytes = wasm_shim_layer_bytes(ctx, i, &size);
    const uint8_t *artifact = wasm_shim_artifact_bytes(ctx, i, &artifact_size);
    printf("%s %zu", type != NULL ? type : "file", size);
    if (artifact == NULL) {
        printf(" original\n");
    } else if (memcmp(artifact, "compiled ", 9) == 0 && artifact_size >= size + 9 &&
               memcmp(artifact + 9, bytes, size) == 0) {
        printf(" compiled\n");
    } else {
        printf(" refused\n");
        wasm_shim_artifact_refuse(ctx, i, "not what this engine makes");
    }
}

// Says whether what the guest was given can be changed by it.
static void try_to_write(wasm_shim_context *ctx) {
    int fds[] = {wasm_shim_layer_fd(ctx, 0), wasm_shim_artifact_fd(ctx, 0)};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof(name), "/proc/self/fd/%d", fds[i]);
        FILE *f = fopen(name, "r+");
        if (f == NULL) {
            perror("open");
            continue;
        }
        fputs("changed", f);
        if (fclose(f) == 0)
            printf("written\n");
        else
            perror("write");
    }
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)exit_code;
    (void)user_data;
    const char *const *args;
    size_t count = wasm_shim_args(ctx, &args);
    for (size_t i = 0; i < wasm_shim_layer_count(ctx); i++)
        print_layer(ctx, i);
    if (count > 1 && strcmp(args[1], "entry") == 0)
        printf("path=%s func=%s name=%s arg0=%s source=%s kind=%u\n", wasm_shim_entry_path(ctx),
               wasm_shim_entry_func(ctx), wasm_shim_entry_name(ctx), wasm_shim_entry_arg0(ctx),
               wasm_shim_source_file(ctx) != NULL ? "file" : "layers", wasm_shim_kind(ctx));
    if (count > 1 && strcmp(args[1], "write") == 0) {
        setvbuf(stderr, NULL, _IOLBF, 0);
        try_to_write(ctx);
    }
    if (count > 1 && strcmp(args[1], "cat") == 0)
        for (int c = getchar(); c != EOF; c = getchar())
            putchar(c);
    fflush(stdout);
    if (count > 1 && strcmp(args[1], "sleep") == 0)
        sleep(3600);
    return WASM_SHIM_OK;
}

static const char *const layer_types[] = {"application/vnd.test.data", "application/vnd.test.code", NULL};
static const wasm_shim_option verb = {
    .size = sizeof(verb), .key = "compile", .help = "what compile does", .flags = WASM_SHIM_OPTION_AFFECTS_COMPILATION};
static const wasm_shim_option other = {.size = sizeof(other), .key = "other", .help = "nothing"};
static const wasm_shim_option *const options[] = {&verb, &other, NULL};

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT,
    .name = "cachier",     .version = "1",
    .cache_key = "1",      .layer_types = layer_types,
    .options = options,    .run_wasi = run_wasi,
    .compile = compile,
};

WASM_SHIM_MAIN(engine)
