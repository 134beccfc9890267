#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# test.sh all|unit|contract|e2e|matrix|full|k8s|vm|abi|fuzz...
#
# Runs sets of tests and prints what failed, last. WASMSHIM_UNTIL, in seconds since 1970, is
# when all has to be over: what is known to take longer is left out, and named.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=()
left_out=()
prebuilt=()
second_try=()

# run NAME COMMAND...: one step; its output is shown, and again if it failed. suffix tells
# steps of one name apart.
run() {
    local name=$1${suffix:-}
    shift
    echo "== $name"
    if ! "$@" 2>&1 | tee "$log/$name"; then
        failed+=("$name")
    fi
}

passed() { [[ " ${failed[*]} " != *" $1 "* ]]; }

go_test() { go test -count=1 "$@"; }

unit() {
    run unit go_test -timeout 15m ./shim/... ./test/harness/... ./docs/... ./scripts/...
}
abi() {
    run abi go_test -timeout 15m ./cabi/... ./abi/...
}
pack() {
    run pack go_test -timeout 15m ./test/pack/...
}
engines() {
    run engines go_test -timeout 20m ./test/kit/... ./test/engines/...
}
shims() {
    run build scripts/shim.sh wasmtime && run build-go-engine scripts/shim.sh go-engine
}
e2e() {
    run e2e go_test -timeout 30m ./test/e2e/...
}
# Lives, execs and everything at random once more, with one daemon for all containers.
node() {
    WASMSHIM_DAEMON=node run node go_test -timeout 15m -run 'TestTrust7|TestTrust2|TestExec|TestTerminal|TestOOM|TestSoak' ./test/e2e/... ./test/soak/...
}
# The contract with any shim binary, and a few seconds of everything at random.
contract() {
    run contract go_test -timeout 15m ./test/contract/... ./test/soak/...
}
# What depends on the engine, on wasmtime's full library, whose Rust sources are
# checked, too.
full() {
    local building=0 suffix=-full
    if [ -n "${WASMSHIM_UNTIL:-}" ] && ! building=$(scripts/wasmtime.sh minutes 2>"$log/no-full"); then
        left_out+=("full: $(tail -n 1 "$log/no-full")")
        return
    fi
    time_for full $((building + 22)) || return
    run deps scripts/deps.sh full
    passed deps-full || return
    local -x WASMTIME=full CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/cargo/wasmtime-full
    local crate=(--locked --manifest-path engines/wasmtime/full/Cargo.toml)
    find engines/wasmtime/full -name '*.rs' -exec touch {} + # as in scripts/wasmtime.sh
    run clippy cargo clippy --release "${crate[@]}" --workspace -- -D warnings
    run wasi cargo test "${crate[@]}" -p wasmshim-wasi
    run abi go_test -timeout 10m -run 'TestArtifact|TestInitialize' ./abi
    shims && engines && e2e
}
# on VERSION: the smoke suite on another containerd.
on() {
    WASMSHIM_CONTAINERD=$1 run "containerd-$1" go_test -timeout 15m ./test/matrix/...
}
# The newest is what e2e runs on; it is here for the table.
matrix() {
    for version in 1.6.20 1.7.35 2.0.14 2.1.9 2.2.9 2.3.7 2.4.2; do
        on $version
    done
    for version in 1.6.20 1.7.35 2.0.14 2.1.9 2.2.9 2.3.7 2.4.2; do
        case " ${failed[*]} " in
        *" containerd-$version "*) echo "containerd $version: FAILED" ;;
        *) echo "containerd $version: passed" ;;
        esac
    done
}
# enough MINUTES: whether there are so many.
enough() { [ -z "${WASMSHIM_UNTIL:-}" ] || [ $((WASMSHIM_UNTIL - $(date +%s))) -gt $(($1 * 60)) ]; }
# time_for NAME MINUTES: whether NAME can be over in time.
time_for() {
    enough "$2" || {
        left_out+=("$1: no time")
        return 1
    }
}
# prefer_full NAME MINUTES: makes WASMTIME, if it says nothing, full where that library is
# there, or can be built before NAME, which takes so many minutes. Else it is prebuilt,
# and the end says so.
prefer_full() {
    [ -z "${WASMTIME:-}" ] || return 0
    local building
    WASMTIME=prebuilt
    if ! building=$(scripts/wasmtime.sh minutes 2>"$log/no-full"); then
        prebuilt+=("$1 ($(tail -n 1 "$log/no-full"))")
    elif ! enough $((building + $2)); then
        prebuilt+=("$1 (there is no time to build the full one)")
    else
        WASMTIME=full
    fi
}
# Kubernetes is built if it is not in the cache. Nodes are made at once, and most of their
# tests only wait.
k8s() {
    local built minutes=15
    local -x WASMTIME=${WASMTIME:-}
    built=$(ls -d "${XDG_CACHE_HOME:-$HOME/.cache}"/libwasmshim/kubernetes-*/bin/kubectl 2>/dev/null)
    [ -n "$built" ] || minutes=40
    time_for k8s $minutes || return
    run k8s-deps scripts/deps.sh k8s
    passed k8s-deps || return
    prefer_full k8s 15
    [ "$WASMTIME" != full ] || run k8s-deps-full scripts/deps.sh full
    passed k8s-deps-full || return
    run k8s-build scripts/shim.sh wasmtime
    passed k8s-build && run k8s go_test -timeout 25m -parallel 6 ./test/k8s/...
}
# in_vm NAME MINUTES VARIABLES BINARY ARGUMENT...: a test binary in the machine, if there
# are so many minutes. It ends by itself before the machine does.
in_vm() {
    local name=$1 minutes=$2 variables=$3 binary=$4
    shift 4
    time_for "$name" "$minutes" || return
    local command=". /payload/src/test/vm/env.sh && cd /payload/src/test/$binary &&
        export WASMSHIM_VM=1 WASMSHIM_SLOW=10 $variables && exec /payload/bin/$binary.test -test.v -test.timeout 40m $*"
    run "$name" scripts/vm.sh run "$command"
    passed "$name" && return
    revive >>"$log/$name" 2>&1 || return
    # The emulator halts a CPU at any place for longer than any machine does, and has ended
    # by itself. Where nobody looks on, a step may fail once, and is named.
    if [ -n "${WASMSHIM_UNTIL:-}" ] && time_for "$name-again" "$minutes"; then
        cp "$log/$name" "$log/$name-first"
        unset "failed[-1]"
        run "$name" scripts/vm.sh run "$command"
        second_try+=("$name")
    fi
}
# The arguments of the machine's kernel.
machine=()
# revive boots the machine again, if it has ended.
revive() {
    scripts/vm.sh run true && return
    echo "FAIL: the machine has ended by itself; the end of its console, and what the emulator said:"
    tail -n 15 "$VM_DIR/console" "$VM_DIR/qemu.log"
    scripts/vm.sh stop
    scripts/vm.sh start "${machine[@]}"
}
# vm: what users' hosts have, in a machine that is emulated: with cgroup v2 first, what
# matters most first of it, then with what few hosts have.
vm() {
    export VM_DIR
    VM_DIR=$(mktemp -d /tmp/wasmshim-vm.XXXXXX)
    trap 'scripts/vm.sh stop; rm -rf "$log" "$VM_DIR"' EXIT
    trap 'exit 1' INT TERM HUP
    time_for vm 20 || return
    run vm-deps scripts/deps.sh vm
    passed vm-deps || return
    run vm-pack scripts/vm.sh pack ./test/vm ./test/contract
    passed vm-pack || return
    run vm-boot scripts/vm.sh start
    if passed vm-boot; then
        in_vm vm 15 '' vm -test.skip TestRootless
        in_vm vm-systemd 6 WASMSHIM_CGROUPS=systemd vm -test.run TestSmoke
        in_vm vm-rootless 8 '' vm -test.run TestRootless
        # Not the storms, nor each mixture of programs: make test has them.
        in_vm vm-contract 10 WASMSHIM_CGROUPS=systemd contract -test.run "'TestContract/^ours(,_guests)?$/^(run|exec|oom|terminal|pause|update|stats)$'"
    fi
    vm_boot no-controllers cgroup_disable=memory cgroup_disable=pids
    vm_boot v1 systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1
    vm_boot selinux security=selinux selinux=1
    scripts/vm.sh stop
}
# vm_boot NAME ARGUMENT...: the machine again, with more arguments for its kernel, for a
# few tests of both drivers.
vm_boot() {
    local name=$1
    shift
    time_for "vm-$name" 3 || return
    scripts/vm.sh stop
    machine=("$@")
    run "vm-boot-$name" scripts/vm.sh start "${machine[@]}"
    passed "vm-boot-$name" || return
    in_vm "vm-$name" 2 "WASMSHIM_BOOT=$name" vm -test.run "'TestBoot|TestSELinux'"
}
fuzz() {
    run fuzz-stage go_test -run '^$' -fuzz FuzzDecode -fuzztime 200000x ./shim/internal/stage
    run fuzz-options go_test -run '^$' -fuzz FuzzParse -fuzztime 100000x ./shim/internal/options
    run fuzz-tag go_test -run '^$' -fuzz FuzzParseTag -fuzztime 100000x ./shim/internal/imagefile
    WASMSHIM_FUZZ_RUNS=2000000 run fuzz-c go_test -run TestLibFuzzer ./cabi
    run fuzz-bundle go_test -run '^$' -fuzz FuzzBundle -fuzztime 50000x ./shim/internal/task
}

