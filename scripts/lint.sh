#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks the style of Go, C, Rust and shell sources, and the pinned versions of the
# engine against the list of advisories. The linter is built from its Go
# module into the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.5.0
bin=${XDG_CACHE_HOME:-$HOME/.cache}/libwasmshim/golangci-lint-$version
if [ ! -x "$bin/golangci-lint" ]; then
    echo "building golangci-lint $version (once, a few minutes)"
    GOBIN=$bin GOFLAGS='' go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
"$bin/golangci-lint" run --build-tags "$(tr ' ' , <<<"${TAGS:-}")" ./...

if command -v clang-format >/dev/null; then
    git ls-files '*.c' '*.h' '*.cc' '*.cpp' | xargs -r clang-format --dry-run --Werror
else
    echo "clang-format is missing: make deps installs it" >&2
    exit 1
fi
if command -v cargo-fmt >/dev/null; then
    cargo fmt --all --check --manifest-path engines/wasmtime/full/Cargo.toml
else
    echo "lint: cargo-fmt is missing, Rust sources are not looked at" >&2
fi
for f in $(git ls-files 'scripts/*.sh' .ci/run); do bash -n "$f"; done
go run ./scripts/advisories
echo "lint: ok"
