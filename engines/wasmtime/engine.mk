# SPDX-License-Identifier: Apache-2.0
#
# The library and the headers are those of wasmtime's Go module, whose version
# go.mod pins.

WASMTIME_MODULE := github.com/bytecodealliance/wasmtime-go/v44
WASMTIME := $(shell go mod download $(WASMTIME_MODULE) && go list -m -f '{{.Dir}}' $(WASMTIME_MODULE))
ifeq ($(WASMTIME),)
$(error wasmtime's library is in the Go module $(WASMTIME_MODULE), which cannot be downloaded)
endif
WASMTIME_ARCH := linux-$(shell uname -m)

ENGINE_CFLAGS := -D_GNU_SOURCE -Wall -Wextra -Werror -isystem $(WASMTIME)/build/include
# The linker warns of getaddrinfo, dlopen and the like in a static binary: they
# are in the library, and the guest's way to them is closed.
WASMTIME_QUIET := $(shell ld --help | grep -o -m 1 -e --no-warnings)
ENGINE_LIBS := $(WASMTIME_QUIET:%=-Wl,%) $(WASMTIME)/build/$(WASMTIME_ARCH)/libwasmtime.a -lpthread -ldl -lm
