#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs a WebAssembly container on a private containerd, from nothing, and
# leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "demo: needs root: containerd and its containers make namespaces, mounts and cgroups," >&2
    echo "demo: and missing Debian packages are installed with apt-get" >&2
    exit 1
fi
scripts/deps.sh build daemon
echo "demo: building dist/containerd-shim-wasmtime-v1" >&2
scripts/shim.sh wasmtime
# exec: ^C reaches the program, which then stops what it started.
exec go run -tags netgo,osusergo ./test/demo
