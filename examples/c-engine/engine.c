// SPDX-License-Identifier: Apache-2.0

// The smallest engine: it executes nothing. It shows what an engine is given
// and what it gives back, by printing the arguments and the guest's header.

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "wasm_shim.h"

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    unsigned char header[8];
    int fd = open(wasm_shim_source_file(ctx), O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, header, sizeof(header));
    if (n != sizeof(header)) {
        wasm_shim_set_error(ctx, "cannot read the guest's first eight bytes");
        return WASM_SHIM_ERROR_LOAD;
    }
    close(fd);

    printf("c-engine executes nothing; this guest is binary format %u, layer %u\n", header[4] | header[5] << 8,
           header[6] | header[7] << 8);
    const char *const *args;
    size_t count = wasm_shim_args(ctx, &args);
    for (size_t i = 0; i < count; i++)
        printf("argument %zu: %s\n", i, args[i]);
    *exit_code = 0;
    return WASM_SHIM_OK;
}

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT,
    .name = "c-engine",    .version = "0.1.0",
    .run_wasi = run_wasi,
};

int main(int argc, char **argv) {
    return wasm_shim_main(argc, argv, &engine);
}
