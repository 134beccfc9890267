// SPDX-License-Identifier: Apache-2.0

// An engine for tests: it does what the container's arguments say.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wasm_shim.h"

static volatile sig_atomic_t stopped, slow_stop;

static void print(const wasm_shim_context *ctx) {
    const char *const *list;
    printf("id=%s pod=%s ns=%s exec=%s\n", wasm_shim_container_id(ctx), wasm_shim_pod_id(ctx), wasm_shim_namespace(ctx),
           wasm_shim_exec_id(ctx));
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

static void print_bytes(const char *what, const uint8_t *bytes, const size_t *size) {
    if (bytes == NULL) {
        printf("%s: errno %d\n", what, errno);
        return;
    }
    printf("%s: %zu bytes \"", what, *size);
    fwrite(bytes, 1, *size, stdout);
    printf("\"\n");
}

static void print_layers(wasm_shim_context *ctx) {
    for (size_t i = 0; i <= wasm_shim_layer_count(ctx); i++) {
        size_t size = 0;
        const char *type = wasm_shim_layer_media_type(ctx, i);
        const char *digest = wasm_shim_layer_digest(ctx, i);
        printf("layer %zu: %s %s\n", i, type != NULL ? type : "(none)", digest != NULL ? digest : "(none)");
        const uint8_t *bytes = wasm_shim_layer_bytes(ctx, i, &size);
        print_bytes("code", bytes, &size);
        if (bytes != wasm_shim_layer_bytes(ctx, i, NULL))
            printf("mapped twice\n");
        print_bytes("artifact", wasm_shim_artifact_bytes(ctx, i, &size), &size);
        char byte = 0;
        int fd = wasm_shim_layer_fd(ctx, i);
        ssize_t n = fd >= 0 ? pread(fd, &byte, 1, 0) : 0;
        if (fd >= 0)
            printf("descriptor: %zd '%c', closed on exec %d\n", n, byte, fcntl(fd, F_GETFD));
    }
    wasm_shim_artifact_refuse(ctx, 0, "too old");
    wasm_shim_artifact_refuse(ctx, 1, NULL);
    wasm_shim_artifact_refuse(ctx, 99, "not there");
    printf("written: %d\n", wasm_shim_artifact_write(ctx, 0, "x", 1));
}

// Changes the guest's own file once its code was asked for, as bytes or, if
// that comes first, as a descriptor.
static void print_rewritten(wasm_shim_context *ctx, bool descriptor_first) {
    size_t size = 0;
    char text[32] = "", name[32];
    int fd = descriptor_first ? wasm_shim_layer_fd(ctx, 0) : -1;
    const uint8_t *bytes = wasm_shim_layer_bytes(ctx, 0, &size);
    int file = open(wasm_shim_source_file(ctx), O_WRONLY | O_TRUNC);
    print_bytes("code of a file that was cut off", bytes, &size);
    write(file, "other", 5);
    print_bytes("code of a file that was written to", bytes, &size);
    if (bytes != wasm_shim_layer_bytes(ctx, 0, NULL))
        printf("mapped twice\n");
    if (!descriptor_first)
        fd = wasm_shim_layer_fd(ctx, 0);
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    int again = open(name, O_RDONLY);
    printf("by its name: %zd %s\n", pread(again, text, sizeof(text) - 1, 0), text);
    int writable = open(name, O_RDWR);
    printf("written: %zd, cut off: %d\n", pwrite(writable >= 0 ? writable : fd, "x", 1, 0), ftruncate(fd, 0));
    print_bytes("code at the end", bytes, &size);
}

// What a compiler may do, line by line in its log.
static void attempt(wasm_shim_context *ctx, const char *what, bool done) {
    char line[128];
    snprintf(line, sizeof(line), "%s: %s", what, done ? "done" : strerror(errno));
    wasm_shim_log(ctx, WASM_SHIM_LOG_INFO, line, NULL);
}

static void try_all(wasm_shim_context *ctx) {
    char ids[64];
    snprintf(ids, sizeof(ids), "pid %d uid %d gid %d env %d", getpid(), getuid(), getgid(),
             environ != NULL && *environ != NULL);
    wasm_shim_log(ctx, WASM_SHIM_LOG_INFO, ids, NULL);
    attempt(ctx, "open /", open("/", O_RDONLY) >= 0);
    attempt(ctx, "open /proc/self/status", open("/proc/self/status", O_RDONLY) >= 0);
    attempt(ctx, "create a file", open("/file", O_RDWR | O_CREAT, 0600) >= 0);
    attempt(ctx, "open the layer for writing", open("/proc/self/fd/6", O_RDWR) >= 0);
    attempt(ctx, "write to the layer", write(6, "x", 1) == 1);
    attempt(ctx, "make a socket", socket(AF_INET, SOCK_STREAM, 0) >= 0);
    attempt(ctx, "become root", setuid(0) == 0);
    attempt(ctx, "trace", ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
    attempt(ctx, "mount", mount("none", "/", "tmpfs", 0, "") == 0);
    attempt(ctx, "make a namespace", unshare(CLONE_NEWUSER) == 0);
    attempt(ctx, "kill another", kill(2, 0) == 0);
}

// What a destructor of the engine's may do to the exit code.
static void at_exit(void) {
    abort();
}

static int32_t compile(wasm_shim_context *ctx, void *user_data) {
    const char *verb = wasm_shim_option_value(ctx, "compile");
    if (user_data != &stopped)
        return WASM_SHIM_ERROR;
    if (verb == NULL)
        verb = "";
    if (strcmp(verb, "none") == 0)
        return WASM_SHIM_UNSUPPORTED;
    if (strcmp(verb, "fail") == 0) {
        wasm_shim_set_error(ctx, "no such instruction");
        return WASM_SHIM_ERROR_COMPILE;
    }
    if (strcmp(verb, "status") == 0)
        return 4711;
    if (strcmp(verb, "crash") == 0)
        *(volatile int *)NULL = 0;
    if (strcmp(verb, "exit") == 0)
        exit(9);
    if (strcmp(verb, "atexit") == 0)
        atexit(at_exit);
    if (strcmp(verb, "log-and-hang") == 0)
        wasm_shim_log(ctx, WASM_SHIM_LOG_INFO, "hangs", NULL);
    if (strcmp(verb, "hang") == 0 || strcmp(verb, "log-and-hang") == 0)
        for (;;)
            pause();
    if (strcmp(verb, "spin") == 0)
        for (;;)
            ;
    if (strcmp(verb, "memory") == 0)
        for (;;)
            memset(malloc(1 << 20), 1, 1 << 20);
    if (strcmp(verb, "fork") == 0)
        for (;;)
            fork();
    if (strcmp(verb, "fill") == 0) {
        static char block[1 << 20];
        while (wasm_shim_artifact_write(ctx, 0, block, sizeof(block)) == 0)
            ;
        wasm_shim_set_error(ctx, strerror(errno));
        return WASM_SHIM_ERROR;
    }
    if (strcmp(verb, "log-much") == 0)
        for (int i = 0; i < 20000; i++)
            wasm_shim_log(ctx, WASM_SHIM_LOG_INFO, "again", NULL);
    if (strcmp(verb, "try") == 0)
        try_all(ctx);
    for (size_t i = 0; i < wasm_shim_layer_count(ctx); i++) {
        size_t size;
        const uint8_t *bytes = wasm_shim_layer_bytes(ctx, i, &size);
        if (wasm_shim_artifact_bytes(ctx, i, NULL) != NULL)
            return WASM_SHIM_ERROR;
        if (wasm_shim_artifact_write(ctx, i, "compiled ", 9) < 0 || wasm_shim_artifact_write(ctx, i, bytes, size) < 0)
            return WASM_SHIM_ERROR;
    }
    return WASM_SHIM_OK;
}

// Waits for one signal alone, which finds no other thread.
static void *wait_for(void *sig) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, (int)(intptr_t)sig);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    for (;;)
        pause();
    return NULL;
}

