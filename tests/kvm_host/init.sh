#!/bin/busybox sh
# The emulated host's first program: mounts this machine's file system read-only, below an overlay in memory.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do insmod "$module"; done
mount -t virtiofs -o ro root /root
mount -t tmpfs -o size=60% tmpfs /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/root,upperdir=/upper/data,workdir=/upper/work overlay /new
mkdir -p /new/run/share
mount -o move /dev /new/dev
mount -o move /proc /new/proc
mount -o move /sys /new/sys
exec switch_root /new /bin/bash -c 'mount -t tmpfs tmpfs /run && mkdir /run/share && mount -t virtiofs share /run/share && exec bash /run/share/start.sh'
