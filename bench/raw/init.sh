#!/bin/busybox sh
# The first program of the raw guest: devices, the toolbox as root, the base image below it, and the agent of few lines.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
. /modules/groups
for module in $pci $block $socket $file_systems; do insmod "/modules/$module"; done
until mount -t erofs -o ro /dev/vda /new 2>/dev/null; do sleep 0.05; done
mount -t ext4 -o ro /dev/vdb /new/base
mount -t devtmpfs devtmpfs /new/base/dev
mount -t tmpfs -o size=80% tmpfs /new/base/run
mount -t tmpfs tmpfs /new/run
cp /agent.py /new/run/
mount -o move /dev /new/dev
mount -o move /proc /new/proc
mount -o move /sys /new/sys
exec switch_root /new /usr/bin/python3 -I -S -u /run/agent.py
