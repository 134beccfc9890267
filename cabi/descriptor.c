// SPDX-License-Identifier: Apache-2.0

// Intake of what an engine hands us, by the rule of openat2(2): see
// wasm_shim.h, "How this header grows".

#include "cabi.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    // Sizes in version 1.0. A struct smaller than that was never valid.
    ENGINE_SIZE_1_0 = 128,
    OPTION_SIZE_1_0 = 40,
    // Bounds what is looked at when a descriptor's size is garbage.
    SIZE_MAX_SANE = 4096,
    NAME_MAX_LEN = 63,
    LIST_MAX = 1024,
};

// The layout is the contract: a change here is a change of the ABI.
#define AT(type, member, offset) _Static_assert(offsetof(type, member) == (offset), #type "." #member " moved")
AT(wasm_shim_engine, size, 0);
AT(wasm_shim_engine, abi_major, 8);
AT(wasm_shim_engine, abi_minor, 12);
AT(wasm_shim_engine, kinds, 16);
AT(wasm_shim_engine, stop_deadline_ms, 20);
AT(wasm_shim_engine, default_log_level, 24);
AT(wasm_shim_engine, no_setup_logger, 28);
AT(wasm_shim_engine, name, 32);
AT(wasm_shim_engine, shim_name, 40);
AT(wasm_shim_engine, version, 48);
AT(wasm_shim_engine, revision, 56);
AT(wasm_shim_engine, layer_types, 64);
AT(wasm_shim_engine, options, 72);
AT(wasm_shim_engine, cache_key, 80);
AT(wasm_shim_engine, user_data, 88);
AT(wasm_shim_engine, can_handle, 96);
AT(wasm_shim_engine, run_wasi, 104);
AT(wasm_shim_engine, stop, 112);
AT(wasm_shim_engine, compile, 120);
_Static_assert(sizeof(wasm_shim_engine) == 128, "wasm_shim_engine grew");
AT(wasm_shim_option, size, 0);
AT(wasm_shim_option, key, 8);
AT(wasm_shim_option, help, 16);
AT(wasm_shim_option, flags, 24);
AT(wasm_shim_option, type, 28);
AT(wasm_shim_option, choices, 32);
_Static_assert(sizeof(wasm_shim_option) == 40, "wasm_shim_option grew");
#undef AT

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        snprintf(msg, msg_size, __VA_ARGS__);                                                                          \
        return -1;                                                                                                     \
    } while (0)

// Copies a struct that starts with its size.
static int read_sized(const char *what, const void *src, void *dst, size_t known, size_t least, char *msg,
                      size_t msg_size) {
    size_t size;
    memcpy(&size, src, sizeof(size));
    if (size < least)
        FAIL("%s says that its size is %zu, less than version 1.0's %zu: set size to sizeof", what, size, least);
    if (size > SIZE_MAX_SANE)
        FAIL("%s says that its size is %zu, more than %d: set size to sizeof", what, size, SIZE_MAX_SANE);
    memset(dst, 0, known);
    memcpy(dst, src, size < known ? size : known);
    for (size_t i = known; i < size; i++)
        if (((const unsigned char *)src)[i] != 0)
            FAIL("%s uses a member at offset %zu that this library, version %d.%d, does not know: use a newer library",
                 what, i, WASM_SHIM_ABI_MAJOR, WASM_SHIM_ABI_MINOR);
    return 0;
}

static bool lower_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

// containerd makes the binary's name from it, and reads dots as separators.
static bool is_name(const char *s) {
    size_t n = 0;
    for (; s[n] != 0; n++)
        if (n >= NAME_MAX_LEN || !(lower_or_digit(s[n]) || (s[n] == '-' && n > 0)))
            return false;
    return n > 0 && s[n - 1] != '-';
}

static bool is_key(const char *s) {
    for (const char *p = s; *p != 0; p++)
        if (!lower_or_digit(*p) && !(*p >= 'A' && *p <= 'Z') && *p != '-' && *p != '_' && *p != '.')
            return false;
    return *s != 0;
}

