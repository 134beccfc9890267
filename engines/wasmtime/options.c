// SPDX-License-Identifier: Apache-2.0

// The engine's options: which there are, and what they change in wasmtime.

#include "wasmtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPILES WASM_SHIM_OPTION_AFFECTS_COMPILATION
// Code that counts, or can be interrupted, is other code; how far it counts is
// not in it.
#define COMPILES_IF_SET WASM_SHIM_OPTION_PRESENCE_AFFECTS_COMPILATION

#define OPTION(name, key_, type_, flags_, choices_, help_)                                                             \
    static const wasm_shim_option name = {.size = sizeof(wasm_shim_option),                                            \
                                          .key = key_,                                                                 \
                                          .help = help_,                                                               \
                                          .flags = flags_,                                                             \
                                          .type = WASM_SHIM_OPTION_##type_,                                            \
                                          .choices = choices_}

OPTION(opt_level, "opt-level", CHOICE, COMPILES, "none|speed|speed-and-size",
       "how much the compiler optimises (speed)");
OPTION(fuel, "fuel", INTEGER, COMPILES_IF_SET, NULL, "instructions that the guest may run before it traps (no limit)");
OPTION(timeout, "timeout", DURATION, COMPILES_IF_SET, NULL,
       "wall-clock time until the guest is ended, without what is compiled ahead (no limit)");
OPTION(max_memory, "max-memory", SIZE, 0, NULL,
       "size to which each linear memory may grow (no limit but the container's)");

OPTION(max_wasm_stack, "max-wasm-stack", SIZE, 0, NULL,
       "how much stack the guest's functions may use, from 64KiB to 1GiB (512KiB); what is left of a thread's is for "
       "functions of the engine");
OPTION(memory_reservation, "memory-reservation", SIZE, COMPILES, NULL,
       "how much address space is reserved for a memory, which is quicker and takes no memory itself (4GiB)");
OPTION(memory_guard_size, "memory-guard-size", SIZE, COMPILES, NULL,
       "how much of it behind a memory is inaccessible, which spares checks (32MiB)");

// With all a guest may do what a native program may: that is what Kubernetes' users
// expect, and what an example shows.
#ifdef WASMSHIM_WASMTIME_FULL
#define NETWORKS "all|outbound|none"
#define NETWORK_OPTIONS                                                                                                \
    &network, &flags, &initialize, &connect_to, &connect_ports, &connect_names, &accept_from, &listen_ports, &tcplisten,
#else
#define NETWORKS "none"
#define NETWORK_OPTIONS &network,
#endif
OPTION(network, "network", CHOICE, 0, NETWORKS,
       "what a guest has of its container's network: what native programs have, what it begins itself, or nothing "
       "(none)");
#ifdef WASMSHIM_WASMTIME_FULL
OPTION(
    flags, "wasmtime", STRING, COMPILES, NULL,
    "options of wasmtime's command, -C, -D, -O and -W, as in -O opt-level=s,-W gc=n; those of this table come after");
OPTION(initialize, "initialize", STRING, COMPILES, NULL,
       "a function that the guest exports: it is called once, ahead, without arguments, variables, files or network, "
       "and all containers start from what it leaves in memory (none)");
OPTION(connect_to, "connect-to", STRING, 0, NULL,
       "the addresses that it may connect and send to, as in 10.0.0.0/8,192.0.2.1 (any)");
OPTION(connect_ports, "connect-ports", STRING, 0, NULL,
       "the ports that it may connect and send to, as in 443,8000-8080 (any)");
OPTION(connect_names, "connect-names", STRING, 0, NULL,
       "the names that it may look up, as in db.example.com,*.svc.cluster.local (any); it may connect to what they "
       "lead to, besides connect-to");
OPTION(accept_from, "accept-from", STRING, 0, NULL,
       "the addresses whose connections and datagrams it gets, as in 10.0.0.0/8 (any)");
OPTION(listen_ports, "listen-ports", STRING, 0, NULL, "the ports that it may be a server at, as in 80,8080 (any)");
OPTION(tcplisten, "tcplisten", STRING, 0, NULL,
       "sockets that a module is started with, its descriptors from 3 on, as in 0.0.0.0:8080 (none)");

// What of the network the library is told.
static const wasm_shim_option *const policy[] = {&network,       &connect_to,  &connect_ports,
                                                 &connect_names, &accept_from, &listen_ports};

int32_t set_network(struct guest *g) {
    g->network = wasmshim_network_new();
    for (size_t i = 0; i < sizeof(policy) / sizeof(policy[0]); i++) {
        const char *key = policy[i]->key;
        const char *value = wasm_shim_option_value(g->ctx, key);
        wasmtime_error_t *error = value == NULL ? NULL : wasmshim_network_set(g->network, key, value);
        if (error != NULL)
            return fail_with(g, WASM_SHIM_ERROR_LOAD, error, "engine option %s", key);
    }
    return WASM_SHIM_OK;
}

OPTION(http_address, "http-address", STRING, 0, NULL,
       "where a service listens: ADDRESS:PORT, :PORT or PORT (the variable PORT, or :8080)");
