#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what building, testing and linting need, on Debian 12 with Go and gcc.
#
#   scripts/deps.sh [build] [daemon] [test] [lint] [matrix] [vm] [full] [k8s]   (default: all but the last four)
#
#   build   headers and tools to build a shim
#   daemon  a private containerd 2.x with ctr, runc and runc's shim
#   test    Debian's containerd 1.6, a static busybox, other compilers, fuzzers, mkfs.erofs
#   lint    formatters and linters
#   matrix  one containerd of every release line between the oldest and the newest
#   vm      an emulator, and a machine with cgroup v2 and systemd for it (root only); RootlessKit
#   full    wasmtime's full library; also with WASMTIME=full in the environment
#   k8s     what a private Kubernetes node is made of: kubelet, control plane, CNI plugins, critest
#           (9 minutes on two idle cores, 6 GB of Go's caches)
#
# What can live in the user's cache does, so that a second clone finds it there;
# only what must be in the system's paths is installed with apt-get, as root.
set -eu
cd "$(dirname "$0")/.."

CONTAINERD=v2.4.2
RUNC=v1.5.2
CONTAINERD16=1.6.20
MATRIX="v1.7.35 v2.0.14 v2.1.9 v2.2.9 v2.3.7"
KUBERNETES=1.37.2
CRITOOLS=1.37.0
CNI=1.10.0
ETCD=3.7.3
ROOTLESSKIT=3.3.0

cache=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim
goflags_tags=netgo,osusergo

