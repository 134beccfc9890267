// SPDX-License-Identifier: Apache-2.0

// libFuzzer on the intake of descriptors: every number is the input's, every
// pointer one of a few that an engine could have set.

#include <stdlib.h>
#include <string.h>

#include "../cabi.h"

struct input {
    const uint8_t *data;
    size_t size;
};

static uint8_t byte(struct input *in) {
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static uint32_t number(struct input *in) {
    return (uint32_t)byte(in) | (uint32_t)byte(in) << 8 | (uint32_t)byte(in) << 16 | (uint32_t)byte(in) << 24;
}

// A string of the input's own, in memory of exactly its size.
static char *text(struct input *in) {
    size_t n = byte(in);
    if (n == 255)
        return NULL;
    if (n > in->size)
        n = in->size;
    char *s = malloc(n + 1);
    memcpy(s, in->data, n);
    s[n] = 0;
    in->data += n;
    in->size -= n;
    return s;
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)ctx;
    (void)exit_code;
    (void)user_data;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {.data = data, .size = size};
    enum { MAX = 4 };
    const wasm_shim_option *list[MAX + 1] = {0};
    char *texts[3 * MAX + MAX + 5] = {0};
    const char *types[MAX + 1] = {0};
    size_t used = 0;
    size_t count = byte(&in) % (MAX + 1);
    for (size_t i = 0; i < count; i++) {
        // In memory of exactly the size that it says, as another version's would be.
        uint8_t odd = byte(&in);
        size_t option_size = odd > 250 ? odd : sizeof(wasm_shim_option);
        wasm_shim_option *o = calloc(1, option_size);
        o->size = option_size;
        o->key = texts[used++] = text(&in);
        o->help = texts[used++] = text(&in);
        o->choices = texts[used++] = text(&in);
        o->flags = byte(&in);
        o->type = byte(&in);
        if (option_size > sizeof(*o))
            ((unsigned char *)o)[option_size - 1] = byte(&in);
        list[i] = o;
    }
    size_t type_count = byte(&in) % (MAX + 1);
    for (size_t i = 0; i < type_count; i++) {
        texts[used] = text(&in);
        if (texts[used] != NULL)
            types[i] = texts[used++];
        else
            break;
    }
    wasm_shim_engine e = {0};
    e.abi_major = byte(&in) % 3;
    e.abi_minor = byte(&in);
    e.kinds = number(&in);
    e.default_log_level = byte(&in);
    e.no_setup_logger = byte(&in);
    e.name = texts[used++] = text(&in);
    e.shim_name = texts[used++] = text(&in);
    e.cache_key = texts[used++] = text(&in);
    e.options = list;
    e.layer_types = types;
    e.run_wasi = byte(&in) > 8 ? run_wasi : NULL;
    e.size = byte(&in) * 8;
    if (e.size < sizeof(size_t))
        e.size = sizeof(e);
    unsigned char *p = calloc(1, e.size);
    memcpy(p, &e, e.size < sizeof(e) ? e.size : sizeof(e));
    if (e.size > sizeof(e))
        p[e.size - 1] = byte(&in);

    wasm_shim_engine copy;
    char msg[512];
    if (wasmshim_engine_read((wasm_shim_engine *)p, &copy, msg, sizeof(msg)) == 0) {
        // What was accepted can be walked.
        for (size_t i = 0; wasmshim_layer_type(&copy, i) != NULL; i++)
            if (strchr(wasmshim_layer_type(&copy, i), '/') == NULL)
                abort();
        for (size_t i = 0; wasmshim_option_at(&copy, i) != NULL; i++) {
            wasm_shim_option o;
            if (wasmshim_option_read(wasmshim_option_at(&copy, i), &o, msg, sizeof(msg)) < 0 || o.key[0] == 0)
                abort();
        }
        if (copy.name == NULL || copy.run_wasi == NULL)
            abort();
    } else if (memchr(msg, 0, sizeof(msg)) == NULL || msg[0] == 0) {
        abort();
    }
    free(p);
    for (size_t i = 0; i < count; i++)
        free((void *)list[i]);
    for (size_t i = 0; i < used; i++)
        free(texts[i]);
    return 0;
}
