# SPDX-License-Identifier: Apache-2.0
#
# wasm3's C sources come from a crate, which cargo fetches.

WASM3 := $(shell cargo metadata --quiet --locked --format-version 1 --manifest-path $(DIR)/Cargo.toml | \
	grep -o '"manifest_path":"[^"]*wasm3-sys[^"]*"' | head -n 1 | sed 's|.*:"\(.*\)/Cargo.toml"|\1/wasm3/source|')
ifeq ($(WASM3),)
$(error wasm3's sources are in the crate wasm3-sys, which needs cargo to be fetched)
endif

ENGINE_CFLAGS := -D_GNU_SOURCE -Wall -Wextra -Werror -isystem $(WASM3)
# The interpreter's functions end in calls of each other: they must be jumps.
ENGINE_SOURCES := $(filter-out %/m3_api_uvwasi.c %/m3_api_meta_wasi.c %/m3_api_wasi.c %/m3_api_libc.c %/m3_api_tracer.c,$(wildcard $(WASM3)/*.c))
ENGINE_SOURCES_CFLAGS := -O3 -w -Dd_m3LogOutput=0 -fno-stack-protector -foptimize-sibling-calls -fomit-frame-pointer
ENGINE_LIBS := -lm
