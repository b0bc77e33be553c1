# The lab's first level: an initramfs that mounts the host's root read-only over 9p with a tmpfs on top,
# makes the RAM disk and runs commands in there (see lab/init and lab/agent).
#   lab.cpio, and from the kernel recipe vmlinux and release
inputs=(lab/init lab/agent)
needs=(kernel)

modules=(
    virtio_pci virtio_console 9pnet_virtio 9p overlay irqbypass ccp kvm kvm-amd virtio_blk brd 'nbd?'
    'crc32c_generic?' ext4
)

build() {
    local out=$1
    busybox_root root
    cp "$here"/lab/{init,agent} root/
    chmod 755 root/init root/agent
    # shellcheck disable=SC2154
    pick_modules "$image_kernel/root" root "${modules[@]}"
    make_cpio root "$out/lab.cpio"
    cp "$image_kernel"/{vmlinux,release} "$out/"
}
