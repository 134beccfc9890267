#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/shim.sh ENGINE
#
# Builds dist/containerd-shim-<name>-v1 from an engine's C, C++ or Rust sources
# and libwasmshim.a, or from its Go sources. ENGINE is a name in engines/ or
# examples/, or a directory. Rust sources are a crate whose binary has the shim's
# name. For C and C++, a file engine.mk in it may set ENGINE_CFLAGS, ENGINE_CXXFLAGS and ENGINE_LIBS,
# and with ENGINE_SOURCES and ENGINE_SOURCES_CFLAGS add C files from elsewhere.
# OUTDIR in the environment replaces dist.
set -eu
start=$(pwd)
cd "$(dirname "$0")/.."

has_sources() {
    for f in "$1"/*.c "$1"/*.cc "$1"/*.cpp "$1"/*.go "$1"/src/main.rs; do
        [ -f "$f" ] && return 0
    done
    return 1
}

dir=
for d in "engines/${1:-}" "examples/${1:-}" "$start/${1:-}" "${1:-}"; do
    if [ -n "${1:-}" ] && has_sources "$d"; then
        dir=$(cd "$d" && pwd)
        break
    fi
done
if [ -z "$dir" ]; then
    echo "shim.sh: no C, C++, Go or Rust sources for engine \"${1:-}\". Known engines:" >&2
    for d in engines/* examples/*; do
        if has_sources "$d"; then
            echo "  ${d##*/}" >&2
        fi
    done
    exit 2
fi

if [ -n "$(find "$dir" -maxdepth 1 -name '*.go')" ]; then
    out=$(mkdir -p "${OUTDIR:-dist}" && cd "${OUTDIR:-dist}" && pwd)/containerd-shim-${dir##*/}-v1
    # The linker warns of what the libraries of an engine could call and do not.
    (cd "$dir" && CGO_ENABLED=1 go build -trimpath -tags "${TAGS:-netgo osusergo seccomp urfave_cli_no_docs runc_nocriu grpcnotrace}" \
        -ldflags "-s -w -extldflags '$(ld --help | grep -o -m 1 -e --no-warnings | sed s/^/-Wl,/)'" -o "$out.new" .)
    exec mv "$out.new" "$out"
fi

scripts/pack.sh
if [ -f "$dir/src/main.rs" ]; then
    # With a target that is named, what runs while building is built without
    # these flags. Static and at a fixed address: see scripts/shim.mk.
    target=$(rustc -vV | sed -n 's/^host: //p')
    name=containerd-shim-${dir##*/}-v1
    # Not below build: a second clone finds the dependencies built.
    cargo_dir=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/cargo/${dir##*/}
    WASMSHIM_LIB=$(pwd)/build RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        CARGO_TARGET_DIR=$cargo_dir cargo build --quiet --release --locked --target "$target" --manifest-path "$dir/Cargo.toml"
    mkdir -p "${OUTDIR:-dist}"
    cp "$cargo_dir/$target/release/$name" "${OUTDIR:-dist}/$name.new"
    exec mv "${OUTDIR:-dist}/$name.new" "${OUTDIR:-dist}/$name"
fi
# One at a time: two builds would write the same files.
exec 9>build/shim.lock
flock 9
exec ${MAKE:-make} --no-print-directory -s -f scripts/shim.mk DIR="$dir" NAME="${dir##*/}"
