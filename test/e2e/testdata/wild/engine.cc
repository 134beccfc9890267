// SPDX-License-Identifier: Apache-2.0

// An engine for tests: it uses every freedom that the contract gives it, or
// breaks the contract, as its guest's first argument says.

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wasm_shim.h"

namespace {

struct Constructed {
    Constructed() : value(std::to_string(42)) {
    }
    std::string value;
} constructed;

thread_local std::string local = "initial";

int fail(const char *what) {
    printf("%s: errno %d\n", what, errno);
    return 1;
}

int threads() {
    int n = 0;
    DIR *dir = opendir("/proc/self/task");
    if (dir == nullptr)
        return -1;
    while (dirent *e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

int no_threads() {
    return threads() == 1 ? 0 : fail("there are threads");
}

int signals() {
    struct sigaction a;
    sigset_t mask;
    for (int sig : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGCHLD, SIGWINCH, SIGURG}) {
        if (sigaction(sig, nullptr, &a) < 0 || a.sa_handler != SIG_DFL)
            return fail(strsignal(sig));
    }
    for (int sig : {SIGTERM, SIGINT, SIGHUP, SIGUSR1})
        if (sigaction(sig, nullptr, &a) < 0 || a.sa_handler == SIG_DFL || a.sa_handler == SIG_IGN)
            return fail(strsignal(sig));
    if (sigprocmask(SIG_SETMASK, nullptr, &mask) < 0)
        return fail("sigprocmask");
    for (int sig = 1; sig < 32; sig++)
        if (sigismember(&mask, sig))
            return fail(strsignal(sig));
    stack_t stack;
    if (sigaltstack(nullptr, &stack) < 0 || (stack.ss_flags & SS_DISABLE) == 0)
        return fail("there is an alternate stack");
    return 0;
}

std::atomic<int> caught;

int replaced_handler() {
    struct sigaction a = {};
    a.sa_handler = [](int sig) { caught = sig; };
    for (int sig : {SIGTERM, SIGSEGV, SIGUSR1}) {
        sigaction(sig, &a, nullptr);
        raise(sig);
        if (caught != sig)
            return fail("not caught");
    }
    return 0;
}

int memory() {
    void *p = malloc(64 << 20), *q = nullptr;
    if (p == nullptr || posix_memalign(&q, 4096, 1 << 20) != 0)
        return fail("malloc");
    memset(p, 1, 64 << 20);
    free(p);
    free(q);
    return 0;
}

int may_fork() {
    pid_t pid = fork();
    if (pid == 0)
        _exit(5);
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 5)
        return fail("fork");
    return 0;
}

void *in_thread(void *result) {
    local += " of a thread";
    *static_cast<std::string *>(result) = local;
    return nullptr;
}

int thread_locals() {
    local += " of the first";
    std::string other;
    pthread_t thread;
    if (pthread_create(&thread, nullptr, in_thread, &other) != 0 || pthread_join(thread, nullptr) != 0)
        return fail("thread");
    return local == "initial of the first" && other == "initial of a thread" ? 0 : fail(other.c_str());
}

int constructors() {
    return constructed.value == "42" ? 0 : fail("not constructed");
}

int exceptions() {
    try {
        throw std::runtime_error("caught");
    } catch (const std::exception &e) {
        return strcmp(e.what(), "caught") == 0 ? 0 : fail(e.what());
    }
}

// Touches a page of each of so many MiB of stack.
__attribute__((noinline)) int deep(int mib) {
    volatile char page[1 << 20];
    page[0] = 1;
    return mib > 1 ? deep(mib - 1) + page[0] : page[0];
}

int stack() {
    rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) < 0 || limit.rlim_cur != 32 << 20)
        return fail("the limit is not the container's");
    return deep(28) == 28 ? 0 : fail("stack");
}

int environment() {
    return environ == nullptr || environ[0] == nullptr ? 0 : fail(environ[0]);
}

// What is written is seen at the end, without a flush.
int buffered() {
    printf("buffered\n");
    return 0;
}

const struct {
    const char *name;
    int (*check)();
} freedoms[] = {
    {"no-threads", no_threads},
    {"signals", signals},
    {"replaced-handler", replaced_handler},
    {"memory", memory},
    {"fork", may_fork},
    {"thread-locals", thread_locals},
    {"constructors", constructors},
    {"exceptions", exceptions},
    {"stack", stack},
    {"environment", environment},
    {"buffered", buffered},
};

[[noreturn]] void *sleep_for_ever(void *) {
    for (;;)
        pause();
}

int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *) {
    const char *const *args;
    size_t count = wasm_shim_args(ctx, &args);
    std::string verb = count > 1 ? args[1] : "";
    for (auto &f : freedoms)
        if (verb == f.name) {
            *exit_code = f.check();
            return WASM_SHIM_OK;
        }
    if (verb == "garbage")
        return 4711;
    if (verb == "no-exit-code")
        return WASM_SHIM_OK;
    if (verb == "crash")
        *(volatile int *)nullptr = 0;
    if (verb == "throw")
        throw std::runtime_error("through the border");
    if (verb == "exit-as-if-crashed") {
        *exit_code = 139;
        return WASM_SHIM_OK;
    }
    if (verb == "exit")
        exit(7);
    if (verb == "_exit")
        _exit(8);
    if (verb == "abort")
        abort();
    if (verb == "trap-instruction")
        __builtin_trap();
    if (verb == "write") {
        printf("written by the engine\n");
        fflush(stdout);
        return WASM_SHIM_OK;
    }
    if (verb == "which") {
        printf("container %s, exec %s, %zu bytes\n", wasm_shim_container_id(ctx), wasm_shim_exec_id(ctx),
               (size_t)wasm_shim_memory_limit(ctx));
        fflush(stdout);
        return WASM_SHIM_OK;
    }
    if (verb == "leak-threads") {
        for (int i = 0; i < 16; i++) {
            pthread_t thread;
            pthread_create(&thread, nullptr, sleep_for_ever, nullptr);
        }
        *exit_code = 9;
        return WASM_SHIM_OK;
    }
    if (verb == "close-all") {
        for (int fd = 0; fd < 1024; fd++)
            close(fd);
        return WASM_SHIM_ERROR;
    }
    if (verb == "much-log") {
        for (int i = 0; i < 100000; i++)
            wasm_shim_log(ctx, WASM_SHIM_LOG_ERROR, "again", nullptr);
        return WASM_SHIM_OK;
    }
    if (verb == "long-error") {
        wasm_shim_set_error(ctx, std::string(1 << 20, 'x').c_str());
        return WASM_SHIM_ERROR;
    }
    if (verb == "ignore") {
        signal(SIGTERM, SIG_IGN);
        printf("ready\n");
        fflush(stdout);
        sleep_for_ever(nullptr);
    }
    wasm_shim_set_error(ctx, ("unknown verb " + verb).c_str());
    return WASM_SHIM_ERROR;
}

} // namespace

int main(int argc, char **argv) {
    static wasm_shim_engine engine = {};
    engine.size = sizeof(engine);
    engine.abi_major = WASM_SHIM_ABI_MAJOR;
    engine.abi_minor = WASM_SHIM_ABI_MINOR;
    engine.kinds = WASM_SHIM_KIND_MODULE;
    engine.name = "wild";
    engine.run_wasi = run_wasi;
    return wasm_shim_main(argc, argv, &engine);
}
