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

// WASI preview 1 by the kernel: what a guest of it starts with.
typedef struct wasmshim_p1 wasmshim_p1_t;

wasmshim_p1_t *wasmshim_p1_new(void);

// Adds an argument, or a variable; their bytes are copied, and need not be UTF-8.
void wasmshim_p1_arg(wasmshim_p1_t *p1, const char *arg);
void wasmshim_p1_env(wasmshim_p1_t *p1, const char *name, const char *value);

// Gives the guest the process's standard streams, as its descriptors 0 to 2. Comes
// before the directories.
void wasmshim_p1_streams(wasmshim_p1_t *p1);

// Gives it a directory. Of host = "/" paths reach what the process's own do, of
// guest = "/" the directory is a root to them, of others they end at it. Returns 0
// or an error of errno.h.
int wasmshim_p1_dir(wasmshim_p1_t *p1, const char *host, const char *guest);

// Defines wasi_snapshot_preview1, all but proc_exit, which is the caller's, in a
// linker. Takes p1.
wasmtime_error_t *wasmshim_p1_define(wasmtime_linker_t *linker, wasmshim_p1_t *p1);

// WASI preview 2 by the kernel. Gives what config makes the process's standard
// streams and a working directory; comes before its directories.
void wasmshim_p2_config(wasi_config_t *config, const char *cwd);

// Defines WASI 0.2 in a linker. Paths reach what those of wasmshim_p1_dir do.
wasmtime_error_t *wasmshim_p2_define(wasmtime_component_linker_t *linker);

#ifdef __cplusplus
}
#endif

#endif
