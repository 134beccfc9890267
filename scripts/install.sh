#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/install.sh DIR
#
# Puts what an engine's author needs below DIR: header, library, pkg-config and
# CMake files, test kit, manual page, licences. Every file finds the others from
# its own place.
set -eu
[ $# = 1 ] && [ -n "$1" ] || {
    echo "install.sh: found $# arguments, accepted: the DIR to install to" >&2
    exit 2
}
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

export GOFLAGS="${GOFLAGS:--tags=netgo,osusergo,seccomp,urfave_cli_no_docs,runc_nocriu,grpcnotrace}"
scripts/pack.sh
version=$(cat VERSION)
vcs=false
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
    vcs=true
fi
CGO_ENABLED=0 go build -buildvcs=$vcs -trimpath -ldflags "-s -w" -o build/wasmshim-test ./cmd/wasmshim-test
go run ./scripts/sbom -version "$version" -epoch "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}" -out build/licenses

# file MODE FROM TO
file() { scripts/put.sh "$1" "$2" "$dir/$3"; }
# text FROM TO: with the version filled in
text() {
    sed -e "s/@VERSION@/$version/g" -e "s/@MAJOR@/${version%%.*}/g" "$1" | file 0644 /dev/stdin "$2"
}
file 0644 include/wasm_shim.h include/wasm_shim.h
file 0644 build/libwasmshim.a lib/libwasmshim.a
file 0755 build/wasmshim-test bin/wasmshim-test
text cmake/wasmshim.pc.in lib/pkgconfig/wasmshim.pc
file 0644 cmake/WasmShimConfig.cmake lib/cmake/WasmShim/WasmShimConfig.cmake
file 0644 cmake/WasmShimAddShim.cmake lib/cmake/WasmShim/WasmShimAddShim.cmake
text cmake/WasmShimConfigVersion.cmake.in lib/cmake/WasmShim/WasmShimConfigVersion.cmake
text man/wasmshim.7.in share/man/man7/wasmshim.7
doc=share/doc/libwasmshim
file 0644 LICENSE $doc/LICENSE
file 0644 docs/licenses.md $doc/licenses.md
file 0644 build/licenses/wasmshim.spdx.json $doc/wasmshim.spdx.json
for f in build/licenses/texts/*; do
    file 0644 "$f" "$doc/licenses/${f##*/}"
done
