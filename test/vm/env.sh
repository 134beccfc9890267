# shellcheck shell=sh
# What finds programs and tests in the machine of scripts/vm.sh.
export XDG_CACHE_HOME=/payload/cache HOME=/root CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
PATH=/payload/src/dist:$(echo /payload/cache/libwasmshim/containerd-2*/bin):$(echo /payload/cache/libwasmshim/runc-*/bin):/usr/sbin:/usr/bin:/sbin:/bin
export PATH
