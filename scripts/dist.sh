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
mkdir -p dist
tar --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    -C build/dist -cf - "$name" | gzip -9n >"dist/$name.tar.gz.new"
mv "dist/$name.tar.gz.new" "dist/$name.tar.gz"
(cd dist && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256.new" && mv "$name.tar.gz.sha256.new" "$name.tar.gz.sha256")
echo "dist/$name.tar.gz"
