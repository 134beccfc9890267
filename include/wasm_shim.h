/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wasm_shim.h: turn a WebAssembly engine into a containerd runtime.
 *
 * An engine fills in one wasm_shim_engine, hands it to wasm_shim_main() from
 * its main() and links libwasmshim.a. The result, a static binary named
 * containerd-shim-<name>-v1, is the runtime io.containerd.<name>.v1.
 *
 * One binary plays several processes. The callbacks run in two of them, and
 * neither holds a Go runtime:
 *
 *   runner    a process of the container, its first or an exec's: run_wasi,
 *             stop, can_handle
 *   compiler  a process without rights beside the container: compile
 *   daemon    answers containerd: calls nothing, reads the descriptor's data
 *
 * How this header grows: members are appended to structs that carry their
 * size, functions and constants are added, nothing is removed or changes its
 * meaning within one major version. The library reads at most `size` bytes of
 * a struct of yours, takes missing members as zero, and refuses one that is
 * larger than it knows if the part that it does not know is not zero.
 *
 * Everywhere: strings end with a NUL, are UTF-8 where containerd says so, and
 * hold any other byte where the user may put it (arguments, environment). No
 * callback may return into the library by longjmp or by a C++ exception.
 *
 * A comment below that says nothing else means: OWNERSHIP: what the library
 * returns is the library's and lives until the callback returns; what you pass
 * is yours and is copied when it is needed later. THREAD: any thread, while
 * the callback runs. PROCESS: runner and compiler. SINCE: 1.0.
 */
#ifndef WASM_SHIM_H
#define WASM_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. Majors do not mix; a newer minor only adds. */
#define WASM_SHIM_ABI_MAJOR 1
#define WASM_SHIM_ABI_MINOR 1
#define WASM_SHIM_ABI_VERSION ((WASM_SHIM_ABI_MAJOR << 16) | WASM_SHIM_ABI_MINOR)

/* What a callback returns. SINCE: 1.0 */
enum {
    WASM_SHIM_OK = 0,
    /* The engine failed for a reason that no other status names. The container exits with 125. */
    WASM_SHIM_ERROR = 1,
    /* The guest cannot be loaded: unreadable, not Wasm, an import or export is missing. Exits with 126. */
    WASM_SHIM_ERROR_LOAD = 2,
    /* The guest's code was refused by the compiler. Exits with 126. */
    WASM_SHIM_ERROR_COMPILE = 3,
    /* The guest started and was stopped by a trap. Exits with 134. */
    WASM_SHIM_ERROR_TRAP = 4,
    /* The engine does not do this. */
    WASM_SHIM_UNSUPPORTED = 5
};

/* What a guest is; bits, so that an engine can name a set of them. SINCE: 1.0 */
enum {
    WASM_SHIM_KIND_MODULE = 1,    /* a core WebAssembly module */
    WASM_SHIM_KIND_COMPONENT = 2, /* a WebAssembly component */
    WASM_SHIM_KIND_TEXT = 4,      /* WebAssembly text format */
    WASM_SHIM_KIND_OTHER = 8      /* a file that can_handle says yes to */
};

/* Levels of wasm_shim_log. SINCE: 1.0 */
enum {
    WASM_SHIM_LOG_ERROR = 1,
    WASM_SHIM_LOG_WARN = 2,
    WASM_SHIM_LOG_INFO = 3,
    WASM_SHIM_LOG_DEBUG = 4,
    WASM_SHIM_LOG_TRACE = 5
};

/* Flags of wasm_shim_option. SINCE: 1.0 */
enum {
    /* The value changes what compile makes: it becomes part of the compile cache's key. */
    WASM_SHIM_OPTION_AFFECTS_COMPILATION = 1,
    /* Not the value changes it, but whether there is one. */
    WASM_SHIM_OPTION_PRESENCE_AFFECTS_COMPILATION = 2
};

/*
 * Types of wasm_shim_option. The core checks a value before a container is
 * created and hands it to the engine in the form that is named here.
 * SINCE: 1.0
 */
enum {
    WASM_SHIM_OPTION_STRING = 0,   /* any text, as it was given */
    WASM_SHIM_OPTION_BOOLEAN = 1,  /* "true" or "false" */
    WASM_SHIM_OPTION_INTEGER = 2,  /* 0 to 2^64-1, decimal */
    WASM_SHIM_OPTION_SIZE = 3,     /* "64MiB" is given as bytes, decimal: "67108864" */
    WASM_SHIM_OPTION_DURATION = 4, /* "1m30s" is given as milliseconds, decimal: "90000" */
    WASM_SHIM_OPTION_CHOICE = 5    /* one of the words in choices */
};

