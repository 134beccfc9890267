// SPDX-License-Identifier: Apache-2.0

// Descriptor intake: what is accepted, and the words of each refusal.

#include "../cabi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)ctx;
    (void)exit_code;
    (void)user_data;
    return WASM_SHIM_OK;
}

static wasm_shim_engine good(void) {
    return (wasm_shim_engine){
        WASM_SHIM_ENGINE_HEAD,
        .kinds = WASM_SHIM_KIND_MODULE,
        .name = "wasmtime",
        .run_wasi = run_wasi,
    };
}

// want is NULL for a descriptor that is accepted, else part of the message.
static void expect(const char *what, const wasm_shim_engine *e, const char *want) {
    wasm_shim_engine copy;
    char msg[512] = "";
    int r = wasmshim_engine_read(e, &copy, msg, sizeof(msg));
    if (want == NULL ? r != 0 : (r == 0 || strstr(msg, want) == NULL)) {
        printf("%s: got %d \"%s\", want \"%s\"\n", what, r, msg, want != NULL ? want : "");
        failures++;
    }
}

static void names(void) {
    static const char *const ok[] = {"a", "wasmtime", "wasm-3", "x86"};
    static const char *const bad[] = {"", "-a", "a-", "A", "a.b", "a_b", "a/b", "../a", "a b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof(ok) / sizeof(ok[0]); i++) {
        wasm_shim_engine e = good();
        e.name = ok[i];
        expect(ok[i], &e, NULL);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wasm_shim_engine e = good();
        e.name = bad[i];
        expect(bad[i], &e, "lower-case letters");
    }
    char name[65];
    wasm_shim_engine e = good();
    memset(name, 'a', 64);
    name[64] = 0;
    e.name = name;
    expect("64 bytes", &e, "1 to 63");
    e.name = name + 1;
    expect("63 bytes", &e, NULL);
    e.name = NULL;
    expect("NULL name", &e, "engine name \"\"");
}

// Descriptors of other versions lie in memory of exactly their size, so that
// the sanitizer sees a read beyond it.
static void sizes(void) {
    size_t now = sizeof(wasm_shim_engine);
    for (size_t size = sizeof(size_t); size < now + 64; size += 8) {
        char *p = calloc(1, size);
        wasm_shim_engine e = good();
        e.size = size;
        memcpy(p, &e, size < now ? size : now);
        expect("size", (wasm_shim_engine *)p, size < now ? "less than version 1.0's 128" : NULL);
        if (size > now) {
            p[size - 1] = 1;
            expect("unknown member", (wasm_shim_engine *)p, "does not know: use a newer library");
        }
        free(p);
    }
    wasm_shim_engine e = good();
    e.size = 0;
    expect("size 0", &e, "set size to sizeof");
    e.size = ~(size_t)0;
    expect("size -1", &e, "set size to sizeof");
}

static void versions(void) {
    wasm_shim_engine e = good();
    e.abi_major = WASM_SHIM_ABI_MAJOR + 1;
    expect("newer major", &e, "built for version 2.1 of wasm_shim.h, this library is 1.1");
    e.abi_major = 0;
    expect("no major", &e, "built for version 0.1");
    e = good();
    e.abi_minor = 99;
    expect("newer minor", &e, NULL);
}

static void members(void) {
    wasm_shim_engine e = good();
    e.run_wasi = NULL;
    expect("no run_wasi", &e, "engine \"wasmtime\" has no run_wasi");
    e = good();
    e.kinds = 0;
    expect("no kinds", &e, "set kinds");
    e.kinds = 1 << 20;
    expect("odd kinds", &e, "kinds 0x100000");
    e = good();
    e.default_log_level = WASM_SHIM_LOG_TRACE;
    expect("log level", &e, NULL);
    e.default_log_level = 6;
    expect("odd log level", &e, "has default_log_level 6; accepted: 0, or WASM_SHIM_LOG_ERROR (1)");
    expect("NULL", NULL, "no descriptor");
}

static void lists(void) {
    wasm_shim_option a = {.size = sizeof(a), .key = "opt-level"};
    wasm_shim_option b = {.size = sizeof(b), .key = "opt-level"};
    const wasm_shim_option *options[] = {&a, &b, NULL};
    wasm_shim_engine e = good();
    e.options = options;
    expect("twice", &e, "option \"opt-level\" is declared twice");
    b.key = "b";
    expect("options", &e, NULL);
    b.key = "b c";
    expect("bad key", &e, "option key \"b c\"");
    b.key = "";
    expect("empty key", &e, "option key \"\"");
    b.key = "preopens";
    expect("reserved key", &e, "option \"preopens\" is the library's own");
    b.key = "b";
    b.type = 6;
    expect("unknown type", &e, "option \"b\" has type 6");
    b.type = WASM_SHIM_OPTION_CHOICE;
    expect("no choices", &e, "option \"b\": choices are for type");
    b.choices = "x|y";
    expect("choices", &e, NULL);
    b.type = WASM_SHIM_OPTION_SIZE;
    expect("needless choices", &e, "option \"b\": choices are for type");
    b.type = 0, b.choices = NULL;
    b.key = "b";
    b.flags = 4;
    expect("bad flags", &e, "has flags");
    b.flags = 1;
    b.size = 8;
    expect("small option", &e, "wasm_shim_option says that its size is 8");

    static const char *const good_types[] = {"application/wasm", NULL};
    static const char *const bad_types[] = {"wasm", NULL};
    e = good();
    e.layer_types = good_types;
    expect("layer types", &e, NULL);
    e.layer_types = bad_types;
    expect("bad layer types", &e, "layer type \"wasm\" is not a media type");
}

int main(void) {
    names();
    sizes();
    versions();
    members();
    lists();
    return failures != 0;
}
