// SPDX-License-Identifier: Apache-2.0

#ifndef ENGINE_WASMTIME_H
#define ENGINE_WASMTIME_H

#include <stdbool.h>

#include <wasm.h>
#include <wasmtime.h>

// What the full library has beyond wasmtime's.
#if __has_include(<wasmshim_wasmtime.h>)
#include <wasmshim_wasmtime.h>
#define WASMSHIM_WASMTIME_FULL
#endif

#include "wasm_shim.h"

// Everything that one guest needs. Nothing in it is freed: the process ends
// with the guest, and the kernel is quicker at it.
struct guest {
    wasm_shim_context *ctx;
    wasm_engine_t *engine;
    wasmtime_store_t *store;
    wasmtime_context_t *context;
    const char *path; // or what the layer is called in messages
    size_t layer;
    const uint8_t *bytes; // of the layer; NULL until they are needed
    size_t size;
    wasmtime_module_t *module;        // once loaded, one of
    wasmtime_component_t *component;  // the two
    struct wasmshim_p1 *p1;           // what a module starts with, in the full library
    struct wasmshim_network *network; // and what any guest may do in the network
    size_t stack;                     // of its own functions
    uint64_t fuel;
    uint64_t timeout_ms;
    bool has_fuel;
    bool has_timeout;
    bool has_epochs;  // the code looks at the engine's clock
    bool has_threads; // it may start some
    int32_t exit_code;
    bool exited; // by itself, with exit_code: whatever ended the call is no error
};

// What operators may set, for the descriptor.
extern const wasm_shim_option *const options[];
extern const wasm_shim_option *const http_options[]; // those of them that are about serving

enum {
    // The guest's own, by wasmtime's default.
    WASM_STACK = 512 << 10,
    // For the functions that it calls, and for compiling it.
    HOST_STACK = 3 << 19,
    // Of a function that is called.
    MOST_RESULTS = 16,
};

// What components are run and given, as messages have it.
#ifdef WASMSHIM_WASMTIME_FULL
#define COMMANDS "wasi:cli/run@0.2 or @0.3, wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3"
#define WASI "WASI 0.2 and 0.3"
#else
#define COMMANDS "wasi:cli/run@0.2"
#define WASI "WASI 0.2"
#endif

// Finds out whether the guest's time is limited, which the following need to
// know.
void set_timeout(struct guest *g);

// Applies the options to a configuration, before there is an engine, and to the
// store, before there is an instance.
int32_t set_config(struct guest *g, wasm_config_t *config);
int32_t set_limits(struct guest *g);

// Says whether a memory is limited, and to how many bytes.
bool memory_limit(const struct guest *g, uint64_t *bytes);

// Finds out how much stack the guest has, before it is run or compiled.
int32_t set_stack(struct guest *g);

// Reads what the options say of the network, before a guest is given anything of it.
int32_t set_network(struct guest *g);

// Runs the guest to its end: in this thread, or in one of its own, with a stack
// that fits and for as long as its timeout says.
int32_t execute(struct guest *g);
int32_t execute_within(struct guest *g);

// How many threads beside this one there can be at once, of so many.
unsigned startable_threads(unsigned want);

// Makes the guest's store, after the engine and before all that follows.
void new_store(struct guest *g);

// Finds the layer that is the guest.
int32_t find_guest(struct guest *g);

// Makes the guest's module or component: from an artifact, or by compiling it.
int32_t load(struct guest *g);

// Compiles the guest and writes its artifact.
int32_t write_artifact(struct guest *g);

// Says what the guest's bytes are.
bool is_component(const struct guest *g);

// Which version of WASI 0.x an interface is of, whose name is prefix, '@' and a version
// that this engine has; 0 if it is none.
unsigned wasi_version(const char *name, size_t size, const char *prefix);

// Says whether what is run is the guest's own choice, which is called _start for
// modules.
bool is_command(const struct guest *g);

// Refuses, before it is compiled, a guest with imports that nobody has, or with
// nothing to run. entry: what is run; NULL if that is not known.
int32_t check_items(struct guest *g, const char *entry);

// Says whether a name of a module's is this one.
bool name_is(const wasm_name_t *name, const char *s);

// Gives a linker what a module may import.
wasmtime_error_t *define_wasi(struct guest *g, wasmtime_linker_t *linker);

int32_t run_module(struct guest *g);
int32_t run_component(struct guest *g);

#ifdef WASMSHIM_WASMTIME_FULL
// Gives a linker the memory and the threads that a module imports, behind all else, and
// calls a function of one that may have threads, until the first of them has ended the
// guest.
int32_t define_threads(struct guest *g, wasmtime_linker_t *linker);
int32_t call_with_threads(struct guest *g, const wasmtime_func_t *func, size_t results);

// Serves HTTP, where the guest is a component that does.
bool is_service(struct guest *g);
int32_t serve(struct guest *g);

// Permits the guest to send HTTP requests, if its network does.
int32_t permit_http(struct guest *g);
#endif

// The guest's variables, taken apart.
struct variables {
    const char **names;
    const char **values;
    size_t count;
};

int32_t list_env(struct guest *g, struct variables *v);

// How many CPUs there are for this container, and for threads of it.
unsigned cpus(const struct guest *g);

// Gives the guest its arguments, environment, directories and streams: to the store
// or, for a module in the full library, to g->p1, for define_wasi.
int32_t set_wasi(struct guest *g);

// Gives back to the kernel what compiling and linking took: from here on it is
// only the guest that runs, and it may sleep for weeks.
void trim_memory(void);

// Sets the context's error to say that the guest's time was up, for good: what
// its thread may yet say does not count.
int32_t timed_out(struct guest *g);

// Sets the context's error; the functions return status.
int32_t fail(struct guest *g, int32_t status, const char *format, ...) __attribute__((format(printf, 3, 4)));

// The same with what wasmtime says, in one line. Consumes error.
int32_t fail_with(struct guest *g, int32_t status, wasmtime_error_t *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// What wasmtime says, in one line; the caller frees it. Consumes error.
char *error_line(wasmtime_error_t *error);

// Sets advice to what is to be done about an error, which it is to stand behind;
// "" if that is not known.
void advise(const char *why, char *advice, size_t size);

// Says whether an error, in one line, is that there was no memory.
bool lacks_memory(const char *why);

// What a call that returned error or trap means: the guest's own exit, whose
// code it stores, a trap, or, if neither, status. Consumes both; one is NULL.
int32_t ended(struct guest *g, int32_t status, wasmtime_error_t *error, wasm_trap_t *trap);

#endif
