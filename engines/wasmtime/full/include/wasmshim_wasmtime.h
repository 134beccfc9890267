// SPDX-License-Identifier: Apache-2.0

// What the full library has beyond wasmtime's C API. That this file is there says
// that it is the full one.

#ifndef WASMSHIM_WASMTIME_H
#define WASMSHIM_WASMTIME_H

#include <wasi.h>
#include <wasmtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// Makes a configuration anew, of options as wasmtime's command has them: -C, -D, -O and
// -W, with commas or spaces between them. What is set before is lost.
wasmtime_error_t *wasmshim_config_flags(wasm_config_t *config, const char *text);

// Sets a configuration for guests that are initialised: a memory that is full from the
// beginning is mapped, where it would be copied at each start.
void wasmshim_config_initialized(wasm_config_t *config);

// What an engine's artifacts depend on, as a number: those of another number do not fit.
// function: what initialises their guests; NULL if nothing does.
uint64_t wasmshim_compatibility(wasm_engine_t *engine, const char *function);

// Calls a function that a module or a component exports (of an exported instance:
// INSTANCE.FUNCTION), with WASI as on a machine on which there is nothing, and makes code
// that begins where it has ended. The caller frees made, and written: the end of what the
// guest wrote to its standard streams, as one line. The error begins as the end of a
// sentence about the guest; trapped says that the guest trapped.
wasmtime_error_t *wasmshim_initialize(wasm_engine_t *engine, const wasm_byte_vec_t *wasm, const char *function,
                                      wasm_byte_vec_t *made, wasm_byte_vec_t *written, bool *trapped);

// What a guest may do in the network: nothing, as it is new.
typedef struct wasmshim_network wasmshim_network_t;

wasmshim_network_t *wasmshim_network_new(void);

// Sets one of the engine's options about the network; comes before all uses of it. The
// error says what was found and what is accepted.
wasmtime_error_t *wasmshim_network_set(wasmshim_network_t *network, const char *key, const char *value);

// WASI preview 1 by the kernel: what a guest of it starts with.
typedef struct wasmshim_p1 wasmshim_p1_t;

wasmshim_p1_t *wasmshim_p1_new(void);

// Adds an argument, or a variable; their bytes are copied, and need not be UTF-8.
void wasmshim_p1_arg(wasmshim_p1_t *p1, const char *arg);
void wasmshim_p1_env(wasmshim_p1_t *p1, const char *name, const char *value);

// Gives the guest the process's standard streams, as its descriptors 0 to 2. Comes
// before the directories.
void wasmshim_p1_streams(wasmshim_p1_t *p1);

// Gives it sockets that listen at addresses, with commas between them; comes between
// the streams and the directories. The error is as of wasmshim_network_set.
wasmtime_error_t *wasmshim_p1_listen(wasmshim_p1_t *p1, const wasmshim_network_t *network, const char *addresses);

// Gives it a directory. Of host = "/" paths reach what the process's own do, of
// guest = "/" the directory is a root to them, of others they end at it. Returns 0
// or an error of errno.h.
int wasmshim_p1_dir(wasmshim_p1_t *p1, const char *host, const char *guest);

// Defines wasi_snapshot_preview1, all but proc_exit, which is the caller's, in a
// linker. Takes p1.
wasmtime_error_t *wasmshim_p1_define(wasmtime_linker_t *linker, wasmshim_p1_t *p1);

// Gives what config makes the process's standard streams, a working directory and
// sockets; comes before its directories.
void wasmshim_component_config(wasi_config_t *config, const wasmshim_network_t *network, const char *cwd);

// Defines WASI 0.2 in a linker, by the kernel: paths reach what those of
// wasmshim_p1_dir do. Where calls are asynchronous, by wasmshim_component_call, it
// defines 0.3, too, and nothing else can call what is linked.
wasmtime_error_t *wasmshim_component_define(wasmtime_component_linker_t *linker, const wasmshim_network_t *network,
                                            bool asynchronous);

// Instantiates a component and calls an export that has no parameters. print: its
// result goes to standard output, as a line of WAVE. Sets started before it runs, and
// failed if the result is an error's.
wasmtime_error_t *wasmshim_component_call(wasmtime_context_t *context, wasmtime_component_linker_t *linker,
                                          wasmtime_component_t *component, wasmtime_component_export_index_t *export,
                                          bool print, bool *started, bool *failed);

// Permits the process's guests to send requests, as the network's options say. bundle:
// the file with the certificates that it trusts; NULL where the container's counts.
void wasmshim_http_permit(const wasmshim_network_t *network, const char *bundle);

// A component that answers HTTP, as wasi:http/incoming-handler@0.2 or
// wasi:http/handler@0.3.
typedef struct wasmshim_http wasmshim_http_t;

// Says whether it is one.
bool wasmshim_http_serves(wasmtime_component_t *component);

wasmshim_http_t *wasmshim_http_new(const wasmshim_network_t *network);

// Say what each instance starts with; options are those whose names begin with http-,
// max-memory, fuel, threads, how many threads run guests, and artifact, the file that the
// component was mapped from.
wasmtime_error_t *wasmshim_http_arg(wasmshim_http_t *http, const char *arg);
wasmtime_error_t *wasmshim_http_env(wasmshim_http_t *http, const char *name, const char *value);
wasmtime_error_t *wasmshim_http_dir(wasmshim_http_t *http, const char *host, const char *guest);
wasmtime_error_t *wasmshim_http_cwd(wasmshim_http_t *http, const char *cwd);
wasmtime_error_t *wasmshim_http_option(wasmshim_http_t *http, const char *key, const char *value);

// Serves until a byte can be read from signals, a pipe: the number of a signal that asks
// it to end; a second one ends it at once. The exit code is in code then. Takes http and
// signals.
wasmtime_error_t *wasmshim_http_serve(wasmtime_component_t *component, wasmshim_http_t *http, int signals, int *code);

#ifdef __cplusplus
}
#endif

#endif
