#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Second program of the machine: what a distribution's start does, as far as the tests need it; then the command that
# was asked for, its exit code, and the end.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8
cd "$(dirname "$0")/../.." || exit
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for place in /dev/shm /run; do mount -t tmpfs memory "$place"; done
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /run/netns /run/out
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /run/out
. /run/out/machine
mkdir -p /lib/modules
mount --bind "$MODULES" /lib/modules
ip link set lo up
echo "== $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
sh /run/out/command
echo $? >/run/out/status
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
