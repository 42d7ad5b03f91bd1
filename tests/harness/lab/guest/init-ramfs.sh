# shellcheck shell=dash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
# The initramfs of both kinds of guest: find the disk, hand over what the lab put in, go.
/bin/busybox mkdir -p /dev /root
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 /dev/vda /root
[ -d /lab ] && /bin/busybox cp -a /lab/. /root/
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
