# The test guest: an initramfs with busybox, a static fio, the storage tools and every storage driver, and
# the same as a small root file system on a disk.
#   guest.cpio   everything, for `--initrd` alone
#   boot.cpio    busybox and the drivers: mounts root= and goes on there
#   tiny.cpio    busybox alone, for guests with next to no memory
#   guest.qcow2  the root file system (ext4, no partition table)
# Beside them, from the kernel recipe: vmlinuz, vmlinux and release.
inputs=(guest/init)
needs=(kernel fio)

# Packages whose programs go into the guest, with the libraries these need.
tools=(nvme-cli sg3-utils libiscsi-bin mmc-utils hdparm smartmontools)

# The drivers of the six controllers, and what a test may mount.
modules=(
    virtio_pci virtio_blk virtio_scsi 'virtio-rng?' sd_mod sr_mod sg nvme ahci ata_piix
    sdhci-pci mmc_block isofs
    'crct10dif_generic?' 'crc64-rocksoft_generic?' 'crc64_rocksoft_generic?' 'crc32c_generic?' ext4
)

build() {
    local out=$1
    busybox_root boot
    cp "$here/guest/init" boot/init
    chmod 755 boot/init
    make_cpio boot "$out/tiny.cpio"
    # shellcheck disable=SC2154
    pick_modules "$image_kernel/root" boot "${modules[@]}"
    make_cpio boot "$out/boot.cpio"

    cp -a boot guest
    # shellcheck disable=SC2154
    cp "$image_fio/fio" guest/bin/
    add_tools guest
    make_cpio guest "$out/guest.cpio"

    ln -s ../init guest/sbin/init
    make_disk guest "$out/guest.qcow2"
    cp "$image_kernel"/{vmlinuz,vmlinux,release} "$out/"
}

# Puts the programs of the tool packages and the libraries they load into a root directory.
add_tools() {
    local root=$1 package program
    mkdir -p debs && cd debs
    # shellcheck disable=SC2046
    fetch "${tools[@]}" $(library_packages "${tools[@]}")
    unpack ../tree
    cd ..
    for package in "${tools[@]}"; do
        dpkg-deb -c debs/"$package"_*.deb | awk '$1 ~ /^[-l]..x/ { print $6 }' |
            grep -E '^\./(usr/)?s?bin/' | sed 's,^\./,,'
    done >programs
    while read -r program; do
        case $(head -c 4 "tree/$program" | od -An -t x1 | tr -d ' ') in 7f454c46) ;; *) continue ;; esac
        cp -L "tree/$program" "$root/bin/"
        add_libraries "tree/$program" "$root"
    done <programs
    cp -L "$(find_library ld-linux-x86-64.so.2)" "$root/lib/"
    ln -sfn lib "$root/lib64"
}

# The library packages that packages depend on, with those that these depend on.
library_packages() {
    local queue=("$@") seen=' ' name
    while [ ${#queue[@]} -gt 0 ]; do
        name=${queue[0]} queue=("${queue[@]:1}")
        case $seen in *" $name "*) continue ;; esac
        seen+="$name "
        for name in $(depends "$name"); do
            case $name in lib* | zlib1g) queue+=("$name") && printf '%s\n' "$name" ;; esac
        done
    done | sort -u
}

# Copies the libraries that a program names, and those that these name.
add_libraries() {
    local name path
    for name in $(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        [ ! -e "$2/lib/$name" ] || continue
        path=$(find_library "$name")
        cp -L "$path" "$2/lib/$name"
        add_libraries "$path" "$2"
    done
}

# Where the unpacked packages hold a library.
find_library() {
    local path
    path=$(find tree -name "$1" | head -n 1)
    [ -n "$path" ] || { echo "no package here holds $1" >&2; return 1; }
    printf '%s\n' "$path"
}

# An ext4 root file system on a qcow2 image.
make_disk() {
    truncate -s 512M disk.raw
    fakeroot mke2fs -q -t ext4 -L root -d "$1" -E root_owner=0:0,lazy_itable_init=1 disk.raw
    qemu-img convert -O qcow2 disk.raw "$2"
}