/*
 * wasm_shim_context is one container, as a callback sees it.
 * OWNERSHIP: the library's. Valid until the callback returns.
 * THREAD: any, while the callback runs.
 */
typedef struct wasm_shim_context wasm_shim_context;

/*
 * wasm_shim_option declares one engine option that operators may set.
 * A key that is not declared is refused before the engine is asked.
 * OWNERSHIP: yours; constant from wasm_shim_main() on.
 * PROCESS: daemon (as data). SINCE: 1.0
 */
typedef struct wasm_shim_option {
    size_t size;         /* sizeof(wasm_shim_option) */
    const char *key;     /* letters, digits, '-', '_' and '.'; not "preopens", which is the core's */
    const char *help;    /* one line; may be NULL */
    uint32_t flags;      /* WASM_SHIM_OPTION_*AFFECTS_COMPILATION, or 0 */
    uint32_t type;       /* WASM_SHIM_OPTION_STRING to WASM_SHIM_OPTION_CHOICE */
    const char *choices; /* the words of a choice: "a|b|c"; NULL otherwise */
} wasm_shim_option;

/*
 * wasm_shim_engine describes an engine. Set the first three members, by
 * WASM_SHIM_ENGINE_HEAD or by hand, and leave zero what you do not use.
 * OWNERSHIP: yours, with everything that it points to; constant from
 * wasm_shim_main() on. THREAD: wasm_shim_main's. PROCESS: every one, as data.
 * SINCE: 1.0
 */
typedef struct wasm_shim_engine {
    size_t size;        /* sizeof(wasm_shim_engine), as your compiler saw it */
    uint32_t abi_major; /* WASM_SHIM_ABI_MAJOR */
    uint32_t abi_minor; /* WASM_SHIM_ABI_MINOR */

    uint32_t kinds; /* WASM_SHIM_KIND_* that the engine runs; at least one */
    /* How long a guest may go on after stop() said WASM_SHIM_OK, in ms. 0 means 5000. */
    uint32_t stop_deadline_ms;
    /* WASM_SHIM_LOG_*: how much is logged where neither containerd nor the operator says it. 0 means INFO. */
    uint32_t default_log_level;
    /* Not 0: the daemon's log is not set up; its lines go nowhere. For an engine that wants silence. */
    uint32_t no_setup_logger;

    const char *name;      /* "wasmtime": lower-case letters, digits and '-'; at most 63 bytes */
    const char *shim_name; /* the runtime is io.containerd.<shim_name>.v1; like name; NULL is name */
    const char *version;   /* of the engine; may be NULL */
    const char *revision;  /* of its source; may be NULL */

    const char *const *layer_types;         /* further OCI media types that it takes, then NULL; may be NULL */
    const wasm_shim_option *const *options; /* pointers, then NULL; may be NULL */
    const char *cache_key;                  /* what, beside version and options, decides whether an artifact fits */

    void *user_data; /* handed to every callback */

    /*
     * can_handle says whether the engine runs a file that the core does not
     * recognise. Asked only when kinds has WASM_SHIM_KIND_OTHER; may be NULL.
     * Returns WASM_SHIM_OK, or WASM_SHIM_UNSUPPORTED.
     * THREAD: the process's first. PROCESS: runner. SINCE: 1.0
     */
    int32_t (*can_handle)(wasm_shim_context *ctx, void *user_data);

    /*
     * run_wasi runs the guest with the process's descriptors 0 to 2 as its
     * standard streams and returns when it has ended. Required.
     * exit_code: set it to what the guest exited with; it is 0 before, its low
     * eight bits count, and it is not looked at unless WASM_SHIM_OK is returned.
     * Returns WASM_SHIM_OK when the guest ran to its end, whatever its exit
     * code; else one of WASM_SHIM_ERROR*, after wasm_shim_set_error().
     * The process ends then by _exit: what stdio holds is written, destructors
     * and atexit handlers are not run. Exiting it from within is allowed.
     * THREAD: the process's first, on its own stack. No signal is blocked.
     * Handlers are set for every signal that terminates by default and is not
     * raised by a fault (SIGTERM, SIGINT, ...), and SIGPIPE is ignored; the
     * engine may replace them. Nothing else of the process is the library's: no
     * thread, no allocator, no environment.
     * PROCESS: runner. SINCE: 1.0
     */
    int32_t (*run_wasi)(wasm_shim_context *ctx, int32_t *exit_code, void *user_data);

    /*
     * stop asks the guest to end because of a signal; may be NULL.
     * Returns WASM_SHIM_OK when run_wasi is going to return soon: the runner
     * then waits stop_deadline_ms and exits with 128 + sig. Anything else:
     * it exits so at once.
     * THREAD: a signal handler on any thread: only async-signal-safe calls.
     * PROCESS: runner. SINCE: 1.0
     */
    int32_t (*stop)(int32_t sig, void *user_data);

    /*
     * compile makes artifacts of the guest's layers, with
     * wasm_shim_artifact_write(); may be NULL. run_wasi is given them then, in
     * this container and in later ones. What is kept is found by the engine's
     * name, the binary, cache_key, the CPU's features, the layers' digests and
     * the options that affect compilation: an artifact must depend on nothing
     * else. The context has layers, kind and these options; ids, arguments,
     * environment and entrypoint are empty. Of an option whose mere presence
     * affects compilation compile sees only that it is set: its value is "0",
     * "true", the first choice or "", as its type is. Other options it does not
     * see, whether they are set or not.
     * Returns WASM_SHIM_OK, WASM_SHIM_UNSUPPORTED (the originals will be run),
     * or one of WASM_SHIM_ERROR* after wasm_shim_set_error(): the cause is
     * logged, and the originals are run.
     * THREAD: the process's first. It may start others. PROCESS: compiler: no
     * user, no files, no network, and memory, processes and time are limited.
     * SIGIO is the library's.
     * SINCE: 1.0
     */
    int32_t (*compile)(wasm_shim_context *ctx, void *user_data);
} wasm_shim_engine;

