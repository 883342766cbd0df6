#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First program of the machine: this host's files below a layer in memory, then the second program from there.
set -e
PATH=/bin
/bin/busybox --install /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod "$module"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower
mount -t tmpfs -o size=75% memory /upper
mkdir /upper/new /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/new,workdir=/upper/work both /root
second=$(sed -n 's/.*lox\.second=\([^ ]*\).*/\1/p' /proc/cmdline)
umount /proc
exec switch_root /root /bin/sh "$second"
