#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: scripts/vm-root.sh DIR
#
# Makes what scripts/vm.sh boots, as root; scripts/deps.sh vm calls it:
#
#   vmlinuz, initrd  Debian's cloud kernel, which is unpacked and never installed,
#                    and a busybox that mounts the disks
#   root.img         Debian 12 with systemd, dbus, AppArmor and an SSH server
#   key              the SSH key that root.img lets in
set -euo pipefail
mkdir -p "$1"
cd "$1"
say() { echo "vm-root: $*" >&2; }

say "debootstrap: Debian 12 (about two minutes)"
# One line for each package would be 400 of them.
debootstrap --variant=minbase \
    --include=systemd,systemd-sysv,dbus,udev,apparmor,kmod,iproute2,procps,busybox-static,strace,dropbear-bin,uidmap,libpam-systemd,dbus-user-session,selinux-policy-default,policycoreutils \
    bookworm root http://deb.debian.org/debian | awk 'NR % 50 == 0 { print "vm-root: " $0 }' >&2

say "kernel"
package=$(apt-cache show --no-all-versions linux-image-cloud-amd64 | sed -n 's/^Depends: \(linux-image-[^ ]*\) .*/\1/p')
apt-get -qq -o APT::Sandbox::User=root download "$package"
dpkg-deb -x "$package"_*.deb kernel
mv kernel/boot/vmlinuz-* vmlinuz
release=$(ls kernel/lib/modules)
mv kernel/lib/modules root/lib/modules
chroot root depmod -a "$release"

say "root file system"
ssh-keygen -q -t ed25519 -N '' -f key
mkdir -p root/root/.ssh root/etc/dropbear root/payload
cp key.pub root/root/.ssh/authorized_keys
chmod 700 root/root/.ssh
chroot root dropbearkey -t ed25519 -f /etc/dropbear/host >/dev/null 2>&1
echo vm >root/etc/hostname
echo '127.0.0.1 localhost vm' >root/etc/hosts
: >root/etc/fstab
: >root/etc/machine-id
# What only costs time at boot: udev's look at all devices above all, and the modules
# that it loads for them. Those that are needed are the initrd's.
for unit in systemd-udev-trigger.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service \
    systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service systemd-random-seed.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-pstore.service systemd-networkd.service systemd-tmpfiles-clean.timer systemd-binfmt.service; do
    ln -sf /dev/null "root/etc/systemd/system/$unit"
done
cat >root/etc/systemd/system/ssh.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
ExecStartPre=-/sbin/ip link set lo up
ExecStartPre=-/sbin/ip addr add 10.0.2.15/24 dev eth0
ExecStartPre=-/sbin/ip link set eth0 up
ExecStart=/usr/sbin/dropbear -F -E -s -r /etc/dropbear/host -p 22
KillMode=process
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p root/etc/systemd/system/multi-user.target.wants root/etc/systemd/journald.conf.d
ln -s ../ssh.service root/etc/systemd/system/multi-user.target.wants/
ln -sf /lib/systemd/system/multi-user.target root/etc/systemd/system/default.target
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >root/etc/systemd/journald.conf.d/vm.conf

say "initrd"
mkdir -p initrd.d/{bin,proc,sys,dev,root,modules}
cp root/bin/busybox initrd.d/bin/
for module in virtio_pci virtio_blk virtio_net virtio-rng overlay; do
    chroot root modprobe -S "$release" --show-depends $module
done | awk '/^insmod/ && !seen[$2]++ { print $2 }' | while read -r file; do
    cp "root$file" initrd.d/modules/
    echo "${file##*/}" >>initrd.d/order
done
cat >initrd.d/init <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read m; do $b insmod /modules/$m; done < /order
$b mount -t ext4 -o rw,noatime /dev/vda /root || exec $b sh
[ ! -b /dev/vdb ] || $b mount -t ext4 -o rw,noatime /dev/vdb /root/payload
$b mount --move /dev /root/dev
$b umount /proc
$b umount /sys
exec $b switch_root /root /sbin/init
INIT
chmod +x initrd.d/init
(cd initrd.d && find . | ../root/bin/busybox cpio -o -H newc 2>/dev/null | gzip -1) >initrd

# Labels are there for the boot that has SELinux instead of AppArmor.
say "labels"
sed -i 's/^SELINUX=.*/SELINUX=permissive/' root/etc/selinux/config
# setfiles opens what it labels by its name in /proc.
unshare --mount sh -c 'mount -t proc proc root/proc && exec chroot root setfiles -F /etc/selinux/default/contexts/files/file_contexts /'

say "image"
rm -rf root/var/cache/apt/archives/*.deb root/var/lib/apt/lists/* root/usr/share/{doc,man,locale}
mkfs.ext4 -q -F -d root -L root root.img 4G
rm -rf root kernel initrd.d key.pub ./*.deb
