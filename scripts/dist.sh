#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes dist/libwasmshim-VERSION-linux-ARCH.tar.gz: what `make install` installs.
# The same commit gives the same bytes, wherever it is built.
set -eu
umask 022
cd "$(dirname "$0")/.."

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
name=libwasmshim-$(cat VERSION)-linux-$(uname -m)
rm -rf "build/dist/$name"
scripts/install.sh "build/dist/$name"
scripts/archive.sh build/dist "$name" "dist/$name"
