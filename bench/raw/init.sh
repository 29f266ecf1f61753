#!/bin/busybox sh
# The first program of the raw guest: devices, the toolbox as root, and the agent of the few lines.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
. /modules/groups
for module in $pci $block $socket $file_systems; do insmod "/modules/$module"; done
until mount -t erofs -o ro /dev/vda /new 2>/dev/null; do sleep 0.05; done
mount -t tmpfs tmpfs /new/run
cp /agent.py /new/run/
mount -o move /dev /new/dev
mount -o move /proc /new/proc
mount -o move /sys /new/sys
exec switch_root /new /usr/bin/python3 -I -S -u /run/agent.py
