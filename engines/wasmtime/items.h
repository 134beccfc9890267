// SPDX-License-Identifier: Apache-2.0

// What a module or a component imports and exports, read from its bytes:
// wasmtime tells only once it has compiled them, which may take a minute.

#ifndef ENGINE_WASMTIME_ITEMS_H
#define ENGINE_WASMTIME_ITEMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A name in the bytes, without a NUL behind it.
struct text {
    const char *bytes;
    size_t size;
};

enum {
    MODULE_FUNC = 0, // of a module
    MODULE_MEMORY = 2,
    COMPONENT_FUNC = 1, // of a component
    COMPONENT_TYPE = 3,
    COMPONENT_INSTANCE = 5,
};

struct item {
    bool is_component; // what the item is of
    bool is_import;
    bool is_shared; // a memory of a module
    uint8_t kind;
    struct text module; // of a module's import
    struct text name;
};

// Calls visit with each import and export, in their order. Returns false where
// the bytes are not understood to their end: then nothing follows from what was
// visited, and wasmtime is the judge. Trusts no byte of its input.
bool visit_items(const uint8_t *bytes, size_t size, void (*visit)(void *data, const struct item *item), void *data);

#endif
