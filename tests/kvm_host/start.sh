# Sets up the emulated host, runs the job, writes its exit status to the share, and powers off.
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
chgrp 104 /dev/kvm && chmod 0660 /dev/kvm # as udev would; any group except root's
# Keep one of each of these for the host's whole life: a machine (KVM switched on), a virtual processor with a disabled
# local APIC and one without any, and a cgroup with a CPU limit. The kernel patches its own code for the first and after
# the last of each, and QEMU before 8.1 may continue with its old translation on another processor.
perl -e '
    sub call { my $answer = syscall(16, @_); $answer >= 0 or die $!; $answer } # ioctl
    open my $kvm, "+<", "/dev/kvm" or die $!;
    for my $apic (0, 1) {
        my $machine = call(fileno $kvm, 0xAE01, 0); # KVM_CREATE_VM
        call($machine, 0xAE60, 0) if $apic; # KVM_CREATE_IRQCHIP
        call($machine, 0xAE41, 0); # KVM_CREATE_VCPU
    }
    sleep' &
mkdir /sys/fs/cgroup/kept
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
echo 100000 100000 >/sys/fs/cgroup/kept/cpu.max
while cut -d ' ' -f 1 /proc/uptime >/run/share/beat; do sleep 5; done & # the heartbeat that host.py watches
# Machines run only on the other processors. Whenever one of those loads a floating-point state, QEMU changes a bit in
# the first processor's mode word without a lock (cpu_clear_ignne), and sometimes loses what that processor had just
# written, such as that it left its guest. ADR 15 describes the effects on machines and on this kernel.
taskset -c 1-2 bash /run/share/job.sh >/run/share/out 2>&1 </dev/null
echo $? >/run/share/status
sync
busybox poweroff -f
