// SPDX-License-Identifier: Apache-2.0

// Package cabi joins the C contract of include/wasm_shim.h to the Go core: it
// decides in C which process this one is, plays the runner, and hands an
// engine's descriptor to package shim. Nothing else imports "C".
//
// The C files build as C11; what they export beside wasm_shim_* is made local
// by scripts/pack.sh.
package cabi

/*
#cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter -fvisibility=hidden -D_GNU_SOURCE -I${SRCDIR}/../include
#include "cabi.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"unsafe"

	"github.com/libwasmshim/libwasmshim/shim"
)

// start is NULL if this is not the daemon's half of `start`.
//
//export wasmshimGoMain
func wasmshimGoMain(e *C.wasm_shim_engine, start *C.struct_wasmshim_start) (code C.int) {
	defer func() {
		// Beyond this there is only C, where a panic would abort without a word.
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", p, debug.Stack())
			code = 2
		}
	}()
	d, err := descriptor(e)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wasm_shim_main:", err)
		return 1
	}
	var begun *shim.Start
	if start != nil {
		begun = &shim.Start{
			Result: int(start.result), Listener: int(start.listener), Input: C.GoBytes(unsafe.Pointer(start.input), C.int(start.input_size)),
		}
	}
	config := shim.Config{NoSetupLogger: e.no_setup_logger != 0}
	if e.default_log_level > 0 {
		config.DefaultLogLevel = shim.LogLevels[e.default_log_level-1]
	}
	return C.int(shim.Main(d, config, begun))
}

// descriptor copies what the daemon needs to know: data, no callbacks. The C
// side has checked it.
func descriptor(e *C.wasm_shim_engine) (shim.Descriptor, error) {
	d := shim.Descriptor{
		Name:     C.GoString(e.name),
		ShimName: C.GoString(e.shim_name),
		Version:  C.GoString(e.version),
		Revision: C.GoString(e.revision),
		ABI:      fmt.Sprintf("%d.%d", e.abi_major, e.abi_minor),
		Kinds:    shim.Kind(e.kinds),
		CacheKey: C.GoString(e.cache_key),
		Compiles: e.compile != nil,
	}
	for i := C.size_t(0); ; i++ {
		s := C.wasmshim_layer_type(e, i)
		if s == nil {
			break
		}
		d.LayerTypes = append(d.LayerTypes, C.GoString(s))
	}
	for i := C.size_t(0); ; i++ {
		p := C.wasmshim_option_at(e, i)
		if p == nil {
			break
		}
		var o C.wasm_shim_option
		var msg [256]C.char
		if C.wasmshim_option_read(p, &o, &msg[0], C.size_t(len(msg))) < 0 {
			return d, errors.New(C.GoString(&msg[0]))
		}
		d.Options = append(d.Options, shim.Option{
			Key:                C.GoString(o.key),
			Help:               C.GoString(o.help),
			Type:               shim.OptionType(o._type),
			Choices:            choices(C.GoString(o.choices)),
			AffectsCompilation: o.flags&C.WASM_SHIM_OPTION_AFFECTS_COMPILATION != 0,

			PresenceAffectsCompilation: o.flags&C.WASM_SHIM_OPTION_PRESENCE_AFFECTS_COMPILATION != 0,
		})
	}
	return d, nil
}

func choices(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, "|")
}
