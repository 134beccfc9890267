# SPDX-License-Identifier: Apache-2.0
#
# The library and the headers are those of wasmtime's Go module, whose version
# go.mod pins.

WASMTIME := $(shell go list -m -f '{{.Dir}}' github.com/bytecodealliance/wasmtime-go/v44)
WASMTIME_ARCH := linux-$(shell uname -m)

ENGINE_CFLAGS := -Wall -Wextra -Werror -isystem $(WASMTIME)/build/include
ENGINE_LIBS := $(WASMTIME)/build/$(WASMTIME_ARCH)/libwasmtime.a -lpthread -ldl -lm
