// SPDX-License-Identifier: Apache-2.0

// wasmtime as a containerd runtime.

#include "wasmtime.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    STACK_TRIM = 256 << 10,
    SMALL_GUEST = 256 << 10,
    MAX_THREADS = 16,
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

// Maps the guest's file: its pages are the page cache's, not this process's.
static int32_t map_source(struct guest *g) {
    int fd = open(g->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "cannot open %s: %s", g->path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s is not a regular file", g->path);
    if (st.st_size == 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s is empty", g->path);
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return fail(g, WASM_SHIM_ERROR_LOAD, "cannot map %s: %s", g->path, strerror(errno));
    close(fd);
    g->bytes = bytes;
    g->size = (size_t)st.st_size;
    return WASM_SHIM_OK;
}

// A parser's message has a drawing of the place below it; the place's numbers
// are enough.
static int32_t fail_text(struct guest *g, wasmtime_error_t *error) {
    static const char mark[] = " --> <anon>:";
    char *line = error_line(error);
    char *place = strstr(line, mark);
    if (place == NULL) {
        fail(g, WASM_SHIM_ERROR_COMPILE, "cannot read %s: %s", g->path, line);
    } else {
        *place = 0;
        place += sizeof(mark) - 1;
        fail(g, WASM_SHIM_ERROR_COMPILE, "cannot read %s:%.*s: %s", g->path, (int)strcspn(place, " "), place, line);
    }
    free(line);
    return WASM_SHIM_ERROR_COMPILE;
}

static int32_t assemble(struct guest *g) {
    wasm_byte_vec_t binary;
    wasmtime_error_t *error = wasmtime_wat2wasm((const char *)g->bytes, g->size, &binary);
    if (error != NULL)
        return fail_text(g, error);
    munmap((void *)g->bytes, g->size);
    g->bytes = (const uint8_t *)binary.data;
    g->size = binary.size;
    return WASM_SHIM_OK;
}

// Bytes 4 to 7 are version and layer; layer 1 is a component.
static int is_component(const struct guest *g) {
    return g->size >= 8 && memcmp(g->bytes, "\0asm", 4) == 0 && g->bytes[6] == 1 && g->bytes[7] == 0;
}

// How many threads compile: none beside this one for a small guest, whose
// compilation ends before they would have started; else as many as there are
// CPUs for this container. They stay, asleep, as long as the guest.
static unsigned compiler_threads(const struct guest *g) {
    if (g->size < SMALL_GUEST)
        return 1;
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    uint64_t limit = (wasm_shim_cpu_limit(g->ctx) + 999) / 1000;
    if (limit != 0 && limit < n)
        n = (unsigned)limit;
    return n < MAX_THREADS ? n : MAX_THREADS;
}

static int32_t new_engine(struct guest *g) {
    char number[16];
    unsigned threads = compiler_threads(g);
    snprintf(number, sizeof(number), "%u", threads);
    setenv("RAYON_NUM_THREADS", number, 1);
    // Else tokio starts a thread for each CPU. The environment was emptied by
    // the library, so that no RUST_BACKTRACE lengthens messages.
    setenv("TOKIO_WORKER_THREADS", "1", 1);
    // One heap for the few threads there are: a second one costs memory.
    mallopt(M_ARENA_MAX, 1);
    wasm_config_t *config = wasm_config_new();
    wasmtime_config_parallel_compilation_set(config, threads > 1);
    int32_t status = set_config(g, config);
    if (status == WASM_SHIM_OK)
        g->engine = wasm_engine_new_with_config(config);
    return status;
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void compiled(struct guest *g) {
    char line[512];
    uint64_t us = now_us() - g->begun_us;
    snprintf(line, sizeof(line), "compiled %s: %zu bytes in %llu.%03llu ms", g->path, g->size,
             (unsigned long long)us / 1000, (unsigned long long)us % 1000);
    wasm_shim_log(g->ctx, WASM_SHIM_LOG_DEBUG, line);
}

int32_t execute(struct guest *g) {
    g->store = wasmtime_store_new(g->engine, NULL, NULL);
    g->context = wasmtime_store_context(g->store);
    int32_t status = set_limits(g);
    if (status != WASM_SHIM_OK)
        return status;
    return is_component(g) ? run_component(g) : run_module(g);
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    static struct guest g; // outlives this call in a thread that does not come back
    g.ctx = ctx;
    g.path = wasm_shim_source_file(ctx);
    g.begun_us = now_us();
    int32_t status = map_source(&g);
    if (status == WASM_SHIM_OK && wasm_shim_kind(ctx) == WASM_SHIM_KIND_TEXT)
        status = assemble(&g);
    if (status == WASM_SHIM_OK)
        status = new_engine(&g);
    if (status != WASM_SHIM_OK)
        return status;
    status = g.has_timeout ? execute_within(&g) : execute(&g);
    *exit_code = g.exit_code;
    return status;
}

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT | WASM_SHIM_KIND_TEXT,
    .name = "wasmtime",    .version = WASMTIME_VERSION,
    .cache_key = "1",      .options = options,
    .run_wasi = run_wasi,
};

int main(int argc, char **argv) {
    return wasm_shim_main(argc, argv, &engine);
}
