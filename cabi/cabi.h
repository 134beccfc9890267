// SPDX-License-Identifier: Apache-2.0

// What the files of this directory share. None of these names leaves
// libwasmshim.a: scripts/pack.sh makes all but wasm_shim_* local.

#ifndef WASMSHIM_CABI_H
#define WASMSHIM_CABI_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "wasm_shim.h"

// Exit codes of a container that the engine could not run to its end.
enum {
    WASMSHIM_EXIT_ERROR = 125,
    WASMSHIM_EXIT_LOAD = 126,
    WASMSHIM_EXIT_TRAP = 134,
    WASMSHIM_EXIT_SIGNAL = 128, // plus the signal
    // Of a compiler whose engine leaves it at the original.
    WASMSHIM_EXIT_UNSUPPORTED = 3,
};

// Copies src's known part to *dst, which is zeroed before. Returns 0, or -1
// with a sentence in msg that says what is wrong with the descriptor.
int wasmshim_engine_read(const wasm_shim_engine *src, wasm_shim_engine *dst, char *msg, size_t msg_size);

// Copies one option of a descriptor by the same rule.
int wasmshim_option_read(const wasm_shim_option *src, wasm_shim_option *dst, char *msg, size_t msg_size);

// An element of a descriptor's lists; NULL at their end.
const char *wasmshim_layer_type(const wasm_shim_engine *engine, size_t index);
const wasm_shim_option *wasmshim_option_at(const wasm_shim_engine *engine, size_t index);

// Plays a process of the container; returns its exit code.
int wasmshim_runner(int argc, char **argv, const wasm_shim_engine *engine);

// Plays the compiler: has the engine make artifacts of the layers in the
// context. Returns its exit code.
int wasmshim_compiler(int argc, char **argv, const wasm_shim_engine *engine);

// Sets handler for every signal that terminates by default and is not raised
// by a fault, and unblocks all signals.
void wasmshim_catch_signals(void (*handler)(int, siginfo_t *, void *));

// Starts the Go runtime; only then may a Go export be called. argv must be the
// process's own: Go finds environment and auxiliary vector behind it.
void wasmshim_start_go(int argc, char **argv);

// Writes all of it. -1 and errno if that fails.
int wasmshim_write_all(int fd, const void *bytes, size_t size);

// What containerd, or a person, has called this program with.
struct wasmshim_call {
    char *word; // the argument that is not a flag, if it is the only and last one; else NULL
    const char *bundle, *ns, *id, *address; // flags' values, NULL without them
    bool is_usual;                          // there are only flags that are known
};

struct wasmshim_call wasmshim_parse_call(int argc, char **argv);

// What of `start` was done before Go.
struct wasmshim_start {
    int result;        // the pipe on which the answer is waited for; -1 where it was given
    int listener;      // the socket that the answer has named; -1 where none was given
    char *input;       // what was read of standard input
    size_t input_size; // all of it, if it is not above WASMSHIM_INPUT_MAX
};

enum { WASMSHIM_INPUT_MAX = 10 << 20 };

// Reads standard input to its end. False and errno if that fails.
bool wasmshim_read_input(struct wasmshim_start *start);

// Answers `start` for the shim of this name, if the call is a usual one; what was done is
// in *start. Else nothing has happened, and shim/internal/bootstrap answers.
void wasmshim_answer_start(const struct wasmshim_call *call, const char *shim, struct wasmshim_start *start);

// The SHA-256 of some bytes, as text.
void wasmshim_sha256(const void *bytes, size_t size, char hex[65]);

// Says whether the bundle's address is that of a socket that nobody serves: then
// there is something to clean up after all, in Go, which decides.
bool wasmshim_socket_is_left(const char *bundle);

// Begins the wait that create's move into a cgroup would be held up by; does
// not wait itself.
void wasmshim_warm_cgroups(void);

#endif
