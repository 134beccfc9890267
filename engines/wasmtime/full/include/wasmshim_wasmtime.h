// SPDX-License-Identifier: Apache-2.0

// What the full library has beyond wasmtime's C API. That it is there says that it
// is the full one.

#ifndef WASMSHIM_WASMTIME_H
#define WASMSHIM_WASMTIME_H

#include <wasi.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
}
#endif

#endif
