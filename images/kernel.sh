# Debian's kernel, unpacked and never installed: vmlinuz, the ELF vmlinux extracted from it, its modules
# under root/lib/modules and the release in `release`.
inputs=()

build() {
    local out=$1 release vmlinuz
    # The package that linux-image-amd64 stands for, and whatever it splits its modules into.
    # shellcheck disable=SC2046
    fetch $(depends linux-image-amd64 | grep -E '^linux-(image|modules|binary)-')
    unpack deb
    mkdir -p "$out/root/lib"
    cp -a deb/lib/modules "$out/root/lib/" 2>/dev/null || cp -a deb/usr/lib/modules "$out/root/lib/"
    release=$(basename "$out"/root/lib/modules/*)
    printf '%s\n' "$release" >"$out/release"
    depmod -b "$out/root" "$release"
    vmlinuz=$(find deb -name 'vmlinuz*' -type f | head -n 1)
    cp "$vmlinuz" "$out/vmlinuz"
    extract_vmlinux "$vmlinuz" "$out/vmlinux"
    # What the recipes and guests never load and what fills two thirds of the tree.
    rm -rf "$out"/root/lib/modules/*/kernel/{sound,drivers/{gpu,media,infiniband,staging,net/wireless}}
    depmod -b "$out/root" "$release"
}

# The bzImage says where its payload is (Documentation/arch/x86/boot.rst, payload_offset and
# payload_length, protocol 2.08); the payload's last four bytes are its uncompressed size.
extract_vmlinux() {
    local image=$1 setup offset length magic
    setup=$(le "$image" 497 1)
    offset=$(((setup + 1) * 512 + $(le "$image" 584 4)))
    length=$(le "$image" 588 4)
    tail -c +$((offset + 1)) "$image" | head -c $((length - 4)) >payload || true
    magic=$(od -An -v -t x1 -N 4 payload | tr -d ' ')
    case $magic in
    fd377a58) xz -dc payload >"$2" ;;
    28b52ffd) zstd -dc -q payload >"$2" ;;
    1f8b*) gzip -dc payload >"$2" || [ $? = 2 ] ;;
    5d0000*) xz --format=lzma -dc payload >"$2" ;;
    7f454c46) cp payload "$2" ;;
    *)
        echo "the kernel's payload starts with $magic, which is no compression known here" >&2
        return 1
        ;;
    esac
    [ "$(head -c 4 "$2" | od -An -t x1 | tr -d ' ')" = 7f454c46 ]
}
