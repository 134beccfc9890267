#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/wasmtime-cli.sh
#
# Builds the wasmtime command, of the version of the full library, unless the user's
# cache has it, and prints its path: what our server is measured against.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^wasmtime = .*"=\([0-9.]*\)".*/\1/p' engines/wasmtime/full/Cargo.toml)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/wasmtime-cli-$version
if [ ! -x "$dir/bin/wasmtime" ]; then
    echo "wasmtime-cli: building $version (once; some ten minutes on two cores)" >&2
    cargo install --quiet --locked --root "$dir" --no-default-features \
        --features serve,run,cranelift,pooling-allocator,component-model,component-model-async,parallel-compilation \
        "wasmtime-cli@=$version" >&2
fi
echo "$dir/bin/wasmtime"
