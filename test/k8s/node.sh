#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# node.sh DIR NAME: the first process of a node, in namespaces of its own. Makes of
# them what a node is, says so in DIR/ready, and waits until it is ended.
#
# The cgroup hierarchies are mounted anew: their roots are the node's own cgroups.
# What is written to /etc, /usr/local and /var is below DIR.
set -eu
dir=$1

all=$(ls /sys/fs/cgroup)
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for c in $all; do
    mkdir "/sys/fs/cgroup/$c"
    case $c in
    unified) mount -t cgroup2 none "/sys/fs/cgroup/$c" ;;
    systemd) mount -t cgroup -o none,name=systemd none "/sys/fs/cgroup/$c" ;;
    *) mount -t cgroup -o "$c" none "/sys/fs/cgroup/$c" ;;
    esac
done

mount --make-rshared /
mkdir -p "$dir/kubelet" "$dir/log"
for own in etc usr/local var; do
    mkdir -p "$dir/own/$own" "$dir/work/$own"
    mount -t overlay -o "lowerdir=/$own,upperdir=$dir/own/$own,workdir=$dir/work/$own" own "/$own"
done
mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /var/lib/cni
mount --bind "$dir/kubelet" /var/lib/kubelet # volumes are mounted there
mount --bind "$dir/log" /var/log
mkdir -p /var/log/pods /var/log/containers
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/containerd /run/lock

hostname "$2"
printf 'nameserver 10.87.0.254\n' >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
ip link add eth0 type veth peer name uplink
ip addr add 10.87.0.1/24 dev eth0
ip link set uplink up
ip link set eth0 up
ip route add default via 10.87.0.254

echo ready >"$dir/ready"
exec sleep infinity