say() { echo "deps: $*" >&2; }
die() { say "$*"; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# missing PACKAGE PROBE...: adds PACKAGE to $apt unless the probe succeeds.
apt=
missing() {
    pkg=$1
    shift
    "$@" >/dev/null 2>&1 || apt="$apt $pkg"
}
header() { echo "#include <$1>" | gcc -E -x c - ; }
fuzzer() { ls "$(clang -print-resource-dir)"/lib/linux/libclang_rt.fuzzer-*.a; }
static_lib() { [ -f "$(gcc -print-file-name="$1")" ]; }

updated=
apt_update() {
    [ -z "$updated" ] || return 0
    [ "$(id -u)" = 0 ] || return 0
    say "apt-get update"
    apt-get -qq update
    updated=1
}

# fetch PACKAGE DIR: unpacks a Debian package into DIR. It is not installed:
# containerd's would start a daemon for the whole machine.
fetch() {
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [0-9]' || apt_update
    say "apt-get download $1"
    # The second try is for package lists that have aged.
    (cd "$tmp" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1") || {
        apt_update
        (cd "$tmp" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1")
    } || die "cannot download Debian's package $1 (are the package lists there? root runs apt-get update)"
    dpkg-deb -x "$tmp"/*.deb "$tmp/root"
    mv "$tmp/root" "$2"
    rm -rf "$tmp"
}

# install NAME DIR ENV... -- PACKAGE...: go install into DIR, which appears only when complete.
install_go() {
    name=$1 dir=$2
    shift 2
    tmp=$(mktemp -d "$cache/build.XXXXXX")
    say "building $name (once; a minute or two on a small machine)"
    start=$(date +%s)
    (cd "$tmp" && env GOFLAGS= GOWORK=off GOBIN="$tmp/bin" "$@") || {
        rm -rf "$tmp"
        die "building $name failed"
    }
    mkdir -p "$dir"
    mv "$tmp/bin" "$dir/bin"
    rm -rf "$tmp"
    say "$name is in $dir after $(($(date +%s) - start)) s"
}

# build_containerd VERSION: builds a containerd into the cache. Its source is
# copied out of the module cache: `go install` refuses a module whose go.mod
# excludes versions.
build_containerd() {
    version=$1 dir=$cache/containerd-${1#v} module=github.com/containerd/containerd
    [ ! -d "$dir/bin" ] || return 0
    case $version in v1.*) ;; *) module=$module/v2 ;; esac
    tmp=$(mktemp -d "$cache/build.XXXXXX")
    say "building containerd $version (once; a minute or two on a small machine)"
    start=$(date +%s)
    source=$(cd "$tmp" && GOFLAGS= GOWORK=off go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    cp -r "$source" "$tmp/src"
    chmod -R u+w "$tmp/src"
    (cd "$tmp/src" && GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags "$goflags_tags" \
        -ldflags "-s -w -X $module/version.Version=$version" -o "$tmp/bin/" \
        ./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2) || {
        rm -rf "$tmp"
        die "building containerd $version failed"
    }
    mkdir -p "$dir"
    mv "$tmp/bin" "$dir/bin"
    rm -rf "$tmp"
    say "containerd $version is in $dir after $(($(date +%s) - start)) s"
}

# build_programs NAME VERSION GET PACKAGE...: builds programs that are not there yet into the cache.
# GET, a shell command, makes them known to a scratch module: `go install` refuses a
# module with replace directives.
build_programs() {
    name=$1-$2 get=$3
    shift 3
    scratch=
    for package; do
        case $package in
        */server/v3) command=etcd ;;
        *) command=${package##*/} ;;
        esac
        program=$cache/$name/bin/$command
        [ ! -e "$program" ] || continue
        start=$(date +%s)
        say "building $command of $name"
        [ -n "$scratch" ] || {
            scratch=$(mktemp -d "$cache/build.XXXXXX")
            printf 'module build\n\ngo 1.26\n' >"$scratch/go.mod"
            (cd "$scratch" && export GOFLAGS=-mod=mod GOWORK=off && eval "$get") || {
                rm -rf "$scratch"
                die "downloading $name failed"
            }
        }
        build=build
        [ "$command" != critest ] || build="test -c" # it is a test
        # shellcheck disable=SC2086 # two words
        (cd "$scratch" && GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0 go $build -trimpath -buildvcs=false \
            -ldflags "-s -w $ldflags" -o "$scratch/program" "$package") || {
            rm -rf "$scratch"
            die "building $command of $name failed"
        }
        mkdir -p "${program%/*}"
        mv "$scratch/program" "$program"
        say "$program is there after $(($(date +%s) - start)) s"
    done
    [ -z "$scratch" ] || rm -rf "$scratch"
}

# kubernetes_module: requires Kubernetes, whose own go.mod replaces modules by
# directories that it comes without: here by the modules as published. critest
# takes the same, so that what both need is built once.
kubernetes_module() {
    staging=v0.${KUBERNETES#*.}
    source=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -n "$source" ] || return 1
    sed -n "s#^\t\(k8s.io/[^ ]*\) => ./staging/.*#replace \1 => \1 $staging#p" "$source/go.mod" >>go.mod
    printf 'require (\n\tk8s.io/kubernetes v%s\n\tsigs.k8s.io/cri-tools v%s\n)\n' "$KUBERNETES" "$CRITOOLS" >>go.mod
    cp "$source/go.sum" go.sum
    chmod u+w go.sum
}

[ $# -gt 0 ] || set -- build daemon test lint
[ "${WASMTIME:-}" != full ] || set -- "$@" full
want=" $* "
wants() { case "$want" in *" $1 "*) return 0 ;; *) return 1 ;; esac }

have go || die "Go is missing: install Go 1.26 or newer first"
have gcc || die "gcc is missing: apt-get install gcc libc6-dev"

if wants build || wants daemon; then
    missing libc6-dev static_lib libc.a
    missing libseccomp-dev static_lib libseccomp.a
    missing pkg-config have pkg-config
fi
if wants build; then
    missing binutils have objcopy
    missing make have make
fi
if wants test; then
    missing g++ have g++
    missing cmake have cmake
    missing groff-base have groff
    missing clang have clang
    missing lld have ld.lld
    missing mold have ld.mold
    missing libclang-rt-14-dev fuzzer
    missing abigail-tools have abidiff
    missing erofs-utils have mkfs.erofs
fi
if wants full || { wants k8s && have cargo; }; then # those tests take the full library where they can
    missing cmake have cmake
fi
if wants k8s; then
    missing iptables have iptables
fi
if wants lint; then
    missing clang-format have clang-format
fi
if wants vm; then
    missing qemu-system-x86 have qemu-system-x86_64
    missing debootstrap have debootstrap
    missing e2fsprogs have mkfs.ext4
    missing openssh-client have ssh
