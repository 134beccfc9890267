// SPDX-License-Identifier: Apache-2.0

// How many threads there can be. Where the container may not have one more, or the
// whole machine, wasmtime's library ends the process by a panic, or waits for ever
// for work that no thread does: so it is found out before.

#include "wasmtime.h"

#include <pthread.h>
#include <sys/mman.h>

enum {
    STACK = 32 << 10,
    MOST = 32,
};

static void *wait_for(void *lock) {
    pthread_mutex_lock(lock);
    pthread_mutex_unlock(lock);
    return NULL;
}

unsigned startable_threads(unsigned want) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_t threads[MOST];
    unsigned n = 0;
    want = want < MOST ? want : MOST;
    // Stacks of its own: the C library would keep those that it makes.
    char *stacks = mmap(NULL, (size_t)want * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED)
        return want; // not what is asked about; whoever needs memory says so
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_mutex_lock(&lock);
    while (n < want && pthread_attr_setstack(&attr, stacks + (size_t)n * STACK, STACK) == 0 &&
           pthread_create(&threads[n], &attr, wait_for, &lock) == 0)
        n++;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    munmap(stacks, (size_t)want * STACK);
    return n;
}
