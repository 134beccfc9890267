// SPDX-License-Identifier: Apache-2.0

// A guest whose time is limited runs in a thread of its own, so that this one
// can end the process when neither the compiler nor a host call comes back. So
// does one that would not have the stack that WebAssembly promises here, because
// the container limits it: it would end by a fault instead of a trap.

#include "wasmtime.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum {
    // How long a guest whose time is up may take to notice it. Code notices at
    // its next loop or call; what waits in the kernel does not.
    NOTICE_MS = 100,
};

struct run {
    struct guest *guest;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;      // guarded by lock
    int32_t status; // guarded by lock; valid once done
};

static void *run_guest(void *data) {
    struct run *r = data;
    int32_t status = execute(r->guest);
    pthread_mutex_lock(&r->lock);
    r->done = true;
    r->status = status;
    pthread_cond_signal(&r->ended);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

// Waits until the guest has ended, for so long at most. Says whether it has.
static bool await(struct run *r, uint64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->done && pthread_cond_timedwait(&r->ended, &r->lock, &until) != ETIMEDOUT)
        ;
    bool done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}

int32_t execute_within(struct guest *g) {
    // Static: a guest that does not come back uses it to the process's end.
    static struct run r;
    r.guest = g;
    pthread_mutex_init(&r.lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r.ended, &attr);
    pthread_t thread;
    pthread_attr_t own;
    pthread_attr_init(&own);
    pthread_attr_setstacksize(&own, g->stack + HOST_STACK); // else it is what the container's limit says
    int error = pthread_create(&thread, &own, run_guest, &r);
    if (error != 0)
        return fail(g, WASM_SHIM_ERROR, "cannot start a thread for the guest: %s", strerror(error));
    if (!g->has_timeout) {
        pthread_join(thread, NULL);
        return r.status;
    }
    // Longer than any container lives, and no overflow.
    const uint64_t longest = UINT64_C(1) << 50;
    if (await(&r, g->timeout_ms < longest ? g->timeout_ms : longest))
        return r.status;
    wasm_engine_t *engine = __atomic_load_n(&g->engine, __ATOMIC_ACQUIRE);
    if (engine != NULL)
        wasmtime_engine_increment_epoch(engine);
    await(&r, NOTICE_MS);
    return timed_out(g);
}