fi
if [ -n "$apt" ]; then
    [ "$(id -u)" = 0 ] || die "needs root to install Debian packages; as root: apt-get install$apt"
    apt_update
    say "apt-get install$apt"
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $apt >/dev/null
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
have flock && ! flock -n 9 && say "waiting for another run" && flock 9

if wants daemon; then
    build_containerd $CONTAINERD
    dir=$cache/runc-${RUNC#v}
    [ -d "$dir/bin" ] || install_go "runc $RUNC" "$dir" CGO_ENABLED=1 \
        go install -trimpath -tags "$goflags_tags,seccomp" -ldflags "-s -w -linkmode external -extldflags -static" \
        github.com/opencontainers/runc@$RUNC
fi
if wants test; then
    dir=$cache/containerd-$CONTAINERD16
    [ -d "$dir" ] || fetch containerd "$dir"
    "$dir/usr/bin/containerd" --version | grep -q " $CONTAINERD16" ||
        die "Debian's containerd is not $CONTAINERD16: $("$dir/usr/bin/containerd" --version)"
    dir=$cache/busybox-static
    [ -d "$dir" ] || fetch busybox-static "$dir"
fi
if wants matrix; then
    for version in $MATRIX; do
        build_containerd "$version"
    done
fi
if wants vm; then
    dir=$cache/$(scripts/vm.sh name)
    if [ ! -d "$dir" ]; then
        [ "$(id -u)" = 0 ] || die "needs root to make the machine of the tests with debootstrap"
        apt_update
        tmp=$(mktemp -d "$cache/vm.XXXXXX")
        say "making a machine for the tests (once; some minutes)"
        start=$(date +%s)
        scripts/vm-root.sh "$tmp/vm" || {
            rm -rf "$tmp"
            die "making the machine failed"
        }
        mv "$tmp/vm" "$dir"
        rm -rf "$tmp"
        say "the machine is in $dir after $(($(date +%s) - start)) s"
    fi
    ldflags=
    build_programs rootlesskit $ROOTLESSKIT "go get github.com/rootless-containers/rootlesskit/v3@v$ROOTLESSKIT" \
        github.com/rootless-containers/rootlesskit/v3/cmd/rootlesskit
fi
if wants full; then
    # Built or found, it says which.
    say "wasmtime's full library is in $(scripts/wasmtime.sh)"
    # For guests of its tests. Another Rust than rustup's has it or has not.
    for target in wasm32-wasip1 wasm32-wasip2 wasm32-wasip1-threads; do
        if command -v rustup >/dev/null && [ ! -d "$(rustc --print target-libdir --target $target)" ]; then
            rustup --quiet target add $target || say "no guests for $target in Rust: their tests will skip"
        fi
    done
fi
if wants k8s; then
    dir=$cache/busybox-static
    [ -d "$dir" ] || fetch busybox-static "$dir"
    ldflags=
    build_programs cni $CNI "go get github.com/containernetworking/plugins@v$CNI" \
        github.com/containernetworking/plugins/plugins/main/bridge \
        github.com/containernetworking/plugins/plugins/main/loopback \
        github.com/containernetworking/plugins/plugins/ipam/host-local \
        github.com/containernetworking/plugins/plugins/meta/portmap
    build_programs etcd $ETCD "go get go.etcd.io/etcd/server/v3@v$ETCD" go.etcd.io/etcd/server/v3
    ldflags="-X sigs.k8s.io/cri-tools/pkg/version.Version=v$CRITOOLS"
    build_programs cri-tools $CRITOOLS kubernetes_module sigs.k8s.io/cri-tools/cmd/critest sigs.k8s.io/cri-tools/cmd/crictl
    ldflags=
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do # a client asks the server's
        ldflags="$ldflags -X $package.gitVersion=v$KUBERNETES -X $package.gitMajor=${KUBERNETES%%.*} -X $package.gitMinor=$(echo "$KUBERNETES" | cut -d. -f2)"
    done
    build_programs kubernetes $KUBERNETES kubernetes_module k8s.io/kubernetes/cmd/kubelet k8s.io/kubernetes/cmd/kube-apiserver \
        k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kube-proxy \
        k8s.io/kubernetes/cmd/kubectl
fi