OPTION(http_backlog, "http-backlog", INTEGER, 0, NULL, "how many clients wait in the kernel to be accepted (1024)");
OPTION(http_reuse, "http-reuse", INTEGER, 0, NULL,
       "requests that one instance of a service answers, or half as many (1; of WASI 0.3: 128)");
OPTION(http_concurrency, "http-concurrency", INTEGER, 0, NULL,
       "requests that one instance of a service of WASI 0.3 answers at once (16)");
OPTION(http_idle, "http-idle", DURATION, 0, NULL, "how long an instance is kept for another request (1s)");
OPTION(http_max_connections, "http-max-connections", INTEGER, 0, NULL,
       "clients at once; others wait, and idle ones give way (1024)");
OPTION(http_max_requests, "http-max-requests", INTEGER, 0, NULL, "requests at once; others wait (256)");
OPTION(http_max_body, "http-max-body", SIZE, 0, NULL, "size of a request's body (1GiB)");
OPTION(http_max_headers, "http-max-headers", SIZE, 0, NULL, "size of a request's headers (64KiB)");
OPTION(http_timeout, "http-timeout", DURATION, 0, NULL,
       "how long a guest may let a client wait for its answer, or for the next piece of it (1m)");
OPTION(http_client_timeout, "http-client-timeout", DURATION, 0, NULL,
       "how long a client may take to send a request's head, or to read (30s)");
OPTION(http_drain, "http-drain", DURATION, 0, NULL, "how long requests may take to end after SIGTERM (25s)");
OPTION(http_log, "http-log", CHOICE, 0, "off|text|json", "the access log, on standard output (text)");
#define HTTP                                                                                                           \
    &http_address, &http_backlog, &http_reuse, &http_concurrency, &http_idle, &http_max_connections,                   \
        &http_max_requests, &http_max_body, &http_max_headers, &http_timeout, &http_client_timeout, &http_drain,       \
        &http_log,
const wasm_shim_option *const http_options[] = {HTTP NULL};
#else
#define HTTP
#endif

#if WASMTIME_VERSION_MAJOR >= 47
#define SINCE_47 "on"
#else
#define SINCE_47 "off"
#endif

// What the prebuilt library is built without, or has not all that it takes.
#ifdef WASMSHIM_WASMTIME_FULL
#define ONLY_FULL(X)                                                                                                   \
    X(shared_memory, "shared-memory", "threads", "off")                                                                \
    X(stack_switching, "stack-switching", "function-references", "off")
#define wasmtime_config_wasm_shared_memory_set wasmtime_config_shared_memory_set
#else
#define ONLY_FULL(X)
#endif

// The proposals that can be switched. One that needs another is off where the
// other is: wasmtime refuses anything else.
#define PROPOSALS(X)                                                                                                   \
    X(bulk_memory, "bulk-memory", NULL, "on")                                                                          \
    X(custom_page_sizes, "custom-page-sizes", NULL, "off")                                                             \
    X(exceptions, "exceptions", "function-references", SINCE_47)                                                       \
    X(function_references, "function-references", "reference-types", SINCE_47)                                         \
    X(gc, "gc", "function-references", SINCE_47)                                                                       \
    X(memory64, "memory64", NULL, "on")                                                                                \
    X(multi_memory, "multi-memory", NULL, "on")                                                                        \
    X(multi_value, "multi-value", NULL, "on")                                                                          \
    X(reference_types, "reference-types", "bulk-memory", "on")                                                         \
    X(relaxed_simd, "relaxed-simd", "simd", "on")                                                                      \
    X(simd, "simd", NULL, "on")                                                                                        \
    ONLY_FULL(X)                                                                                                       \
    X(tail_call, "tail-call", NULL, "on")                                                                              \
    X(threads, "threads", "bulk-memory", "on")                                                                         \
    X(wide_arithmetic, "wide-arithmetic", NULL, "off")

