// SPDX-License-Identifier: Apache-2.0

// stage print:  decodes standard input and prints what it holds
// stage serve:  the same for each input; inputs and answers have four bytes of
//               length before them
// stage fuzz N: decodes every truncation and every bit flip of standard input
//               and N random changes of it, under the sanitizers

#include "../stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t input[1 << 20];
static unsigned long accepted, refused;

static void print_list(const char *name, const struct wasmshim_list *l) {
    for (size_t i = 0; i < l->count; i++)
        printf("%s=%s\n", name, l->items[i]);
}

static int print(size_t size) {
    struct wasmshim_stage s;
    const char *bad = wasmshim_stage_decode(input, size, &s);
    if (bad != NULL) {
        printf("error: %s\n", bad);
        return 1;
    }
    printf("id=%s\npod=%s\nns=%s\nexec=%s\n", s.id, s.pod, s.ns, s.exec_id);
    print_list("arg", &s.args);
    print_list("env", &s.env);
    printf("path=%s\nfunc=%s\nname=%s\ncwd=%s\n", s.entry_path, s.entry_func, s.entry_name, s.cwd);
    print_list("option", &s.options);
    printf("level=%s\nkind=%u\nmemory=%llu\ncpu=%llu\n", s.log_level, s.kind, (unsigned long long)s.memory,
           (unsigned long long)s.cpu);
    for (size_t i = 0; i < s.preopen_count; i++)
        printf("preopen=%s:%s\n", s.preopens[i].host, s.preopens[i].guest);
    for (size_t i = 0; i < s.hidden.count; i++)
        printf("hidden=%s\n", s.hidden.items[i]);
    if (s.flags != 0)
        printf("flags=%u\n", s.flags);
    for (size_t i = 0; i < s.layer_count; i++)
        printf("layer=%u,%u,%s,%s\n", s.layers[i].fd, s.layers[i].artifact, s.layers[i].media_type, s.layers[i].digest);
    for (size_t i = 0; i < s.rlimit_count; i++)
        printf("rlimit=%u,%llu,%llu\n", s.rlimits[i].resource, (unsigned long long)s.rlimits[i].soft,
               (unsigned long long)s.rlimits[i].hard);
    wasmshim_stage_free(&s);
    return 0;
}

static int serve(void) {
    FILE *pipe = stdout;
    for (;;) {
        uint32_t n;
        if (fread(&n, sizeof(n), 1, stdin) != 1)
            return 0;
        if (n > sizeof(input) || fread(input, 1, n, stdin) != n)
            return 1;
        char *text = NULL;
        size_t size = 0;
        stdout = open_memstream(&text, &size);
        print(n);
        fclose(stdout);
        stdout = pipe;
        n = (uint32_t)size;
        fwrite(&n, sizeof(n), 1, pipe);
        fwrite(text, 1, size, pipe);
        fflush(pipe);
        free(text);
    }
}

// Reads every string to its end: the sanitizer sees one that leaves the input.
static size_t walk(const struct wasmshim_list *l) {
    size_t n = 0;
    for (size_t i = 0; i < l->count; i++)
        n += strlen(l->items[i]);
    if (l->items[l->count] != NULL)
        abort();
    return n;
}

static void decode(const uint8_t *bytes, size_t size) {
    // A copy of exactly this size, so that one byte beyond it is caught.
    uint8_t *copy = malloc(size != 0 ? size : 1);
    memcpy(copy, bytes, size);
    struct wasmshim_stage s;
    if (wasmshim_stage_decode(copy, size, &s) != NULL) {
        refused++;
    } else {
        accepted++;
        volatile size_t n = walk(&s.args) + walk(&s.env) + walk(&s.options);
        n += strlen(s.id) + strlen(s.pod) + strlen(s.ns) + strlen(s.exec_id) + strlen(s.entry_path) +
             strlen(s.entry_func) + strlen(s.entry_name) + strlen(s.cwd) + strlen(s.log_level);
        for (size_t i = 0; i < s.preopen_count; i++)
            n += strlen(s.preopens[i].host) + strlen(s.preopens[i].guest);
        for (size_t i = 0; i < s.hidden.count; i++)
            n += strlen(s.hidden.items[i]);
        for (size_t i = 0; i < s.layer_count; i++)
            n += strlen(s.layers[i].media_type) + strlen(s.layers[i].digest);
        for (size_t i = 0; i < s.rlimit_count; i++)
            n += s.rlimits[i].soft + s.rlimits[i].hard + s.rlimits[i].resource;
        wasmshim_stage_free(&s);
    }
    free(copy);
}

// Small and the same everywhere; quality does not matter.
static uint32_t next_random(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static void set_length(uint8_t *bytes, size_t size) {
    if (size >= 16)
        for (int i = 0; i < 4; i++)
            bytes[12 + i] = (uint8_t)(size >> (8 * i));
}

static int fuzz(size_t size, unsigned long rounds) {
    static uint8_t work[sizeof(input)];
    for (size_t n = 0; n <= size; n++) {
        memcpy(work, input, n);
        decode(work, n);
        // The same cut with a length that fits, or the first check ends it.
        set_length(work, n);
        decode(work, n);
    }
    for (size_t bit = 0; bit < size * 8; bit++) {
        memcpy(work, input, size);
        work[bit / 8] ^= (uint8_t)(1 << (bit % 8));
        decode(work, size);
    }
    for (unsigned long i = 0; i < rounds; i++) {
        size_t n = size;
        memcpy(work, input, size);
        for (uint32_t changes = 1 + next_random() % 8; changes > 0; changes--) {
            size_t at = next_random() % n;
            switch (next_random() % 4) {
            case 0:
                work[at] = (uint8_t)next_random();
                break;
            case 1: // a length or a tag, near enough to be taken seriously
                work[at & ~(size_t)3] = (uint8_t)(next_random() % 24);
                break;
            case 2:
                memset(work + at, next_random() % 2 != 0 ? 0 : 0xff, n - at < 4 ? n - at : 4);
                break;
            case 3:
                n = at + 1;
                break;
            }
        }
        if (next_random() % 4 != 0)
            set_length(work, n);
        decode(work, n);
    }
    printf("accepted %lu refused %lu\n", accepted, refused);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return serve();
    size_t size = fread(input, 1, sizeof(input), stdin);
    if (argc == 2 && strcmp(argv[1], "print") == 0)
        return print(size);
    if (argc == 3 && strcmp(argv[1], "fuzz") == 0)
        return fuzz(size, strtoul(argv[2], NULL, 10));
    return 2;
}
