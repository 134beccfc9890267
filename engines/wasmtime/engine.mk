# SPDX-License-Identifier: Apache-2.0
#
# WASMTIME says which library it is: `prebuilt`, that of wasmtime's Go module, whose
# version go.mod pins, or `full`, which scripts/wasmtime.sh builds of full/.

WASMTIME ?= prebuilt
ifeq ($(WASMTIME),prebuilt)
WASMTIME_MODULE := github.com/bytecodealliance/wasmtime-go/v44
WASMTIME_DIR := $(shell go mod download $(WASMTIME_MODULE) && go list -m -f '{{.Dir}}' $(WASMTIME_MODULE))
ifeq ($(WASMTIME_DIR),)
$(error wasmtime's library is in the Go module $(WASMTIME_MODULE), which cannot be downloaded)
endif
WASMTIME_INCLUDE := $(WASMTIME_DIR)/build/include
WASMTIME_LIB := $(WASMTIME_DIR)/build/linux-$(shell uname -m)/libwasmtime.a
else ifeq ($(WASMTIME),full)
WASMTIME_DIR := $(shell scripts/wasmtime.sh)
ifeq ($(WASMTIME_DIR),)
$(error wasmtime's full library cannot be built; the reason is above)
endif
WASMTIME_INCLUDE := $(WASMTIME_DIR)/include
WASMTIME_LIB := $(WASMTIME_DIR)/lib/libwasmtime.a
else
$(error WASMTIME: found "$(WASMTIME)", accepted: prebuilt, full)
endif

ENGINE_CFLAGS := -D_GNU_SOURCE -Wall -Wextra -Werror -isystem $(WASMTIME_INCLUDE)
# The linker warns of getaddrinfo, dlopen and the like in a static binary: they
# are in the library, and the guest's way to them is closed.
WASMTIME_QUIET := $(shell ld --help | grep -o -m 1 -e --no-warnings)
ENGINE_LIBS := $(WASMTIME_QUIET:%=-Wl,%) $(WASMTIME_LIB) -lpthread -ldl -lm