/* Sets the first three members, in a designated initializer (C99, C++20). SINCE: 1.0 */
#define WASM_SHIM_ENGINE_HEAD                                                                                          \
    .size = sizeof(wasm_shim_engine), .abi_major = WASM_SHIM_ABI_MAJOR, .abi_minor = WASM_SHIM_ABI_MINOR

/*
 * wasm_shim_main is the whole program: call it from main() with main's own
 * argc and argv, and return what it returns. It decides by arguments and
 * environment which process this one is. Call it once, before starting
 * threads; print nothing before.
 * Returns the process's exit status. It does not return in every process.
 * OWNERSHIP: argv and engine stay yours and must stay in place.
 * THREAD: the process's first. PROCESS: every one. SINCE: 1.0
 */
int wasm_shim_main(int argc, char **argv, const wasm_shim_engine *engine);

/* main() for an engine whose descriptor is a variable. SINCE: 1.0 */
#define WASM_SHIM_MAIN(descriptor)                                                                                     \
    int main(int argc, char **argv) {                                                                                  \
        return wasm_shim_main(argc, argv, &(descriptor));                                                              \
    }

/*
 * wasm_shim_abi_version returns the WASM_SHIM_ABI_VERSION of the library.
 * THREAD: any, at any time. PROCESS: every one. SINCE: 1.0
 */
uint32_t wasm_shim_abi_version(void);

/*
 * wasm_shim_set_error says why the callback is about to fail. The last message
 * wins. First line: the reason in one sentence; more lines may follow (a
 * backtrace). It reaches the container's stderr and the daemon's log.
 * message: NULL takes back what was set.
 * SINCE: 1.0
 */
void wasm_shim_set_error(wasm_shim_context *ctx, const char *message);

/*
 * wasm_shim_log writes one line to the shim's log, which containerd keeps, if
 * the level is within the log level that the operator has set. It never waits:
 * of many lines at once some may be dropped, and of a long line the end.
 * level: WASM_SHIM_LOG_*. message: one line, without a line end.
 * fields: strings "key=value", then NULL; may be NULL. SINCE: 1.0
 */
void wasm_shim_log(wasm_shim_context *ctx, int32_t level, const char *message, const char *const *fields);

/*
 * The container's id, the id of its pod (its own where there is no pod), and
 * containerd's namespace. Never NULL. SINCE: 1.0
 */
const char *wasm_shim_container_id(const wasm_shim_context *ctx);
const char *wasm_shim_pod_id(const wasm_shim_context *ctx);
const char *wasm_shim_namespace(const wasm_shim_context *ctx);

/*
 * The id of the exec that this process is for, with which the container has
 * one process more. Returns "" in the container's first process and in the
 * compiler; never NULL. SINCE: 1.1
 */
const char *wasm_shim_exec_id(const wasm_shim_context *ctx);

/*
 * The guest's arguments, the first being its own name, and its environment as
 * "KEY=value". The environment is the guest's only: the runner's own is empty.
 * list: set to an array of that many strings and a NULL; may be NULL.
 * Returns the number of strings. SINCE: 1.0
 */
size_t wasm_shim_args(const wasm_shim_context *ctx, const char *const **list);
size_t wasm_shim_env(const wasm_shim_context *ctx, const char *const **list);

/* The guest's working directory, "/" by default. Never NULL. SINCE: 1.0 */
const char *wasm_shim_cwd(const wasm_shim_context *ctx);

