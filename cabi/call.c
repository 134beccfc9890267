// SPDX-License-Identifier: Apache-2.0

// How containerd calls a shim: flags, and then a word.

#include "cabi.h"

#include <string.h>

// Where a call keeps the value of a flag that containerd gives a shim; *ignored for one
// whose value is not needed here. NULL for others.
static const char **value_of(struct wasmshim_call *call, const char *flag, size_t size, const char **ignored) {
    const struct {
        const char *name;
        const char **value;
    } known[] = {
        {"namespace", &call->ns}, {"id", &call->id},         {"address", &call->address}, {"bundle", &call->bundle},
        {"socket", ignored},      {"debug-socket", ignored}, {"publish-binary", ignored},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strlen(known[i].name) == size && memcmp(known[i].name, flag, size) == 0)
            return known[i].value;
    return NULL;
}

// The flags that containerd gives a shim and that take no value.
static bool is_switch(const char *flag) {
    return strcmp(flag, "debug") == 0 || strcmp(flag, "v") == 0 || strcmp(flag, "info") == 0;
}

struct wasmshim_call wasmshim_parse_call(int argc, char **argv) {
    struct wasmshim_call call = {.is_usual = true};
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1] != 0; i++) {
        const char *flag = argv[i] + (argv[i][1] == '-' ? 2 : 1);
        if (is_switch(flag)) {
            call.is_usual = call.is_usual && strcmp(flag, "debug") == 0;
            continue;
        }
        const char *ignored, *equals = strchrnul(flag, '=');
        const char **value = value_of(&call, flag, (size_t)(equals - flag), &ignored);
        call.is_usual = call.is_usual && value != NULL;
        if (value == NULL)
            value = &ignored;
        if (*equals != 0)
            *value = equals + 1;
        else if (++i < argc)
            *value = argv[i];
    }
    call.word = i == argc - 1 ? argv[i] : NULL;
    return call;
}
