"""What a machine boots from: kernel, initramfs, toolbox and base images; built, verified, listed."""
