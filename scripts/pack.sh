#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Packs the Go core and its C parts into build/libwasmshim.a.
#
# A plain c-archive starts Go from .init_array, before main and before
# libcontainer's nsexec constructor, which needs a process with one thread. So:
#  1. Go's .init_array, whose one entry is the function that starts Go, is
#     removed. The function gets the name wasmshim_rt0, by which cabi/main.c calls
#     it in those processes that need Go. A section of another name would not do:
#     linkers tell constructors by a section's type, or drop what nobody refers to.
#  2. All members become one object: a linker takes only those members of an
#     archive that somebody refers to, and nobody refers to a constructor.
#  3. All symbols but those of wasm_shim.h become local.
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
CGO_ENABLED=1 CGO_CFLAGS="${CGO_CFLAGS:--O2}" go build -buildvcs=$vcs -buildmode=c-archive -trimpath \
    -tags "${TAGS:-netgo osusergo seccomp urfave_cli_no_docs runc_nocriu grpcnotrace}" -ldflags "-s -w" -o "$work/go.a" ./cmd/libwasmshim

# Same input, same script, same symbols: nothing to do.
seccomp=$(${PKG_CONFIG:-pkg-config} --variable=libdir libseccomp)/libseccomp.a
stamp=$(cat "$work/go.a" "$seccomp" abi/symbols.txt "$0" | sha256sum)
if [ -e "$out" ] && [ "$stamp" = "$(cat "$work/stamp" 2>/dev/null)" ]; then
    exit 0
fi

rm -rf "$work/members" "$work/stamp"
mkdir "$work/members"
(cd "$work/members" && ar x ../go.a)
rt0=$(nm "$work/members/go.o" | sed -n 's/.* t \(_rt0_[a-z0-9]*_linux_lib\)$/\1/p')
if [ -z "$rt0" ]; then
    echo "pack.sh: Go's object has no function _rt0_<arch>_linux_lib: this Go is newer than what is known here" >&2
    exit 1
fi
objcopy --redefine-sym "$rt0=wasmshim_rt0" --globalize-symbol wasmshim_rt0 \
    --strip-symbol "$rt0.ptr" --remove-section .init_array "$work/members/go.o"
ld -r -d -o "$work/wasmshim.o" "$work"/members/*.o --start-group "$seccomp" --end-group
objcopy --keep-global-symbols=abi/symbols.txt "$work/wasmshim.o"

rm -f "$out.new"
ar rcsD "$out.new" "$work/wasmshim.o"
mv "$out.new" "$out"
rm -rf "$work/members" "$work/wasmshim.o"
echo "$stamp" >"$work/stamp"
