// SPDX-License-Identifier: Apache-2.0

// A module's threads, as wasi-threads has them: each is an instance of its own, and
// all of them have the memory that the module imports, and WASI's descriptors.

#include "wasmtime.h"

#ifdef WASMSHIM_WASMTIME_FULL

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    // What wasi-threads leaves for numbers of threads.
    MOST_THREADS = (1 << 29) - 1,
};

static const char start_name[] = "wasi_thread_start";

// There is one guest in a process.
static struct {
    wasmtime_instance_pre_t *pre; // what every thread is made of
    pthread_attr_t attr;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int32_t last;   // number of a thread; guarded by lock
    bool done;      // the guest has ended; guarded by lock
    int32_t status; // how; valid once done
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

struct thread {
    struct guest *guest;
    wasmtime_store_t *store; // its own; NULL of the first, which has the guest's
    wasmtime_func_t func;
    wasmtime_val_t args[2];
    size_t args_count;
    size_t results;
};

static bool is_shared_memory(const wasm_externtype_t *type) {
    const wasm_memorytype_t *memory = wasm_externtype_as_memorytype_const(type);
    return memory != NULL && wasmtime_memorytype_isshared(memory);
}

// Ends the guest, unless another of its threads has done so.
static void end(struct thread *t, wasmtime_error_t *error, wasm_trap_t *trap) {
    pthread_mutex_lock(&all.lock);
    if (!all.done) {
        all.status = error != NULL || trap != NULL ? ended(t->guest, WASM_SHIM_ERROR_TRAP, error, trap) : WASM_SHIM_OK;
        all.done = true;
        pthread_cond_signal(&all.ended);
    }
    pthread_mutex_unlock(&all.lock);
}

static void discard(struct thread *t) {
    if (t->store != NULL)
        wasmtime_store_delete(t->store);
    free(t);
}

static void *run_thread(void *data) {
    struct thread *t = data;
    wasmtime_val_t results[MOST_RESULTS];
    wasm_trap_t *trap = NULL;
    wasmtime_context_t *context = t->store != NULL ? wasmtime_store_context(t->store) : t->guest->context;
    wasmtime_error_t *error = wasmtime_func_call(context, &t->func, t->args, t->args_count, results, t->results, &trap);
    if (t->store == NULL || error != NULL || trap != NULL) {
        end(t, error, trap);
        return NULL; // the process ends
    }
    discard(t);
    return NULL;
}

static int start(struct thread *t) {
    pthread_t thread;
    return pthread_create(&thread, &all.attr, run_thread, t);
}

// Makes an instance for a thread; says whether there is one that has what is started.
static bool instantiate(struct thread *t) {
    wasmtime_instance_t instance;
    wasmtime_extern_t item;
    wasm_trap_t *trap = NULL;
    struct guest own = *t->guest;
    new_store(&own);
    t->store = own.store;
    if (set_limits(&own) != WASM_SHIM_OK)
        return false;
    wasmtime_error_t *error = wasmtime_instance_pre_instantiate(all.pre, own.context, &instance, &trap);
    if (error != NULL)
        wasmtime_error_delete(error);
    if (trap != NULL)
        wasm_trap_delete(trap);
    if (error != NULL || trap != NULL ||
        !wasmtime_instance_export_get(own.context, &instance, start_name, strlen(start_name), &item))
        return false;
    t->func = item.of.func;
    return true;
}

// thread-spawn returns the number of the new thread, or a number below zero if there
// is no room for it.
static wasm_trap_t *spawn(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t nargs,
                          wasmtime_val_t *results, size_t nresults) {
    (void)caller;
    (void)nargs;
    (void)nresults;
    results[0] = (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = -1};
    struct thread *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->guest = env;
    t->args_count = 2;
    pthread_mutex_lock(&all.lock);
    all.last = all.last % MOST_THREADS + 1;
    int32_t number = all.last;
    pthread_mutex_unlock(&all.lock);
    t->args[0] = (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = number};
    t->args[1] = args[0];
    if (instantiate(t) && start(t) == 0) {
        results[0].of.i32 = number;
        return NULL;
    }
    discard(t);
    return NULL;
}

// Makes a memory that the module imports. Its size is the guest's own affair up to
// what max-memory says: no store counts what several have.
static int32_t define_memory(struct guest *g, wasmtime_linker_t *linker, const wasm_importtype_t *import) {
    const wasm_name_t *module = wasm_importtype_module(import), *name = wasm_importtype_name(import);
    const wasm_memorytype_t *type = wasm_externtype_as_memorytype_const(wasm_importtype_type(import));
    uint64_t page = wasmtime_memorytype_page_size(type);
    uint64_t least = wasmtime_memorytype_minimum(type), most = 0, bytes = 0;
    wasmtime_memorytype_maximum(type, &most);
    if (memory_limit(g, &bytes)) {
        if (least > bytes / page)
            return fail(g, WASM_SHIM_ERROR_LOAD,
                        "%s begins with a memory of %llu bytes, and engine option max-memory accepts %llu", g->path,
                        (unsigned long long)(least * page), (unsigned long long)bytes);
        most = most < bytes / page ? most : bytes / page;
    }
    wasm_memorytype_t *own;
    wasmtime_sharedmemory_t *memory;
    wasmtime_error_t *error = wasmtime_memorytype_new(least, true, most, wasmtime_memorytype_is64(type), true,
                                                      wasmtime_memorytype_page_size_log2(type), &own);
    if (error == NULL)
        error = wasmtime_sharedmemory_new(g->engine, own, &memory);
    if (error == NULL) {
        const wasmtime_extern_t item = {.kind = WASMTIME_EXTERN_SHAREDMEMORY, .of.sharedmemory = memory};
        error = wasmtime_linker_define(linker, g->context, module->data, module->size, name->data, name->size, &item);
    }
    return error == NULL ? WASM_SHIM_OK : fail_with(g, WASM_SHIM_ERROR_LOAD, error, "the memory of %s", g->path);
}

// Says whether the module has what a thread begins with.
static bool has_start(const wasmtime_module_t *module) {
    wasm_exporttype_vec_t exports;
    wasmtime_module_exports(module, &exports);
    bool has = false;
    for (size_t i = 0; i < exports.size && !has; i++) {
        const wasm_name_t *name = wasm_exporttype_name(exports.data[i]);
        const wasm_functype_t *type = wasm_externtype_as_functype_const(wasm_exporttype_type(exports.data[i]));
        if (type == NULL || !name_is(name, start_name))
            continue;
        const wasm_valtype_vec_t *params = wasm_functype_params(type);
        has = params->size == 2 && wasm_valtype_kind(params->data[0]) == WASM_I32 &&
              wasm_valtype_kind(params->data[1]) == WASM_I32 && wasm_functype_results(type)->size == 0;
    }
    wasm_exporttype_vec_delete(&exports);
    return has;
}

int32_t define_threads(struct guest *g, wasmtime_linker_t *linker) {
    static const char module[] = "wasi", name[] = "thread-spawn";
    wasm_importtype_vec_t imports;
    wasmtime_module_imports(g->module, &imports);
    int32_t status = WASM_SHIM_OK;
    bool shares = false;
    for (size_t i = 0; i < imports.size && status == WASM_SHIM_OK; i++) {
        const wasm_name_t *from = wasm_importtype_module(imports.data[i]);
        if (is_shared_memory(wasm_importtype_type(imports.data[i]))) {
            status = define_memory(g, linker, imports.data[i]);
            shares = true;
        } else if (name_is(from, module)) {
            g->has_threads = true;
        }
    }
    wasm_importtype_vec_delete(&imports);
    if (status != WASM_SHIM_OK || !g->has_threads)
        return status;
    if (!shares || !has_start(g->module))
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s imports wasi::thread-spawn, but %s", g->path,
                    shares ? "no export \"wasi_thread_start\" with two parameters of type i32 is there"
                           : "imports no shared memory");
    if (g->has_fuel)
        return fail(g, WASM_SHIM_ERROR_LOAD,
                    "%s imports wasi::thread-spawn, and engine option fuel counts what one thread does: use timeout",
                    g->path);
    wasm_functype_t *type = wasm_functype_new_1_1(wasm_valtype_new_i32(), wasm_valtype_new_i32());
    wasmtime_error_t *error =
        wasmtime_linker_define_func(linker, module, strlen(module), name, strlen(name), type, spawn, g, NULL);
    wasm_functype_delete(type);
    if (error == NULL)
        error = wasmtime_linker_instantiate_pre(linker, g->module, &all.pre);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR_LOAD, error, NULL);
    pthread_attr_init(&all.attr);
    pthread_attr_setstacksize(&all.attr, g->stack + HOST_STACK);
    pthread_attr_setdetachstate(&all.attr, PTHREAD_CREATE_DETACHED);
    return WASM_SHIM_OK;
}

int32_t call_with_threads(struct guest *g, const wasmtime_func_t *func, size_t results) {
    static struct thread first;
    first = (struct thread){.guest = g, .func = *func, .results = results};
    int error = start(&first);
    if (error != 0)
        return fail(g, WASM_SHIM_ERROR, "cannot start a thread for the guest: %s", strerror(error));
    pthread_mutex_lock(&all.lock);
    while (!all.done)
        pthread_cond_wait(&all.ended, &all.lock);
    pthread_mutex_unlock(&all.lock);
    return all.status;
}

#endif
