#!/usr/bin/env bash
# The one list of the Debian packages that the demo, the tests and the image recipes need.
#
#   images/packages.sh list      print them
#   images/packages.sh missing   print those that are not installed; status 1 if there are any
#   images/packages.sh install   install what is missing (root), or print the command to type (status 1)
set -euo pipefail

packages=(
    # building
    build-essential make xz-utils zstd
    # images: the kernel's modules, file systems, partition tables, static tools
    binutils busybox-static cpio dpkg-dev e2fsprogs fakeroot fdisk kmod mmdebstrap
    # the lab and the tools that the tests compare with
    acpica-tools cryptsetup-bin fio mount openssl qemu-system-x86 qemu-utils strace util-linux valgrind
    # firmware, and what it boots from
    isolinux seabios syslinux-common xorriso
)

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing() {
    local package
    for package in "${packages[@]}"; do
        installed "$package" || printf '%s\n' "$package"
    done
}

# QEMU's packages break each other across versions, so they are installed together and at one
# version, whatever version of one of them the machine has from elsewhere.
with_versions() {
    local package candidate qemu=false
    candidate=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')
    for package in "$@"; do
        case $package in qemu-*) qemu=true ;; *) printf '%s\n' "$package" ;; esac
    done
    if $qemu; then
        printf '%s=%s\n' qemu-system-x86 "$candidate" qemu-utils "$candidate"
    fi
}

install() {
    local absent
    mapfile -t absent < <(missing)
    [ ${#absent[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "packages are missing; as root: apt-get install --no-install-recommends ${absent[*]}"
        return 1
    fi
    echo "installing ${absent[*]}" >&2
    apt-get update -qq >&2
    mapfile -t absent < <(with_versions "${absent[@]}")
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        --allow-downgrades "${absent[@]}" >&2
}

case ${1-} in
list) printf '%s\n' "${packages[@]}" ;;
missing)
    absent=$(missing)
    [ -z "$absent" ] || { printf '%s\n' "$absent"; exit 1; }
    ;;
install) install ;;
*)
    echo "usage: images/packages.sh list|missing|install" >&2
    exit 2
    ;;
esac
