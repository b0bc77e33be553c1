# A real Debian: a root file system made by mmdebstrap on a GPT partition (ext4, label `root`) of a qcow2
# image. It boots to a login (root, no password) and, with `spindle.job=PATH` on the kernel command line,
# runs that program instead and powers off.
#   debian.qcow2, and its own vmlinuz and initrd, and the vmlinux extracted from that vmlinuz
inputs=(kernel.sh $(cd "$here" && find debian -type f | sort))
needs=()

packages=(
    fio nvme-cli sg3-utils e2fsprogs util-linux systemd-sysv udev kmod login initramfs-tools zstd
    linux-image-amd64
)
size_mib=2048

# What an image without sound, screen and radio does not need.
excludes=(
    '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/info/*'
    '*/lib/modules/*/kernel/sound/*' '*/lib/modules/*/kernel/drivers/gpu/*'
    '*/lib/modules/*/kernel/drivers/media/*' '*/lib/modules/*/kernel/drivers/infiniband/*'
    '*/lib/modules/*/kernel/drivers/staging/*' '*/lib/modules/*/kernel/drivers/net/*'
)

build() {
    local out=$1
    # shellcheck source=/dev/null
    . "$here/kernel.sh"
    make_root
    mkdir -p boot
    tar -xf root.tar -C boot --wildcards './boot/vmlinuz-*' './boot/initrd.img-*'
    cp boot/boot/vmlinuz-* "$out/vmlinuz"
    cp boot/boot/initrd.img-* "$out/initrd"
    extract_vmlinux "$out/vmlinuz" "$out/vmlinux"
    make_image
    qemu-img convert -O qcow2 disk.raw "$out/debian.qcow2"
}

# The root file system as root.tar.
make_root() {
    local codename options=() pattern
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for pattern in "${excludes[@]}"; do options+=("--dpkgopt=path-exclude=$pattern"); done
    debian_sources deb >sources.list
    # shellcheck disable=SC2016
    mmdebstrap --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" "${options[@]}" \
        --aptopt='Acquire::Languages "none"' \
        --essential-hook="sync-in $here/debian/root /" \
        --customize-hook='chroot "$1" chown -R root:root /etc/initramfs-tools /etc/systemd/system \
            /etc/fstab /etc/hostname /usr/local/sbin /usr/share/initramfs-tools' \
        --customize-hook='chroot "$1" passwd -d root' \
        --customize-hook='chroot "$1" systemctl enable spindle-job.service' \
        "$codename" root.tar sources.list
}

# The disk: one partition, at 1 MiB, with the root file system in it.
make_image() {
    truncate -s "${size_mib}M" disk.raw
    sfdisk -q disk.raw <<'TABLE'
label: gpt
start=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
TABLE
    # Ownership and device files survive in fakeroot, for whom this is not root.
    fakeroot sh -ec '
        mkdir root
        tar -xpf root.tar -C root --exclude="./dev/*"
        mke2fs -q -t ext4 -L root -d root -E offset=1048576,root_owner=0:0,lazy_itable_init=1 \
            disk.raw '"$((size_mib - 2))"'M'
}
