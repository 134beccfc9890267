// SPDX-License-Identifier: Apache-2.0

// libFuzzer on the reader of imports and exports.

#include <stdlib.h>

#include "../items.h"

static size_t sum;

static void add(struct text t) {
    for (size_t i = 0; i < t.size; i++)
        sum += (unsigned char)t.bytes[i];
}

static void visit(void *data, const struct item *item) {
    (void)data;
    add(item->module);
    add(item->name);
    sum += item->kind;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    visit_items(data, size, visit, NULL);
    return 0;
}
