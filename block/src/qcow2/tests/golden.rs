//! Images that QEMU made read as QEMU reads them.

use std::path::{Path, PathBuf};

use super::{assert_sound, open_chain, qemu, text};
use crate::{
    nodes::testing::{close, on_ring, read},
    qcow2::Options,
};

/// Bytes with runs of zeros, of repetition and of noise.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::with_capacity(len + (1 << 17));
    while bytes.len() < len {
        let run = rng.usize(1..1 << 16);
        match rng.u8(0..3) {
            0 => bytes.resize(bytes.len() + run, 0),
            1 => bytes.resize(bytes.len() + run, rng.u8(..)),
            _ => bytes.extend((0..run).map(|_| rng.u8(..))),
        }
    }
    bytes.truncate(len);
    bytes
}

fn contents(paths: &[PathBuf], raw_base: bool, len: usize) -> Vec<u8> {
    let paths = paths.to_vec();
    on_ring(move |cx| async move {
        let options = Options { read_only: true, ..Options::default() };
        let node = open_chain(&cx, &paths, raw_base, options).await.expect("open");
        assert_eq!(node.info().size, len as u64);
        let mut bytes = Vec::new();
        let mut rng = fastrand::Rng::with_seed(7);
        while bytes.len() < len {
            let n = (rng.usize(1..600) * 512).min(len - bytes.len());
            bytes.extend(read(&cx, &node, bytes.len() as u64, n).await.expect("read"));
        }
        close(&cx, &node).await;
        bytes
    })
}

fn convert(dir: &Path, name: &str, raw: &Path, args: &[&str]) -> PathBuf {
    let image = dir.join(name);
    let mut all = vec!["convert", "-f", "raw", "-O", "qcow2"];
    all.extend(args);
    all.extend([text(raw), text(&image)]);
    qemu("qemu-img", &all);
    image
}

#[test]
fn every_cluster_size_version_and_compression() {
    let dir = tempfile::tempdir().expect("a directory");
    for bits in 9..=21u32 {
        let len = if bits < 12 { 700 << 10 } else { 5 << 20 };
        let bytes = pattern(u64::from(bits), len);
        let raw = dir.path().join("raw");
        std::fs::write(&raw, &bytes).expect("write");
        let cluster = format!("cluster_size={}", 1u64 << bits);
        let v2 = format!("{cluster},compat=0.10");
        let zstd = format!("{cluster},compression_type=zstd");
        let cases: [(&str, &[&str]); 4] = [
            ("v3", &["-o", &cluster]),
            ("v2", &["-o", &v2]),
            ("zlib", &["-c", "-o", &cluster]),
            ("zstd", &["-c", "-o", &zstd]),
        ];
        for (name, args) in cases {
            let image = convert(dir.path(), name, &raw, args);
            let got = contents(&[image], false, len);
            assert!(got == bytes, "cluster bits {bits}, {name}");
        }
    }
}

#[test]
fn chains_with_zero_clusters_and_short_backing_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (base, mid, top) = (path("base.raw"), path("mid.qcow2"), path("top.qcow2"));
    let mut bytes = pattern(1, (3 << 20) + 512 * 3);
    std::fs::write(&base, &bytes).expect("write");
    let create = |image: &Path, backing: &Path, format: &str, size: &str, cluster: &str| {
        let o = format!("cluster_size={cluster}");
        let b = ["-b", text(backing), "-F", format];
        let all = [&["create", "-q", "-f", "qcow2", "-o", &o][..], &b, &[text(image), size]];
        qemu("qemu-img", &all.concat());
    };
    create(&mid, &base, "raw", "4M", "4k");
    create(&top, &mid, "qcow2", "6M", "64k");
    let io = |image: &Path, command: &str| {
        qemu("qemu-io", &["-f", "qcow2", "-c", command, text(image)]);
    };
    bytes.resize(6 << 20, 0);
    io(&mid, "write -P 0x11 100k 50k");
    bytes[100 << 10..150 << 10].fill(0x11);
    io(&mid, "write -z 200k 300k");
    bytes[200 << 10..500 << 10].fill(0);
    io(&top, "write -P 0x22 1M 70k");
    bytes[1 << 20..(1 << 20) + (70 << 10)].fill(0x22);
    io(&top, "write -z -u 2M 128k");
    bytes[2 << 20..(2 << 20) + (128 << 10)].fill(0);
    io(&top, "discard 320k 128k");
    bytes[320 << 10..448 << 10].fill(0);
    let got = contents(&[top.clone(), mid, base], true, 6 << 20);
    assert!(got == bytes);
    assert_sound(&top);
}
