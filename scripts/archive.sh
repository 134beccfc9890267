#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/archive.sh DIR NAME ARCHIVE
#
# Makes ARCHIVE.tar.gz of DIR/NAME, and ARCHIVE.tar.gz.sha256. The same files give the same
# bytes, for the same commit.
set -eu
[ $# = 3 ] || {
    echo "archive.sh: found $# arguments, accepted: DIR NAME ARCHIVE" >&2
    exit 2
}
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$(dirname "$0")" log -1 --format=%ct 2>/dev/null || echo 0)}
out=$3.tar.gz
mkdir -p "$(dirname "$out")"
tar --sort=name --format=gnu --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -C "$1" -cf - "$2" | gzip -9n >"$out.new"
mv "$out.new" "$out"
(cd "$(dirname "$out")" && sha256sum "${out##*/}" >"${out##*/}.sha256.new" && mv "${out##*/}.sha256.new" "${out##*/}.sha256")
echo "$out"