int wasmshim_option_read(const wasm_shim_option *src, wasm_shim_option *dst, char *msg, size_t msg_size) {
    if (read_sized("wasm_shim_option", src, dst, sizeof(*dst), OPTION_SIZE_1_0, msg, msg_size) < 0)
        return -1;
    if (dst->key == NULL || !is_key(dst->key))
        FAIL("option key \"%s\" is not made of letters, digits, '-', '_' and '.'", dst->key ? dst->key : "");
    if (strcmp(dst->key, "preopens") == 0)
        FAIL("option \"preopens\" is the library's own: choose another key");
    if ((dst->flags &
         ~(uint32_t)(WASM_SHIM_OPTION_AFFECTS_COMPILATION | WASM_SHIM_OPTION_PRESENCE_AFFECTS_COMPILATION)) != 0)
        FAIL("option \"%s\" has flags that this library does not know", dst->key);
    if (dst->type > WASM_SHIM_OPTION_CHOICE)
        FAIL("option \"%s\" has type %u, which this library does not know", dst->key, dst->type);
    if ((dst->type == WASM_SHIM_OPTION_CHOICE) != (dst->choices != NULL && dst->choices[0] != 0))
        FAIL("option \"%s\": choices are for type WASM_SHIM_OPTION_CHOICE, which needs them", dst->key);
    return 0;
}

static int check_options(const wasm_shim_engine *e, char *msg, size_t msg_size) {
    for (size_t i = 0; e->options != NULL && e->options[i] != NULL; i++) {
        wasm_shim_option option, other;
        if (i >= LIST_MAX)
            FAIL("more than %d options: does the list end with NULL?", LIST_MAX);
        if (wasmshim_option_read(e->options[i], &option, msg, msg_size) < 0)
            return -1;
        for (size_t j = 0; j < i; j++) {
            if (wasmshim_option_read(e->options[j], &other, msg, msg_size) < 0)
                return -1;
            if (strcmp(option.key, other.key) == 0)
                FAIL("option \"%s\" is declared twice", option.key);
        }
    }
    return 0;
}

static int check_layer_types(const wasm_shim_engine *e, char *msg, size_t msg_size) {
    for (size_t i = 0; e->layer_types != NULL && e->layer_types[i] != NULL; i++) {
        if (i >= LIST_MAX)
            FAIL("more than %d layer types: does the list end with NULL?", LIST_MAX);
        if (strchr(e->layer_types[i], '/') == NULL)
            FAIL("layer type \"%s\" is not a media type", e->layer_types[i]);
    }
    return 0;
}

int wasmshim_engine_read(const wasm_shim_engine *src, wasm_shim_engine *dst, char *msg, size_t msg_size) {
    const uint32_t all_kinds =
        WASM_SHIM_KIND_MODULE | WASM_SHIM_KIND_COMPONENT | WASM_SHIM_KIND_TEXT | WASM_SHIM_KIND_OTHER;

    if (src == NULL)
        FAIL("wasm_shim_main was given no descriptor");
    // Size and version come first: behind them, another major may differ.
    size_t size;
    memcpy(&size, src, sizeof(size));
    if (size >= offsetof(wasm_shim_engine, kinds) && src->abi_major != WASM_SHIM_ABI_MAJOR)
        FAIL("the engine was built for version %u.%u of wasm_shim.h, this library is %d.%d", src->abi_major,
             src->abi_minor, WASM_SHIM_ABI_MAJOR, WASM_SHIM_ABI_MINOR);
    if (read_sized("wasm_shim_engine", src, dst, sizeof(*dst), ENGINE_SIZE_1_0, msg, msg_size) < 0)
        return -1;
    if (dst->name == NULL || !is_name(dst->name))
        FAIL("engine name \"%s\" is not made of 1 to %d lower-case letters, digits and '-'", dst->name ? dst->name : "",
             NAME_MAX_LEN);
    if (dst->shim_name != NULL && !is_name(dst->shim_name))
        FAIL("shim name \"%s\" is not made of 1 to %d lower-case letters, digits and '-'", dst->shim_name,
             NAME_MAX_LEN);
    if (dst->run_wasi == NULL)
        FAIL("engine \"%s\" has no run_wasi", dst->name);
    if (dst->kinds == 0)
        FAIL("engine \"%s\" runs no kind of guest: set kinds", dst->name);
    if ((dst->kinds & ~all_kinds) != 0)
        FAIL("engine \"%s\" has kinds 0x%x that this library does not know", dst->name, dst->kinds & ~all_kinds);
    if (dst->default_log_level > WASM_SHIM_LOG_TRACE)
        FAIL("engine \"%s\" has default_log_level %u; accepted: 0, or WASM_SHIM_LOG_ERROR (1) to WASM_SHIM_LOG_TRACE "
             "(5)",
             dst->name, dst->default_log_level);
    if (check_layer_types(dst, msg, msg_size) < 0 || check_options(dst, msg, msg_size) < 0)
        return -1;
    return 0;
}

const char *wasmshim_layer_type(const wasm_shim_engine *engine, size_t index) {
    return engine->layer_types != NULL ? engine->layer_types[index] : NULL;
}

const wasm_shim_option *wasmshim_option_at(const wasm_shim_engine *engine, size_t index) {
    return engine->options != NULL ? engine->options[index] : NULL;
}
