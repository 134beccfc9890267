// SPDX-License-Identifier: Apache-2.0

// libFuzzer on the context's decoder.

#include <stdlib.h>
#include <string.h>

#include "../stage.h"

static size_t walk(const struct wasmshim_list *l) {
    size_t n = 0;
    for (size_t i = 0; i < l->count; i++)
        n += strlen(l->items[i]);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct wasmshim_stage s;
    if (wasmshim_stage_decode(data, size, &s) != NULL)
        return 0;
    volatile size_t n = walk(&s.args) + walk(&s.env) + walk(&s.options) + walk(&s.hidden) + strlen(s.id) +
                        strlen(s.pod) + strlen(s.ns) + strlen(s.exec_id) + strlen(s.entry_path) + strlen(s.entry_func) +
                        strlen(s.entry_name) + strlen(s.cwd) + strlen(s.log_level);
    for (size_t i = 0; i < s.preopen_count; i++)
        n += strlen(s.preopens[i].host) + strlen(s.preopens[i].guest);
    for (size_t i = 0; i < s.layer_count; i++)
        n += strlen(s.layers[i].media_type) + strlen(s.layers[i].digest) + s.layers[i].fd + s.layers[i].artifact;
    for (size_t i = 0; i < s.rlimit_count; i++)
        n += s.rlimits[i].soft + s.rlimits[i].hard + s.rlimits[i].resource;
    (void)n;
    wasmshim_stage_free(&s);
    return 0;
}
