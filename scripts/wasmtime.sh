#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/wasmtime.sh [minutes]
#
# Builds wasmtime's full library, engines/wasmtime/full, unless the user's cache
# has it, and prints the directory that holds lib/libwasmtime.a and include. The
# directory's name says what it was made of: the crate's files and the compiler.
#
# With "minutes" it builds nothing, and prints how many minutes that takes on two
# cores, or fails where a tool or the crates cannot be had.
set -eu
cd "$(dirname "$0")/../engines/wasmtime/full"

say() { echo "wasmtime: $*" >&2; }
die() { say "$*"; exit 1; }

instead="or build with the prebuilt library, WASMTIME=prebuilt"
accepted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
for tool in cargo rustc; do
    command -v $tool >/dev/null || die "$tool is missing: install Rust $accepted or newer (rustup, https://rustup.rs), $instead"
done
# Tools without an answer are as good as missing: rustup's are there before any
# toolchain is.
found=$(rustc --version | cut -d ' ' -f 2) && [ -n "$found" ] || die "rustc does not say its version, $instead"
[ "$(printf '%s\n' "$accepted" "${found%%-*}" | sort -V | head -n 1)" = "$accepted" ] ||
    die "found rustc $found, accepted: $accepted or newer; rustup update brings it, $instead"
command -v cmake >/dev/null || die "cmake is missing: make deps installs it, $instead"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim
# Names of files count, too: one may move.
key=$({ rustc -vV && printf '%s\n' "${RUSTFLAGS:-}" && find Cargo.* build.rs src wasi include -type f | LC_ALL=C sort | xargs sha256sum; } |
    sha256sum | cut -c 1-16)
dir=$cache/wasmtime-full-$key
if [ "${1:-}" = minutes ]; then
    if [ -d "$dir" ]; then
        echo 0
    else
        cargo fetch --quiet --locked >&2 || die "its crates cannot be downloaded; build with the prebuilt library, WASMTIME=prebuilt"
        echo 12
    fi
    exit
fi
if [ ! -d "$dir" ]; then
    mkdir -p "$cache/cargo"
    exec 9>"$cache/cargo/wasmtime-full.lock"
    flock -n 9 || { say "waiting for another build of it" && flock 9; }
fi
if [ ! -d "$dir" ]; then
    tmp=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    start=$(date +%s)
    version=$(sed -n 's/^wasmtime = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml)
    say "building wasmtime $version (once; ten minutes on two cores, a minute after a change of ours)"
    # What cargo has built stays, in one place for all clones of this repository.
    target=$cache/cargo/wasmtime-full && mkdir -p "$target"
    # cargo goes by times, and takes another clone's for this one's.
    find Cargo.toml build.rs src wasi -type f -exec touch {} +
    CARGO_TARGET_DIR=$target WASMSHIM_HEADERS=$target/headers \
        cargo build --release --locked >&2 || die "building wasmtime $version failed"
    mkdir "$tmp/out" "$tmp/out/lib"
    cp "$target/release/libwasmtime.a" "$tmp/out/lib/"
    cp -r "$(cat "$target/headers")" "$tmp/out/include"
    cp include/* "$tmp/out/include/"
    mv "$tmp/out" "$dir"
    say "wasmtime $version is in $dir after $(($(date +%s) - start)) s"
fi
echo "$dir"
