// SPDX-License-Identifier: Apache-2.0

// An engine that runs nothing and logs one line at each level. SILENT makes it
// one that leaves the daemon's logger alone.

#include "wasm_shim.h"

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    for (int32_t level = WASM_SHIM_LOG_ERROR; level <= WASM_SHIM_LOG_TRACE; level++)
        wasm_shim_log(ctx, level, "a line of the engine's", NULL);
    *exit_code = 0;
    return WASM_SHIM_OK;
}

#ifndef SILENT
#define SILENT 0
#endif

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE, .name = "loud", .default_log_level = WASM_SHIM_LOG_DEBUG,
    .run_wasi = run_wasi,  .no_setup_logger = SILENT,
};

int main(int argc, char **argv) {
    return wasm_shim_main(argc, argv, &engine);
}
