# Functions for the recipes; sourced by images/build.

# fetch PACKAGE...: downloads packages of the machine's Debian release into the current directory.
fetch() {
    if [ "$(id -u)" = 0 ]; then
        apt-get -o APT::Sandbox::User=root download "$@"
    else
        apt-get download "$@"
    fi
}

# unpack DIR: unpacks every downloaded package of the current directory into DIR.
unpack() {
    local deb
    mkdir -p "$1"
    for deb in *.deb; do dpkg-deb -x "$deb" "$1"; done
}

# depends PACKAGE: the packages that it depends on directly, one a line.
depends() {
    apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$1" | awk '$1 ~ /^\|?(Pre)?Depends:$/ && $2 !~ /^</ { print $2 }'
}

# le FILE OFFSET SIZE: a little-endian number in a file.
le() {
    od -An -v -t "u$3" --endian=little -j "$2" -N "$3" "$1" | tr -d ' '
}

# debian_sources TYPE: one-line sources (TYPE deb or deb-src) for the Debian suites that this machine has,
# whether its own lists are old or deb822.
debian_sources() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed='' lines
    [ ! -f "$keyring" ] || signed="[signed-by=$keyring] "
    # shellcheck disable=SC2016
    lines=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' | sort -u | awk -v head="$1 $signed" \
        '$1 == "Debian" && $4 == "main" && $3 !~ /backports/ { print head $2, $3, $4 }')
    [ -n "$lines" ] || { echo "apt knows no Debian suite; run apt-get update first" >&2; return 1; }
    printf '%s\n' "$lines"
}

# pick_modules FROM TO NAME...: copies kernel modules with all that they depend on from the tree FROM
# (lib/modules/RELEASE within) to the root directory TO, uncompressed, and writes TO/lib/modules/order:
# their paths, dependencies first. A name that ends in `?` may be absent; so may one that is built in.
pick_modules() {
    local from=$1 to=$2 release name file
    shift 2
    release=$(basename "$from"/lib/modules/*)
    mkdir -p "$to/lib/modules/$release"
    cp "$from/lib/modules/$release"/modules.{builtin,order} "$to/lib/modules/$release/"
    cp "$from/lib/modules/$release/modules.builtin.modinfo" "$to/lib/modules/$release/" || true
    for name in "$@"; do
        if ! modprobe -d "$from" -S "$release" --show-depends "${name%\?}" >>order.raw 2>why; then
            [ "$name" != "${name%\?}" ] || { cat why >&2; return 1; }
        fi
    done
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' order.raw >order.files
    while read -r file; do
        copy_module "$file" "$to" "/lib/modules/$release/${file##*/modules/"$release"/}"
    done <order.files >"$to/lib/modules/order"
    depmod -b "$to" "$release"
}

# copy_module FILE TO PATH: copies one module, uncompressed, and prints its path in the image.
copy_module() {
    local file=$1 to=$2 path=$3
    mkdir -p "$to$(dirname "$path")"
    case $file in
    *.xz) path=${path%.xz} && xz -dc "$file" >"$to$path" ;;
    *.zst) path=${path%.zst} && zstd -dc -q "$file" >"$to$path" ;;
    *.gz) path=${path%.gz} && gzip -dc "$file" >"$to$path" ;;
    *) cp "$file" "$to$path" ;;
    esac
    printf '%s\n' "$path"
}

# busybox_root DIR: a root directory with a static busybox and a link for each of its applets.
busybox_root() {
    local applet
    mkdir -p "$1"/{bin,sbin,dev,proc,sys,tmp,run,root,etc,lib,mnt}
    ln -sfn . "$1/usr"
    cp "$(busybox_path)" "$1/bin/busybox"
    for applet in $("$1/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"
    done
}

# busybox_path: where Debian's busybox-static put its program.
busybox_path() {
    local path
    for path in /bin/busybox /usr/bin/busybox; do
        [ -x "$path" ] && { printf '%s\n' "$path"; return; }
    done
    echo "busybox-static is not installed" >&2
    return 1
}

# make_cpio DIR FILE: packs a directory as an uncompressed initramfs owned by root, without timestamps.
make_cpio() {
    (cd "$1" && find . -mindepth 1 -print0 | sort -z |
        cpio --null --create --quiet --format=newc --owner=0:0 --reproducible) >"$2"
}
