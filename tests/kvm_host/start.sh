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
# What is rare keeps its place in this kernel's code as long as this host lives: a machine (KVM switched on), a virtual
# processor with a local APIC that is off and one without any, a cgroup with a share of the processors. Each first and
# each last one changes code under the other processor, and QEMU before 8.1 goes on with what it had translated.
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
while cut -d ' ' -f 1 /proc/uptime >/run/share/beat; do sleep 5; done & # by which those outside see that this lives
# Machines run on the other processors alone. Whenever one of those loads a floating-point state, QEMU changes a bit in
# the first one's mode word, without a lock (cpu_clear_ignne): what the first had just put there, such as that it left
# its guest, is lost now and then. ADR 15 has what became of machines and of this kernel then.
taskset -c 1-2 bash /run/share/job.sh >/run/share/out 2>&1 </dev/null
echo $? >/run/share/status
sync
busybox poweroff -f