for set in "${@:-}"; do
    case $set in
    all) shims && unit && abi && pack && engines && contract && e2e && node && on 1.6.20 ;;
    abi) abi && pack && engines ;;
    unit | fuzz) "$set" ;;
    contract | e2e | matrix | vm) shims && "$set" ;;
    full | k8s) "$set" ;;
    *)
        echo "usage: $0 all|unit|contract|e2e|matrix|full|k8s|vm|abi|fuzz" >&2
        exit 2
        ;;
    esac
done

not_run() {
    [ ${#left_out[@]} = 0 ] || printf 'not run: %s\n' "${left_out[@]}"
}
echo "after $SECONDS s"
for name in "${prebuilt[@]}"; do
    echo "with wasmtime's prebuilt library, which serves no HTTP: $name"
done
for name in "${second_try[@]}"; do
    echo
    echo "== failed at the first try: $name"
    grep -E -A 20 -- '--- FAIL|^FAIL|panic:' "$log/$name-first" | tail -n 100
done
if [ ${#failed[@]} -gt 0 ]; then
    for name in "${failed[@]}"; do
        echo
        echo "== failed: $name"
        grep -E -A 20 -- '--- FAIL|^FAIL|panic:|error:|Error' "$log/$name" | tail -n 200 || tail -n 50 "$log/$name"
    done
    echo
    not_run
    echo "failed: ${failed[*]}"
    exit 1
fi
not_run
if [ "$(id -u)" != 0 ] && [ "$1" != unit ]; then
    echo "all that ran passed; tests of containers were skipped: they need root"
else
    echo "all passed"
fi
