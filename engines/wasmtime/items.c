// SPDX-License-Identifier: Apache-2.0

#include "items.h"

#include <string.h>

enum {
    HEADER = 8,
    // Sections.
    MODULE_IMPORTS = 2,
    MODULE_EXPORTS = 7,
    COMPONENT_IMPORTS = 10,
    COMPONENT_EXPORTS = 11,
    // Flags of a memory's or a table's limits.
    HAS_MAXIMUM = 1,
    IS_SHARED = 2,
    HAS_PAGE_SIZE = 8,
};

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool bad; // for good: what is read then is zero
};

struct visitor {
    void (*visit)(void *, const struct item *);
    void *data;
};

static uint8_t byte(struct reader *r) {
    if (r->at == r->end)
        r->bad = true;
    return r->bad ? 0 : *r->at++;
}

// A number in LEB128; of a signed one only the length matters here.
static uint64_t number(struct reader *r) {
    uint64_t n = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t b = byte(r);
        if (shift < 64)
            n |= (uint64_t)(b & 0x7f) << shift;
        if ((b & 0x80) == 0)
            return n;
    }
    r->bad = true;
    return 0;
}

static struct reader part(struct reader *r) {
    uint64_t size = number(r);
    if (size > (uint64_t)(r->end - r->at))
        r->bad = true;
    struct reader p = {.at = r->at, .end = r->bad ? r->at : r->at + size, .bad = r->bad};
    r->at = p.end;
    return p;
}

static struct text text(struct reader *r) {
    struct reader p = part(r);
    return (struct text){.bytes = (const char *)p.at, .size = (size_t)(p.end - p.at)};
}

static void value_type(struct reader *r) {
    uint8_t b = byte(r);
    if (b == 0x63 || b == 0x64) // a reference to a type that follows
        number(r);
}

// Returns the flags.
static uint8_t limits(struct reader *r) {
    uint8_t flags = byte(r);
    number(r);
    if ((flags & HAS_MAXIMUM) != 0)
        number(r);
    if ((flags & HAS_PAGE_SIZE) != 0)
        number(r);
    return flags;
}

static void module_import(struct reader *r, struct item *item) {
    item->module = text(r);
    item->name = text(r);
    item->kind = byte(r);
    switch (item->kind) {
    case MODULE_FUNC:
        number(r);
        break;
    case 1: // a table
        value_type(r);
        limits(r);
        break;
    case MODULE_MEMORY:
        item->is_shared = (limits(r) & IS_SHARED) != 0;
        break;
    case 3: // a global
        value_type(r);
        byte(r);
        break;
    case 4: // a tag
        byte(r);
        number(r);
        break;
    default:
        r->bad = true;
    }
}

static void module_export(struct reader *r, struct item *item) {
    item->name = text(r);
    item->kind = byte(r);
    number(r);
}

static struct text component_name(struct reader *r) {
    if (byte(r) > 1) // both are the same
        r->bad = true;
    return text(r);
}

// What is imported, or what an export is ascribed. Returns its kind.
static uint8_t description(struct reader *r) {
    uint8_t kind = byte(r);
    switch (kind) {
    case 0: // a core module, as the next byte says
        byte(r);
        number(r);
        break;
    case 2: // a value
        byte(r);
        number(r);
        break;
    case COMPONENT_TYPE:
        if (byte(r) == 0) // equal to another, else a resource
            number(r);
        break;
    case COMPONENT_FUNC:
    case 4: // a component
    case 5: // an instance
        number(r);
        break;
    default:
        r->bad = true;
    }
    return kind;
}

static void component_import(struct reader *r, struct item *item) {
    item->name = component_name(r);
    item->kind = description(r);
}

static void component_export(struct reader *r, struct item *item) {
    item->name = component_name(r);
    item->kind = byte(r);
    if (item->kind == 0) // of which core sort
        byte(r);
    number(r);
    if (byte(r) != 0)
        description(r);
}

static void section(struct reader *r, bool is_component, bool is_import, const struct visitor *v) {
    for (uint64_t count = number(r); count > 0 && !r->bad; count--) {
        struct item item = {.is_component = is_component, .is_import = is_import};
        if (is_component)
            is_import ? component_import(r, &item) : component_export(r, &item);
        else
            is_import ? module_import(r, &item) : module_export(r, &item);
        if (!r->bad)
            v->visit(v->data, &item);
    }
    r->bad = r->bad || r->at != r->end;
}

bool visit_items(const uint8_t *bytes, size_t size, void (*visit)(void *, const struct item *), void *data) {
    const struct visitor v = {.visit = visit, .data = data};
    bool is_component = size >= HEADER && memcmp(bytes, "\0asm\x0d\0\1\0", HEADER) == 0;
    if (!is_component && (size < HEADER || memcmp(bytes, "\0asm\1\0\0\0", HEADER) != 0))
        return false;
    const uint8_t imports = is_component ? COMPONENT_IMPORTS : MODULE_IMPORTS;
    const uint8_t exports = is_component ? COMPONENT_EXPORTS : MODULE_EXPORTS;
    struct reader r = {.at = bytes + HEADER, .end = bytes + size};
    while (r.at < r.end && !r.bad) {
        uint8_t id = byte(&r);
        struct reader p = part(&r);
        if (!p.bad && (id == imports || id == exports))
            section(&p, is_component, id == imports, &v);
        r.bad = r.bad || p.bad;
    }
    return !r.bad;
}
