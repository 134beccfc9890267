#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Packs the Go core, its C parts and the stage in a container, a Go program of its
# own, into build/libwasmshim.a.
#
# A plain c-archive starts Go from .init_array, before main and before
# libcontainer's nsexec constructor, which needs a process with one thread; and two
# of them in one program would define the same symbols. So, of each:
#  1. Go's .init_array, whose one entry is the function that starts Go, is
#     removed. The function gets a name by which cabi/main.c calls it in those
#     processes that need this Go program. A section of another name would not do:
#     linkers tell constructors by a section's type, or drop what nobody refers to.
#  2. All members become one object: a linker takes only those members of an
#     archive that somebody refers to, and nobody refers to a constructor.
#  3. All symbols but those that others need become local; in the end, all but those
#     of wasm_shim.h.
set -eu
cd "$(dirname "$0")/.."

out=build/libwasmshim.a
work=build/pack
mkdir -p "$work"
# One at a time: two builds would write the same files.
exec 9>build/pack.lock
flock 9

# The revision is recorded where there is one that git would tell.
vcs=false
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
    vcs=true
fi

# Warnings are for `make lint`; here, debug information would only cost time.
archive() {
    CGO_ENABLED=1 CGO_CFLAGS="${CGO_CFLAGS:--O2}" go build -buildvcs=$vcs -buildmode=c-archive -trimpath \
        -tags "${TAGS:-netgo osusergo seccomp urfave_cli_no_docs runc_nocriu grpcnotrace} libwasmshim" -ldflags "-s -w" -o "$work/$1.a" "$2"
}
archive core ./cmd/libwasmshim
archive init ./cmd/libwasmshim-init

# Same input, same script, same symbols: nothing to do.
seccomp=$(${PKG_CONFIG:-pkg-config} --variable=libdir libseccomp)/libseccomp.a
stamp=$(cat "$work/core.a" "$work/init.a" "$seccomp" abi/symbols.txt "$0" | sha256sum)
if [ -e "$out" ] && [ "$stamp" = "$(cat "$work/stamp" 2>/dev/null)" ]; then
    exit 0
fi
rm -rf "$work/stamp"

# object NAME RT0 SYMBOL...: makes NAME.o of NAME.a, where RT0 starts Go, and which
# the other symbols leave, too.
object() {
    name=$1 start=$2
    shift
    rm -rf "$work/members"
    mkdir "$work/members"
    (cd "$work/members" && ar x "../$name.a")
    rt0=$(nm "$work/members/go.o" | sed -n 's/.* t \(_rt0_[a-z0-9]*_linux_lib\)$/\1/p')
    if [ -z "$rt0" ]; then
        echo "pack.sh: Go's object has no function _rt0_<arch>_linux_lib: this Go is newer than what is known here" >&2
        exit 1
    fi
    objcopy --redefine-sym "$rt0=$start" --globalize-symbol "$start" \
        --strip-symbol "$rt0.ptr" --remove-section .init_array "$work/members/go.o"
    ld -r -d -o "$work/$name.o" "$work"/members/*.o --start-group "$seccomp" --end-group
    rm -rf "$work/members"
    printf '%s\n' "$@" >"$work/$name.symbols"
    objcopy --keep-global-symbols="$work/$name.symbols" "$work/$name.o"
}
# shellcheck disable=SC2046 # a list of words
object core wasmshim_rt0 $(cat abi/symbols.txt)
object init wasmshim_init_rt0 wasmshimGoInit
ld -r -o "$work/wasmshim.o" "$work/core.o" "$work/init.o"
objcopy --keep-global-symbols=abi/symbols.txt "$work/wasmshim.o"

rm -f "$out.new"
ar rcsD "$out.new" "$work/wasmshim.o"
mv "$out.new" "$out"
rm -f "$work"/*.o
echo "$stamp" >"$work/stamp"