/*
 * The entrypoint "path#func". path: the absolute path of the guest's file in
 * the container, which is the process's root. func: "_start" where the user
 * named none. name: the file's name without directory and extension. arg0: the
 * first argument as the user wrote it. Never NULL. SINCE: 1.0
 */
const char *wasm_shim_entry_path(const wasm_shim_context *ctx);
const char *wasm_shim_entry_func(const wasm_shim_context *ctx);
const char *wasm_shim_entry_name(const wasm_shim_context *ctx);
const char *wasm_shim_entry_arg0(const wasm_shim_context *ctx);

/* What the guest's first bytes say it is: one WASM_SHIM_KIND_*. SINCE: 1.0 */
uint32_t wasm_shim_kind(const wasm_shim_context *ctx);

/*
 * The file that holds the guest: an absolute path in the container. Others may
 * write to it while it is read: its code is layer 0. Returns NULL where the guest comes as layers of an image, and in
 * the compiler. SINCE: 1.0
 */
const char *wasm_shim_source_file(const wasm_shim_context *ctx);

/*
 * The guest's code. An image of layers has those whose type the core or the
 * engine knows, in the manifest's order; a guest that is a file is one layer.
 * Layers do not change: of a file, whoever may write to it, this is a copy in
 * memory that is made when it is first asked for. Where there is an artifact,
 * an engine need not ask.
 * index: below wasm_shim_layer_count(). media_type and digest ("sha256:...")
 * are NULL where they are not known: a file has no type.
 * bytes: maps the layer, for reading, when it is first asked for. size may be
 * NULL. Returns NULL and sets errno if that fails; an empty layer is not NULL.
 * fd: a descriptor of the same, for reading: for an engine that maps it itself,
 * or opens /proc/self/fd/N. Returns -1 and sets errno if that fails.
 * OWNERSHIP: bytes and fd are the library's. THREAD: any, one at a time.
 * SINCE: 1.0
 */
size_t wasm_shim_layer_count(const wasm_shim_context *ctx);
const char *wasm_shim_layer_media_type(const wasm_shim_context *ctx, size_t index);
const char *wasm_shim_layer_digest(const wasm_shim_context *ctx, size_t index);
const uint8_t *wasm_shim_layer_bytes(wasm_shim_context *ctx, size_t index, size_t *size);
int wasm_shim_layer_fd(wasm_shim_context *ctx, size_t index);

/*
 * What compile made of a layer, in run_wasi: bytes and fd as above, NULL and -1
 * with ENOENT where there is none. A layer and its artifact are both there.
 * refuse: says that the artifact does not load, so that another one is made
 * for the next container; run the layer instead. why: one line.
 * OWNERSHIP and THREAD: as above. PROCESS: runner. SINCE: 1.0
 */
const uint8_t *wasm_shim_artifact_bytes(wasm_shim_context *ctx, size_t index, size_t *size);
int wasm_shim_artifact_fd(wasm_shim_context *ctx, size_t index);
void wasm_shim_artifact_refuse(wasm_shim_context *ctx, size_t index, const char *why);

/*
 * wasm_shim_artifact_write appends to what compile makes of a layer.
 * Returns 0, or -1 and sets errno; what is too large fails with EFBIG.
 * THREAD: one at a time. PROCESS: compiler. SINCE: 1.0
 */
int wasm_shim_artifact_write(wasm_shim_context *ctx, size_t index, const void *bytes, size_t size);

/*
 * An engine option's value, in the form that its type says, or NULL where
 * nobody set it. key: one that the descriptor declares. SINCE: 1.0
 */
const char *wasm_shim_option_value(const wasm_shim_context *ctx, const char *key);

/*
 * Directories that the guest is to be given, with every right: the kernel
 * enforces read-only mounts and users. If nobody says it there is one: "/" as
 * "/". An operator may also give none.
 * index: below wasm_shim_preopen_count(). host: the path in the container.
 * guest: the name that the guest sees. Returns NULL beyond the end. SINCE: 1.0
 */
size_t wasm_shim_preopen_count(const wasm_shim_context *ctx);
const char *wasm_shim_preopen_host(const wasm_shim_context *ctx, size_t index);
const char *wasm_shim_preopen_guest(const wasm_shim_context *ctx, size_t index);

/*
 * The container's limits: memory in bytes and CPU time in thousandths of a
 * CPU. Returns 0 where there is none. The kernel enforces them: they are here
 * for an engine that sizes its memory or its threads. SINCE: 1.0
 */
uint64_t wasm_shim_memory_limit(const wasm_shim_context *ctx);
uint64_t wasm_shim_cpu_limit(const wasm_shim_context *ctx);

#ifdef __cplusplus
}
#endif

#endif /* WASM_SHIM_H */