#define DECLARE(name, text, needs, normal)                                                                             \
    OPTION(wasm_##name, "wasm-" text, BOOLEAN, COMPILES, NULL, "the WebAssembly proposal " text " (" normal ")");
PROPOSALS(DECLARE)

#define LIST(name, text, needs, normal) &wasm_##name,
const wasm_shim_option *const options[] = {&opt_level,         &fuel,
                                           &timeout,           &max_memory,
                                           &max_wasm_stack,    &memory_reservation,
                                           &memory_guard_size, NETWORK_OPTIONS HTTP PROPOSALS(LIST) NULL};

struct proposal {
    const char *name;
    const char *needs; // another proposal's name; NULL if none
    void (*set)(wasm_config_t *, bool);
};

#define ROW(name, text, needs, normal) {text, needs, wasmtime_config_wasm_##name##_set},
static const struct proposal proposals[] = {PROPOSALS(ROW)};

static const char *proposal_value(const struct guest *g, const char *name) {
    char key[64];
    snprintf(key, sizeof(key), "wasm-%s", name);
    return wasm_shim_option_value(g->ctx, key);
}

// Returns the name of the proposal that was switched off and that this one
// needs, if only in the end; NULL if there is none.
static const char *missing(const struct guest *g, const struct proposal *p) {
    for (size_t i = 0; p->needs != NULL && i < sizeof(proposals) / sizeof(proposals[0]); i++) {
        if (strcmp(proposals[i].name, p->needs) != 0)
            continue;
        const char *value = proposal_value(g, p->needs);
        return value != NULL && strcmp(value, "false") == 0 ? p->needs : missing(g, &proposals[i]);
    }
    return NULL;
}

static int32_t set_proposals(struct guest *g, wasm_config_t *config) {
    for (size_t i = 0; i < sizeof(proposals) / sizeof(proposals[0]); i++) {
        const struct proposal *p = &proposals[i];
        const char *value = proposal_value(g, p->name);
        const char *off = missing(g, p);
        bool on = value != NULL && strcmp(value, "true") == 0;
        if (on && off != NULL)
            return fail(g, WASM_SHIM_ERROR_LOAD, "option wasm-%s = true needs wasm-%s, which is false", p->name, off);
        if (value != NULL || off != NULL)
            p->set(config, on);
    }
    return WASM_SHIM_OK;
}

// The core has checked the form; NULL is not set.
static bool number(const struct guest *g, const char *key, uint64_t *value) {
    const char *text = wasm_shim_option_value(g->ctx, key);
    if (text != NULL)
        *value = strtoull(text, NULL, 10);
    return text != NULL;
}

void set_timeout(struct guest *g) {
    g->has_timeout = number(g, timeout.key, &g->timeout_ms);
}

int32_t set_stack(struct guest *g) {
    const uint64_t least = 64 << 10, most = 1 << 30;
    uint64_t bytes = WASM_STACK;
    if (number(g, max_wasm_stack.key, &bytes) && (bytes < least || bytes > most))
        return fail(g, WASM_SHIM_ERROR_LOAD, "engine option max-wasm-stack: found %llu bytes, accepted: 64KiB to 1GiB",
                    (unsigned long long)bytes);
    g->stack = (size_t)bytes;
    return WASM_SHIM_OK;
}

// Where it is the library's default, nothing is set.
static void set_sizes(struct guest *g, wasm_config_t *config) {
    uint64_t bytes;
    if (g->stack != WASM_STACK) {
        wasmtime_config_max_wasm_stack_set(config, g->stack);
        // What is called asynchronously has a stack of its own.
        wasmtime_config_async_stack_size_set(config, g->stack + HOST_STACK);
    }
    if (number(g, memory_reservation.key, &bytes))
        wasmtime_config_memory_reservation_set(config, bytes);
    if (number(g, memory_guard_size.key, &bytes))
        wasmtime_config_memory_guard_size_set(config, bytes);
}

int32_t set_config(struct guest *g, wasm_config_t *config) {
#ifdef WASMSHIM_WASMTIME_FULL
    const char *text = wasm_shim_option_value(g->ctx, flags.key);
    wasmtime_error_t *error = text == NULL ? NULL : wasmshim_config_flags(config, text);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR_LOAD, error, "engine option %s", flags.key);
    if (wasm_shim_option_value(g->ctx, initialize.key) != NULL)
        wasmshim_config_initialized(config);
#endif
    const char *level = wasm_shim_option_value(g->ctx, opt_level.key);
    if (level != NULL)
        wasmtime_config_cranelift_opt_level_set(config, strcmp(level, "none") == 0 ? WASMTIME_OPT_LEVEL_NONE
                                                        : strcmp(level, "speed") == 0
                                                            ? WASMTIME_OPT_LEVEL_SPEED
                                                            : WASMTIME_OPT_LEVEL_SPEED_AND_SIZE);
    g->has_fuel = number(g, fuel.key, &g->fuel);
    if (g->has_fuel)
        wasmtime_config_consume_fuel_set(config, true);
    set_sizes(g, config);
    g->has_epochs = g->has_timeout;
#ifdef WASMSHIM_WASMTIME_FULL
    wasmtime_config_wasm_component_model_async_set(config, true);
    // Whether a component is a service, which lets others run, nobody knows yet.
    g->has_epochs = g->has_epochs || wasm_shim_kind(g->ctx) != WASM_SHIM_KIND_MODULE;
#endif
    wasmtime_config_epoch_interruption_set(config, g->has_epochs);
    return set_proposals(g, config);
}

bool memory_limit(const struct guest *g, uint64_t *bytes) {
    return number(g, max_memory.key, bytes);
}

int32_t set_limits(struct guest *g) {
    uint64_t bytes;
    if (memory_limit(g, &bytes))
        wasmtime_store_limiter(g->store, bytes < INT64_MAX ? (int64_t)bytes : INT64_MAX, -1, -1, -1, -1);
    if (g->has_epochs)
        wasmtime_context_set_epoch_deadline(g->context, g->has_timeout ? 1 : UINT64_MAX / 2);
    if (g->has_fuel) {
        wasmtime_error_t *error = wasmtime_context_set_fuel(g->context, g->fuel);
        if (error != NULL)
            return fail_with(g, WASM_SHIM_ERROR, error, "cannot set fuel");
    }
    return WASM_SHIM_OK;
}
