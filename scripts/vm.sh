#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A machine that is thrown away: Debian 12 with cgroup v2, systemd and AppArmor,
# in software emulation. scripts/deps.sh vm makes what it boots.
#
#   vm.sh name                 name of the machine's directory in the cache
#   vm.sh pack [TEST...]       makes the disk that the machine mounts at /payload: this tree
#                              with its shims (src), what scripts/deps.sh built (cache),
#                              and the tests of the named packages (bin/vm.test for ./test/vm)
#   vm.sh start [ARGUMENT...]  boots, with more arguments for the kernel; returns when it answers
#   vm.sh run COMMAND...       runs a command in it
#   vm.sh shell [ARGUMENT...]  boots, and gives a shell with containerd, ctr and the shim; its end ends the machine
#   vm.sh stop                 ends it
#
# VM_DIR holds the state of one machine (default build/vm): with two of them, two run.
# A machine ends by itself after VM_LIFE (default 60m).
set -euo pipefail
cd "$(dirname "$0")/.."
name=vm-$(sha256sum scripts/vm-root.sh | cut -c 1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/$name
dir=${VM_DIR:-build/vm}

say() { echo "vm: $*" >&2; }
alive() { [ -e "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; }

# One connection is kept and shared: a new one costs a second of CPU in the machine.
ssh_vm() {
    ssh -q -i "$cache/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=60 -o ServerAliveInterval=60 -o ServerAliveCountMax=5 \
        -o ControlMaster=auto -o ControlPath="$dir/ssh" -o ControlPersist=yes -p "$(cat "$dir/port")" "$@"
}

start() {
    ! alive || { say "$dir: runs already, as process $(cat "$dir/pid")"; exit 1; }
    [ -d "$cache" ] || { say "$cache is missing: run scripts/deps.sh vm"; exit 1; }
    mkdir -p "$dir"
    rm -f "$dir/ssh"
    port=$((20000 + RANDOM % 10000))
    echo $port >"$dir/port"
    payload=()
    [ ! -e "$dir/payload.img" ] || payload=(-drive "if=virtio,file=$dir/payload.img,format=raw,snapshot=on,cache=unsafe")
    # tcg: a /dev/kvm that opens may still be one in which no kernel boots.
    # snapshot: both disks are what they were after the machine's end.
    # restrict: the machine reaches nothing; only its SSH server is reached.
    timeout -k 10 "${VM_LIFE:-60m}" qemu-system-x86_64 -M q35,i8042=off,vmport=off,usb=off -accel tcg,thread=multi,tb-size=1024 -cpu max -smp 2 -m 4096 \
        -nodefaults -no-user-config -no-reboot -display none -serial "file:$dir/console" \
        -kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
        -append "console=ttyS0 quiet mitigations=off nokaslr net.ifnames=0 random.trust_cpu=on tsc=reliable no_timer_check panic=-1 systemd.show_status=0 $*" \
        -drive "if=virtio,file=$cache/root.img,format=raw,snapshot=on,cache=unsafe" "${payload[@]}" \
        -netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=n \
        -device virtio-rng-pci </dev/null >"$dir/qemu.log" 2>&1 &
    echo $! >"$dir/pid"
    say "$dir: process $!, port $port"
    until ssh_vm -o ConnectTimeout=5 root@127.0.0.1 true </dev/null >/dev/null 2>&1; do
        alive || { tail -n 20 "$dir/console" "$dir/qemu.log" >&2; exit 1; }
        [ $SECONDS -lt 600 ] || { say "does not answer after 10 minutes"; tail -n 20 "$dir/console" >&2; stop; exit 1; }
        sleep 0.5
    done
    say "up after $SECONDS s"
}

stop() {
    [ ! -S "$dir/ssh" ] || ssh_vm -O exit root@127.0.0.1 2>/dev/null || true
    # timeout hands the signal on to the emulator, and ends with it.
    while alive; do
        kill "$(cat "$dir/pid")" 2>/dev/null || true
        sleep 0.1
    done
    rm -f "$dir/pid" "$dir/port"
}

# pack: the machine has no compiler, and reaches nothing.
pack() {
    payload=$dir/payload store=${cache%/*}
    rm -rf "$payload" "$dir/payload.img"
    mkdir -p "$payload"/{src,bin,cache/libwasmshim}
    tar -c --exclude=./build --exclude=./.git --exclude=./bench/out . | tar -x -C "$payload/src"
    cp -r "$store"/containerd-2.4.2 "$store"/runc-* "$store"/rootlesskit-* "$store/busybox-static" "$(go run ./test/guests/where)" "$payload/cache/libwasmshim/"
    for package in "$@"; do
        CGO_ENABLED=0 go test -c -ldflags '-s -w' -o "$payload/bin/${package##*/}.test" "$package"
    done
    chmod -R a+rX "$payload" # for containerds of others than root
    mkfs.ext4 -q -F -d "$payload" -L payload "$dir/payload.img" 4G
    rm -rf "$payload"
    say "packed $(du -h "$dir/payload.img" | cut -f 1)"
}

command=${1:-}
shift || true
case $command in
name) echo "$name" ;;
pack) pack "$@" ;;
start) start "$@" ;;
run) ssh_vm root@127.0.0.1 "$@" ;;
shell)
    trap stop EXIT
    alive || start "$@"
    ssh_vm -t root@127.0.0.1 sh /payload/src/test/vm/shell.sh || true
    ;;
stop) stop ;;
*)
    sed -n '3,19p' "$0" >&2
    exit 2
    ;;
esac