// Takes signals in threads that are not the guest's: one thread each.
static void take_signals_elsewhere(void) {
    slow_stop = 1;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, wait_for, (void *)(intptr_t)SIGUSR1);
    pthread_create(&thread, NULL, wait_for, (void *)(intptr_t)SIGUSR2);
    usleep(50000);
}

static void *complain(void *ctx) {
    static const char text[] = "one of many lines, each of which is as good as the others are, and not a part of two";
    for (unsigned i = 0;; i++)
        wasm_shim_set_error(ctx, text + i % 64);
    return NULL;
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
    } else if (strcmp(verb, "layers") == 0) {
        print_layers(ctx);
    } else if (strcmp(verb, "rewrite") == 0) {
        print_rewritten(ctx, strcmp(with, "descriptor") == 0);
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
            wasm_shim_log(ctx, level, with, NULL);
        wasm_shim_log(ctx, WASM_SHIM_LOG_INFO, "with fields", (const char *const[]){"size=3", "name=two words", NULL});
    } else if (strcmp(verb, "atexit") == 0) {
        atexit(at_exit);
        printf("buffered\n");
        *exit_code = atoi(with);
    } else if (strcmp(verb, "complain") == 0) {
        pthread_t thread;
        for (int i = 0; i < 4; i++)
            pthread_create(&thread, NULL, complain, ctx);
        usleep(100000);
        return WASM_SHIM_ERROR_LOAD;
    } else if (strcmp(verb, "slow-stop") == 0) {
        take_signals_elsewhere();
        write(1, "ready\n", 6);
        while (!stopped)
            usleep(1000);
        return WASM_SHIM_ERROR_TRAP;
    } else if (strcmp(verb, "stop-twice") == 0) {
        take_signals_elsewhere();
        write(1, "ready\n", 6);
        for (;;)
            pause();
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

// Files of its own, beside WebAssembly.
static int32_t can_handle(wasm_shim_context *ctx, void *user_data) {
    size_t size;
    const uint8_t *bytes = wasm_shim_layer_bytes(ctx, 0, &size);
    if (user_data != &stopped || bytes == NULL)
        return WASM_SHIM_ERROR;
    return size >= 5 && memcmp(bytes, "PROBE", 5) == 0 ? WASM_SHIM_OK : WASM_SHIM_UNSUPPORTED;
}

// SIGUSR1 is stopped for, SIGUSR2 only promises to; the rest is not ours.
static int32_t stop(int32_t sig, void *user_data) {
    static int entered;
    if (user_data != &stopped)
        return WASM_SHIM_ERROR;
    if (__atomic_fetch_add(&entered, 1, __ATOMIC_SEQ_CST) > 0)
        write(2, "stop was called twice\n", 22);
    if (sig == SIGUSR1)
        stopped = 1;
    if (slow_stop)
        usleep(50000);
    return sig == SIGUSR1 || sig == SIGUSR2 ? WASM_SHIM_OK : WASM_SHIM_UNSUPPORTED;
}

static const wasm_shim_option speed = {
    .size = sizeof(wasm_shim_option),
    .key = "speed",
    .help = "how fast",
    .flags = WASM_SHIM_OPTION_AFFECTS_COMPILATION,
};
static const wasm_shim_option compile_verb = {
    .size = sizeof(wasm_shim_option),
    .key = "compile",
    .help = "what compile does",
    .flags = WASM_SHIM_OPTION_AFFECTS_COMPILATION,
};
static const wasm_shim_option *const options[] = {&speed, &compile_verb, NULL};
static const char *const layer_types[] = {"application/vnd.probe+wasm", NULL};

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD,   .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT | WASM_SHIM_KIND_OTHER,
    .stop_deadline_ms = 200, .name = "probe",
    .version = "1.2.3",      .layer_types = layer_types,
    .options = options,      .user_data = (void *)&stopped,
    .run_wasi = run_wasi,    .stop = stop,
    .compile = compile,      .can_handle = can_handle,
};

WASM_SHIM_MAIN(engine)
