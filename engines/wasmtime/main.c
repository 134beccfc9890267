// SPDX-License-Identifier: Apache-2.0

// wasmtime as a containerd runtime.

#include "wasmtime.h"

#include <link.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

// Which of the two libraries it is, for --version. Those that are here are known:
// whoever takes another one looks up until when its line is mended.
#ifdef WASMSHIM_WASMTIME_FULL
#define KIND "full library; "
#else
#define KIND "prebuilt library; "
#endif
#if WASMTIME_VERSION_MAJOR == 44
#define LIBRARY KIND "its line ended in June 2026"
#elif WASMTIME_VERSION_MAJOR == 48
#define LIBRARY KIND "its line is supported until August 2028"
#else
#error "until when is this version of wasmtime supported? https://docs.wasmtime.dev/stability-release.html"
#endif

enum {
    STACK_TRIM = 256 << 10,
    SMALL_GUEST = 256 << 10,
    MAX_THREADS = 16,
    // For WASI, in the background: a worker, some for files, one for the input.
    WASI_THREADS = 4,
};

static int drop_segments(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    (void)data;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && (p->p_flags & PF_W) == 0)
            madvise((void *)(info->dlpi_addr + (p->p_vaddr & ~(uintptr_t)4095)), p->p_memsz, MADV_DONTNEED);
    }
    return 1; // the first is the program itself
}

void trim_memory(void) {
    malloc_trim(0);
    // The compiler's code and tables: they stay in the page cache, for the next
    // one, and what this process still needs of its own comes back from there.
    dl_iterate_phdr(drop_segments, NULL);
    // The stack below this function, where the compiler has been.
    char *here = (char *)((uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)4095);
    madvise(here - STACK_TRIM - 4096, STACK_TRIM, MADV_DONTNEED);
}

unsigned cpus(const struct guest *g) {
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    uint64_t limit = (wasm_shim_cpu_limit(g->ctx) + 999) / 1000;
    if (limit != 0 && limit < n)
        n = (unsigned)limit;
    return n < MAX_THREADS ? n : MAX_THREADS;
}

// How many threads compile: none beside this one if there is an artifact, or
// for a small guest, whose compilation ends before they would have started; else as many as there are
// CPUs for this container. They stay, asleep, as long as the guest.
static unsigned compiler_threads(const struct guest *g) {
    return wasm_shim_artifact_fd(g->ctx, g->layer) >= 0 || g->size < SMALL_GUEST ? 1 : cpus(g);
}

// threads is how many compile.
static int32_t new_engine(struct guest *g, unsigned threads) {
    char number[16];
    snprintf(number, sizeof(number), "%u", threads);
    setenv("RAYON_NUM_THREADS", number, 1);
    // Else tokio starts a thread for each CPU. The environment was emptied by
    // the library, so that no RUST_BACKTRACE lengthens messages.
    setenv("TOKIO_WORKER_THREADS", "1", 1);
    // One heap for the few threads there are: a second one costs memory.
    mallopt(M_ARENA_MAX, 1);
    wasm_config_t *config = wasm_config_new();
    int32_t status = set_config(g, config);
    wasmtime_config_parallel_compilation_set(config, threads > 1);
    if (status == WASM_SHIM_OK)
        __atomic_store_n(&g->engine, wasm_engine_new_with_config(config), __ATOMIC_RELEASE);
    return status;
}

// Says whether this thread's stack has room for a guest's and for what it calls.
static bool has_stack(const struct guest *g) {
    struct rlimit limit;
    return getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= g->stack + HOST_STACK;
}

void new_store(struct guest *g) {
    g->store = wasmtime_store_new(g->engine, NULL, NULL);
    g->context = wasmtime_store_context(g->store);
}

int32_t execute(struct guest *g) {
    int32_t status = find_guest(g);
    if (status != WASM_SHIM_OK)
        return status;
    unsigned compilers = compiler_threads(g);
    unsigned want = WASI_THREADS + (compilers > 1 ? compilers : 0);
    unsigned threads = startable_threads(want);
    if (threads < WASI_THREADS)
        return fail(g, WASM_SHIM_ERROR,
                    "the container may start %u threads more, and wasmtime needs %d: its limit on processes (pids) is "
                    "too low, or the node has no more",
                    threads, WASI_THREADS);
    status = new_engine(g, threads < want ? 1 : compilers);
    if (status != WASM_SHIM_OK)
        return status;
    new_store(g);
    status = load(g);
    if (status != WASM_SHIM_OK)
        return status;
    status = set_limits(g);
    if (status != WASM_SHIM_OK)
        return status;
#ifdef WASMSHIM_WASMTIME_FULL
    if (is_service(g))
        return serve(g);
#endif
    return g->component != NULL ? run_component(g) : run_module(g);
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    static struct guest g; // outlives this call in a thread that does not come back
    g.ctx = ctx;
    set_timeout(&g);
    int32_t status = set_stack(&g);
    if (status == WASM_SHIM_OK)
        status = g.has_timeout || !has_stack(&g) ? execute_within(&g) : execute(&g);
    *exit_code = g.exit_code;
    return status;
}

static int32_t compile(wasm_shim_context *ctx, void *user_data) {
    (void)user_data;
    struct guest g = {.ctx = ctx};
    set_timeout(&g);
    int32_t status = set_stack(&g);
    if (status == WASM_SHIM_OK)
        status = find_guest(&g);
    if (status == WASM_SHIM_OK)
        status = new_engine(&g, compiler_threads(&g));
    if (status != WASM_SHIM_OK)
        return status;
    new_store(&g);
    return write_artifact(&g);
}

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT | WASM_SHIM_KIND_TEXT,
    .name = "wasmtime",    .version = WASMTIME_VERSION,
    .revision = LIBRARY,   .options = options,
    .cache_key = "1",      .run_wasi = run_wasi,
    .compile = compile,
};

WASM_SHIM_MAIN(engine)
