#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# test.sh all|unit|contract|e2e|matrix|full|k8s|abi|fuzz
#
# Runs a set of tests and prints what failed, last.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=()

# run NAME COMMAND...: one step; its output is shown, and again if it failed.
run() {
    local name=$1
    shift
    echo "== $name"
    if ! "$@" 2>&1 | tee "$log/$name"; then
        failed+=("$name")
    fi
}

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
# The contract with any shim binary, and a few seconds of everything at random.
contract() {
    run contract go_test -timeout 15m ./test/contract/... ./test/soak/...
}
# What depends on the engine, on wasmtime's full library, whose Rust sources are
# checked, too.
full() {
    export WASMTIME=full
    CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/cargo/wasmtime-full \
        run clippy cargo clippy --release --locked --manifest-path engines/wasmtime/full/Cargo.toml -- -D warnings
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
# Nodes are made at once, and most of their tests only wait.
k8s() {
    run k8s go_test -timeout 30m -parallel 12 ./test/k8s/...
}
fuzz() {
    run fuzz-stage go_test -run '^$' -fuzz FuzzDecode -fuzztime 200000x ./shim/internal/stage
    run fuzz-options go_test -run '^$' -fuzz FuzzParse -fuzztime 100000x ./shim/internal/options
    run fuzz-tag go_test -run '^$' -fuzz FuzzParseTag -fuzztime 100000x ./shim/internal/imagefile
    WASMSHIM_FUZZ_RUNS=2000000 run fuzz-c go_test -run TestLibFuzzer ./cabi
    run fuzz-bundle go_test -run '^$' -fuzz FuzzBundle -fuzztime 50000x ./shim/internal/task
}

case ${1:-} in
all) shims && unit && abi && pack && engines && contract && e2e && on 1.6.20 ;;
abi) abi && pack && engines ;;
unit | fuzz) "$1" ;;
contract | e2e | matrix) shims && "$1" ;;
full) full ;;
k8s) run build scripts/shim.sh wasmtime && "$1" ;;
*)
    echo "usage: $0 all|unit|contract|e2e|matrix|full|k8s|abi|fuzz" >&2
    exit 2
    ;;
esac

echo "after $SECONDS s"
if [ ${#failed[@]} -gt 0 ]; then
    for name in "${failed[@]}"; do
        echo
        echo "== failed: $name"
        grep -E -A 20 -- '--- FAIL|^FAIL|panic:|error:|Error' "$log/$name" | tail -n 200 || tail -n 50 "$log/$name"
    done
    echo
    echo "failed: ${failed[*]}"
    exit 1
fi
if [ "$(id -u)" != 0 ] && [ "$1" != unit ]; then
    echo "all that ran passed; tests of containers were skipped: they need root"
else
    echo "all passed"
fi
