# SPDX-License-Identifier: Apache-2.0
#
# wasmtime, as its shim has it without Rust.

override WASMTIME := prebuilt
include engines/wasmtime/engine.mk
ENGINE_CXXFLAGS := -Wall -Wextra -Werror -isystem $(WASMTIME_INCLUDE)
