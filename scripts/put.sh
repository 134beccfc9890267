#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/put.sh MODE FROM TO
#
# Copies a file so that whoever opens or executes TO meanwhile finds the old one
# or the new one, whole. A running shim keeps its own.
set -eu
[ $# = 3 ] || {
    echo "put.sh: found $# arguments, accepted: MODE FROM TO" >&2
    exit 2
}
new=$3.new.$$ # beside it: a rename goes no further than a file system
trap 'rm -f "$new"' EXIT
install -D -m "$1" "$2" "$new"
mv -fT "$new" "$3"
