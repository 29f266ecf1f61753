#!/bin/busybox sh
# The guest's first program: loads the modules for its devices, mounts the file systems and the overlay, and hands over
# to the toolbox. Under emulation each process costs milliseconds, so it starts as few as possible.
export PATH=/bin
exec 2>&1

fail() {
    echo "casemate: the guest cannot start: $1"
    exit 1
}

insert() {
    for module in $1; do
        case " $loaded " in
            *" $module "*) ;;
            *) insmod "/modules/$module" && loaded="$loaded $module" || echo "casemate: cannot load $module" ;;
        esac
    done
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

loaded=
. /modules/groups
for device in /sys/bus/pci/devices/*; do
    [ -e "$device" ] && insert "$pci"
    break
done
[ -n "$loaded" ] && [ ! -e /sys/bus/acpi/devices/LNRO0005:00 ] || insert "$mmio"
for device in /sys/bus/virtio/devices/*; do
    read -r alias < "$device/modalias" || continue
    case $alias in
        virtio:d00000001v*) insert "$network" ;;
        virtio:d00000002v*) insert "$block" ;;
        virtio:d00000004v*) insert "$random" ;;
        virtio:d00000005v*) insert "$balloon" ;;
        virtio:d00000008v*) insert "$scsi" ;;
        virtio:d00000013v*) insert "$socket" ;;
    esac
done
insert "$file_systems"
insert "$extras"

tries=0
until [ -e /dev/vda ] && [ -e /dev/vdb ] && [ -e /dev/vdc ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "three drives are needed: toolbox, base image, disk"
    sleep 0.05
done

# The toolbox is the only drive that is not ext4; the others are found by their labels, in any order.
for drive in vda vdb vdc none; do
    [ $drive != none ] || fail "no drive is a toolbox"
    mount -t erofs -o ro,nodev "/dev/$drive" /new 2>/dev/null && break
done
mount -t ext4 -o ro,noatime LABEL=cm-base /new/base || fail "no drive is a base image"
mount -t ext4 -o noatime,discard LABEL=cm-disk /new/disk || fail "no drive is a writable disk"
[ -d /new/disk/upper ] && [ -d /new/disk/work ] || mkdir -p /new/disk/upper /new/disk/work
mount -t overlay -o lowerdir=/new/base,upperdir=/new/disk/upper,workdir=/new/disk/work,redirect_dir=on overlay \
    /new/sandbox || fail "the overlay of disk and base image cannot be mounted"

mount -t tmpfs -o mode=0755,size=16m,nosuid,nodev tmpfs /new/run
mount -t tmpfs -o mode=1777,size=16m,nosuid,nodev tmpfs /new/tmp
mount -t cgroup2 -o nosuid,nodev,noexec,favordynmods,nsdelegate cgroup2 /sys/fs/cgroup

# The usual values of a server: the kernel's defaults are for very small machines.
echo 524288 > /proc/sys/fs/inotify/max_user_watches
echo 1024 > /proc/sys/fs/inotify/max_user_instances
echo 1048576 > /proc/sys/fs/aio-max-nr
echo 262144 > /proc/sys/vm/max_map_count

# The agent mounts the sandbox's /proc, /sys and cgroups itself, inside the sandbox's namespaces.
root=/new/sandbox
mount -t tmpfs -o mode=0755,nosuid tmpfs $root/dev
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs $root/run
mkdir $root/dev/pts $root/dev/shm $root/dev/net $root/run/lock
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts $root/dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs $root/dev/shm
chmod 1777 $root/run/lock
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty $root/dev/
for device in fuse net/tun loop-control loop0 loop1 loop2 loop3 loop4 loop5 loop6 loop7; do
    [ ! -e /dev/$device ] || cp -a /dev/$device $root/dev/$device
done
for device in fuse net/tun; do
    [ ! -e $root/dev/$device ] || chmod 666 $root/dev/$device
done
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
ln -s /proc/self/fd/0 $root/dev/stdin
ln -s /proc/self/fd/1 $root/dev/stdout
ln -s /proc/self/fd/2 $root/dev/stderr

if [ -f /casemate/secret ]; then
    mkdir -m 0700 /new/run/casemate
    cp -p /casemate/secret /new/run/casemate/secret
fi

# The link's device is the one that is not for the sandbox.
link=eth0
for device in /sys/class/net/eth*; do
    read -r address < "$device/address" || continue
    [ "$address" = 02:ca:5e:00:00:01 ] || link=${device##*/}
done
ip link set lo up
read -r line < /proc/cmdline
for word in $line; do
    case $word in
        casemate.ip=*)
            ip addr add "${word#casemate.ip=}" dev $link
            ip link set $link up
            ;;
    esac
done
echo casemate > /proc/sys/kernel/hostname

mount -o move /dev /new/dev
mount -o move /proc /new/proc
mount -o move /sys /new/sys
exec switch_root /new /sbin/init
fail "the toolbox has no init"
