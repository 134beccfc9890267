#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# In the machine of scripts/vm.sh: starts containerd as a unit, as a package does,
# imports an image, and gives a shell.
. /payload/src/test/vm/env.sh
systemctl -q is-active containerd || systemd-run --quiet --unit containerd --service-type notify -p Delegate=yes -p KillMode=process \
    -p OOMScoreAdjust=-999 -p LimitNOFILE=1048576 -p TasksMax=infinity -E "PATH=$PATH" containerd || exit 1
cd /root || exit 1
if [ ! -e guests.tar ]; then
    image=/tmp/image
    mkdir -p $image
    cp /payload/cache/libwasmshim/guests-*/hello.wasm /payload/cache/libwasmshim/guests-*/sleep.wasm /payload/cache/libwasmshim/guests-*/native $image
    containerd-shim-wasmtime-v1 image build --tag example.org/hello:1 --module $image/hello.wasm -o guests.tar &&
        ctr images import --local --platform wasi/wasm guests.tar
fi
echo 'Try: ctr run --rm --runtime io.containerd.wasmtime.v1 --platform wasi/wasm example.org/hello:1 one'
exec bash -i
