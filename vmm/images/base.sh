#!/bin/sh
# Makes a base image from a root file system: base.sh TAR EXTRA TREE IMAGE LABEL
# Runs as root, or as root of a user namespace, so that unpacked files keep their owners.
set -eu
umask 022
tar=$1 extra=$2 tree=$3 image=$4 label=$5
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM

mkdir "$tree"
tar -x -p --numeric-owner -f "$tar" -C "$tree"
rm -f "$tar"
cp -r --preserve=mode,links "$extra/." "$tree/"

rm -f "$tree"/etc/apt/apt.conf.d/99mmdebstrap "$tree"/etc/hostname "$tree"/etc/resolv.conf
rm -f "$tree"/usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* "$tree"/var/cache/debconf/*-old
find "$tree/var/log" -type f -delete
mkdir -p "$tree"/proc "$tree"/sys "$tree"/dev "$tree"/run "$tree"/tmp "$tree"/root
find "$tree/run" "$tree/tmp" "$tree/dev" -mindepth 1 -delete
chmod 1777 "$tree/tmp"
chmod 0700 "$tree/root"
chmod 0755 "$tree"
: > "$tree/etc/machine-id"
echo casemate > "$tree/etc/hostname"
printf '127.0.0.1\tlocalhost casemate\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$tree/etc/hosts"
printf 'nameserver 10.41.0.1\noptions timeout:5 attempts:2\n' > "$tree/etc/resolv.conf"
if [ -e "$tree/usr/bin/pip3" ]; then
    printf '[global]\nroot-user-action = ignore\ndisable-pip-version-check = true\n' > "$tree/etc/pip.conf"
fi
if [ -e "$tree/usr/local/bin/uv" ]; then
    # Like Debian's pip: the certificate authorities of the system, not a list of its own.
    mkdir -p "$tree/etc/uv"
    echo 'system-certs = true' > "$tree/etc/uv/uv.toml"
fi
if [ -e "$tree/usr/bin/git" ]; then
    # So that a commit works at once. What a user or a repository sets wins over the system's settings.
    printf '[user]\n\tname = Sandbox\n\temail = sandbox@example.com\n[init]\n\tdefaultBranch = main\n' \
        > "$tree/etc/gitconfig"
fi
if [ -e "$tree/usr/bin/sudo" ]; then
    # The environment's file, because sudo drops the rest, and the host's certificate authorities with it.
    printf 'Defaults env_file=/etc/environment\n%%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n' > "$tree/etc/sudoers.d/casemate"
    chmod 0440 "$tree/etc/sudoers.d/casemate"
fi
if [ -e "$tree/usr/bin/fdfind" ]; then
    ln -s ../../bin/fdfind "$tree/usr/local/bin/fd"
fi
if [ -e "$tree/usr/bin/ping" ]; then
    # The archive has no capabilities; this is what Debian does without them.
    chmod u+s "$tree/usr/bin/ping"
fi

# The image is only ever mounted read-only: it needs little free space and no journal.
kib=$(du -s -k "$tree" | cut -f 1)
inodes=$(($(find "$tree" | wc -l) + 512))
rm -f "$image"
truncate -s "$((kib * 108 / 100 + inodes / 4 + 16384))K" "$image"
mke2fs -q -F -t ext4 -b 4096 -O ^has_journal,^resize_inode -m 0 -N "$inodes" -L "$label" \
    -E lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard,root_owner=0:0 -d "$tree" "$image"
debugfs -w -R 'rmdir lost+found' "$image" 2>/dev/null
