# Makes the emulated host a place to work in, runs the job, leaves its exit status in the share, and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /lib/modules
ln -s /run/share/modules/* /lib/modules/
ip link set lo up 2>/dev/null || busybox ip link set lo up
hostname kvm-host
for module in kvm_amd tun bridge nf_tables nft_chain_nat nft_masq; do modprobe "$module"; done
chgrp 104 /dev/kvm && chmod 0660 /dev/kvm # as udev does where it runs; any group that is not root's
# An empty machine keeps KVM switched on. Without one, every first machine switches it on and every last one off, which
# changes code of this kernel under the other processor: QEMU's emulation dies or stands still of that, soon or late.
perl -e 'open my $kvm, "+<", "/dev/kvm" or die; ioctl $kvm, 0xAE01, 0 or die; sleep' & # KVM_CREATE_VM
while cut -d ' ' -f 1 /proc/uptime >/run/share/beat; do sleep 5; done & # by which those outside see that this lives
bash /run/share/job.sh >/run/share/out 2>&1 </dev/null
echo $? >/run/share/status
sync
busybox poweroff -f
