# A static fio from Debian's source package: Debian's own pulls 85 MB of libraries into a guest.
inputs=()

build() {
    local out=$1
    mkdir -p apt/lists/partial apt/cache/archives/partial
    debian_sources deb-src >apt/sources.list
    apt_private update
    apt_private source --download-only fio
    dpkg-source --no-check -x fio_*.dsc src
    cd src
    ./configure --build-static --disable-numa --disable-rdma --disable-rados --disable-rbd \
        --disable-gfapi --disable-http --disable-pmem --disable-libzbc --disable-native
    make -j"$(nproc)" fio
    strip -o "$out/fio" fio
    "$out/fio" --version
    "$out/fio" --enghelp | grep -q io_uring
}

# apt-get with a source list of our own and nothing of the machine's own changed.
apt_private() {
    apt-get -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none "$@"
}
