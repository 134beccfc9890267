// SPDX-License-Identifier: Apache-2.0

// Prints the imports and exports of the module or component on standard input.

#include <stdio.h>

#include "../items.h"

static void visit(void *data, const struct item *item) {
    (void)data;
    printf("%s %u %.*s %.*s%s\n", item->is_import ? "import" : "export", item->kind, (int)item->module.size,
           item->module.bytes != NULL ? item->module.bytes : "", (int)item->name.size, item->name.bytes,
           item->is_shared ? " shared" : "");
}

int main(void) {
    static uint8_t bytes[16 << 20];
    size_t size = fread(bytes, 1, sizeof(bytes), stdin);
    printf("%s\n", visit_items(bytes, size, visit, NULL) ? "understood" : "not understood");
    return 0;
}
