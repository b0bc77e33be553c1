//! Images that we made, changed and repaired, as QEMU sees them.

use std::path::Path;

use super::{assert_sound, file, golden::pattern, open_chain, qemu, text};
use crate::{
    Op,
    nodes::testing::{bare, close, on_ring, read, write},
    qcow2::{
        Options,
        check::{self, Repair, Report},
        create::{CreateError, CreateOptions, Preallocation, create},
        header::Compression,
        info,
    },
};

pub(super) fn make(path: &Path, options: CreateOptions) -> Result<(), CreateError> {
    std::fs::write(path, b"not empty").expect("write");
    let node = file(path, false);
    on_ring(move |cx| async move {
        let made = create(&cx, &node, &options).await;
        close(&cx, &node).await;
        made
    })
}

pub(super) fn run_check(path: &Path, repair: Repair) -> Report {
    try_check(path, repair).expect("check")
}

fn try_check(path: &Path, repair: Repair) -> Result<Report, check::CheckError> {
    let node = file(path, repair == Repair::None);
    on_ring(move |cx| async move {
        let report = check::check(&cx, &node, repair).await;
        close(&cx, &node).await;
        report
    })
}

/// `qemu-img check`, with whatever exit status, as numbers.
fn qemu_check(path: &Path) -> serde_json::Value {
    let args = ["check", "-f", "qcow2", "--output=json", text(path)];
    let output = std::process::Command::new("qemu-img").args(args).output().expect("qemu-img");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(json: &serde_json::Value, name: &str) -> u64 {
    json.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0)
}

pub(super) fn assert_same_report(path: &Path, ours: &Report) {
    let theirs = qemu_check(path);
    let what = format!("{path:?}: {theirs} and {ours:?}");
    assert_eq!(number(&theirs, "leaks"), ours.leaks, "{what}");
    assert_eq!(number(&theirs, "corruptions"), ours.corruptions, "{what}");
    assert_eq!(number(&theirs, "total-clusters"), ours.total_clusters, "{what}");
    assert_eq!(number(&theirs, "allocated-clusters"), ours.allocated_clusters, "{what}");
    assert_eq!(number(&theirs, "compressed-clusters"), ours.compressed_clusters, "{what}");
    assert_eq!(number(&theirs, "image-end-offset"), ours.image_end_offset, "{what}");
}

#[test]
fn created_images_are_sound_and_empty_for_qemu() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for bits in 9..=21u32 {
        for (version, lazy, preallocation) in [
            (3, false, Preallocation::Off),
            (3, true, Preallocation::Metadata),
            (2, false, Preallocation::Metadata),
            (2, false, Preallocation::Off),
        ] {
            let size = if bits < 12 { 40 << 20 } else { (3 << 30) + 512 };
            let prepared = preallocation == Preallocation::Metadata && bits < 14;
            let size = if prepared { 20 << 20 } else { size };
            let options = CreateOptions {
                cluster_size: 1 << bits,
                version,
                lazy_refcounts: lazy,
                preallocation,
                ..CreateOptions::new(size)
            };
            make(&path, options).expect("create");
            assert_sound(&path);
            let described = qemu("qemu-img", &["info", "--output=json", text(&path)]);
            let json: serde_json::Value = serde_json::from_str(&described).expect("JSON");
            assert_eq!(number(&json, "virtual-size"), size);
            assert_eq!(number(&json, "cluster-size"), 1 << bits);
            assert_same_report(&path, &run_check(&path, Repair::None));
        }
    }
}

#[test]
fn impossible_images_are_refused_and_backing_files_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    let refused = |change: &dyn Fn(&mut CreateOptions)| {
        let mut options = CreateOptions::new(1 << 30);
        change(&mut options);
        make(&path, options).expect_err("refused")
    };
    assert_eq!(refused(&|o| o.cluster_size = 256), CreateError::ClusterSize(256));
    assert_eq!(refused(&|o| o.cluster_size = 96 << 10), CreateError::ClusterSize(96 << 10));
    assert_eq!(refused(&|o| o.version = 4), CreateError::Version(4));
    let lazy = refused(&|o| {
        o.version = 2;
        o.lazy_refcounts = true;
    });
    assert_eq!(lazy, CreateError::NeedsVersion3("lazy_refcounts=on"));
    assert!(matches!(refused(&|o| o.size = u64::MAX), CreateError::TooLarge { .. }));
    let long = "x".repeat(600);
    let backing = |o: &mut CreateOptions| {
        o.cluster_size = 512;
        o.backing = Some((long.clone(), "raw".to_owned()));
    };
    assert!(matches!(refused(&backing), CreateError::Header(_)));
    let options = CreateOptions {
        backing: Some(("base.raw".to_owned(), "raw".to_owned())),
        compression: Compression::Zstd,
        ..CreateOptions::new(1 << 20)
    };
    make(&path, options).expect("create");
    let node = file(&path, true);
    let about = on_ring(move |cx| async move { info::info(&cx, &node).await.expect("info") });
    assert_eq!(about.backing_file.as_deref(), Some("base.raw"));
    assert_eq!(about.backing_format.as_deref(), Some("raw"));
    assert_eq!((about.compression, about.compat), (Compression::Zstd, "1.1"));
    let described = qemu("qemu-img", &["info", "-U", text(&path)]);
    assert!(described.contains("backing file: base.raw"), "{described}");
    assert!(described.contains("compression type: zstd"), "{described}");
}

/// An image with data, of which the caller damages something.
fn image_with_data(path: &Path, options: &str) {
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(path), "4M"]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 64k 1M", text(path)]);
}

pub(super) fn patch(path: &Path, at: u64, change: impl Fn(u64) -> u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).expect("read");
    file.write_all_at(&change(u64::from_be_bytes(bytes)).to_be_bytes(), at).expect("write");
}

/// A cluster behind the last, with a refcount that nothing explains.
fn leak(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("open");
    file.set_len(22 << 16).expect("grow");
    patch(path, 0x20000 + 2 * 20, |v| v | 1 << 32);
}

#[test]
fn damage_is_counted_as_qemu_counts_it_and_repaired() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    // 64 KiB clusters: refcount table at 0x10000, block at 0x20000, L1 at 0x30000, L2 at 0x40000.
    type Damage = fn(&Path);
    let damages: [(&str, Damage, bool); 5] = [
        ("a leak", leak, true),
        ("a high count", |p| patch(p, 0x20000 + 2 * 8, |v| v + (1 << 48)), true),
        ("a missing count", |p| patch(p, 0x20000 + 2 * 8, |v| v & !(0xffff << 48)), false),
        ("a missing flag", |p| patch(p, 0x40000 + 8 * 3, |v| v & !(1 << 63)), false),
        ("no block at all", |p| patch(p, 0x10000, |_| 0), false),
    ];
    for (what, damage, only_leaks) in damages {
        image_with_data(&path, "cluster_size=64k");
        damage(&path);
        let found = run_check(&path, Repair::None);
        assert!(!found.is_clean(), "{what}");
        assert_same_report(&path, &found);
        match try_check(&path, Repair::Leaks) {
            Ok(leaks) => {
                assert_eq!(leaks.leaks, 0, "{what}");
                assert_eq!(leaks.is_clean(), only_leaks, "{what}: {leaks:?}");
            }
            // What is not counted at all cannot be told from what is free.
            Err(check::CheckError::NeedsRebuild(said)) => {
                assert!(said[0].contains("refcount=0 reference=1"), "{what}: {said:?}");
                assert!(what == "a missing count" || what == "no block at all");
            }
            Err(error) => panic!("{what}: {error}"),
        }
        let repaired = run_check(&path, Repair::All);
        assert!(repaired.is_clean(), "{what}: {repaired:?}");
        assert_sound(&path);
        qemu("qemu-io", &["-f", "qcow2", "-c", "read -P 5 64k 1M", text(&path)]);
    }
}

#[test]
fn snapshots_and_bitmaps_are_not_harmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
    for cluster in ["512", "4k", "64k"] {
        let bytes = pattern(3, 2 << 20);
        std::fs::write(&raw, &bytes).expect("write");
        let option = format!("cluster_size={cluster}");
        let args = ["convert", "-f", "raw", "-O", "qcow2", "-o", &option];
        qemu("qemu-img", &[&args[..], &[text(&raw), text(&path)]].concat());
        qemu("qemu-img", &["snapshot", "-c", "before", text(&path)]);
        if cluster == "64k" {
            qemu("qemu-img", &["bitmap", "--add", text(&path), "bits"]);
        }
        let paths = vec![path.clone()];
        let mut model = bytes.clone();
        let expected = on_ring(move |cx| async move {
            let node = open_chain(&cx, &paths, false, Options::default()).await.expect("open");
            let mut rng = fastrand::Rng::with_seed(11);
            for n in 0..200u64 {
                let at = rng.usize(0..3900) * 512;
                let len = rng.usize(1..80) * 512;
                match rng.u8(0..6) {
                    0 => {
                        let op = Op::WriteZeroes { unmap: rng.bool(), fua: rng.bool() };
                        bare(&cx, &node, op, at as u64, len as u64).await.expect("zeroes");
                        model[at..at + len].fill(0);
                    }
                    1 => bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush"),
                    _ => {
                        let data = vec![n as u8 + 1; len];
                        write(&cx, &node, at as u64, &data).await.expect("write");
                        model[at..at + len].copy_from_slice(&data);
                    }
                }
            }
            let got = read(&cx, &node, 0, model.len()).await.expect("read");
            assert!(got == model);
            close(&cx, &node).await;
            model
        });
        let theirs = qemu_check(&path);
        assert_eq!(number(&theirs, "corruptions"), 0, "{theirs}");
        if cluster != "64k" {
            assert_eq!(number(&theirs, "leaks"), 0, "{theirs}");
        }
        assert_same_report(&path, &run_check(&path, Repair::None));
        let back = dir.path().join("back");
        let now = ["convert", "-f", "qcow2", "-O", "raw", text(&path), text(&back)];
        qemu("qemu-img", &now);
        assert!(std::fs::read(&back).expect("read") == expected, "{cluster}");
        let then = ["convert", "-l", "before", "-f", "qcow2", "-O", "raw"];
        qemu("qemu-img", &[&then[..], &[text(&path), text(&back)]].concat());
        assert!(std::fs::read(&back).expect("read") == bytes, "{cluster}: the snapshot");
    }
}

#[test]
fn disks_grow_and_what_they_gain_is_zero() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    for (cluster, options) in [(512, ""), (4096, ",compat=0.10"), (65536, ",lazy_refcounts=on")] {
        let (base, top) = (path("base"), path("top"));
        std::fs::write(&base, vec![0x77; 3 << 20]).expect("write");
        let option = format!("cluster_size={cluster}{options}");
        let b = ["-b", text(&base), "-F", "raw", text(&top), "1000k"];
        qemu("qemu-img", &[&["create", "-q", "-f", "qcow2", "-o", &option][..], &b].concat());
        let paths = vec![top.clone(), base.clone()];
        on_ring(move |cx| async move {
            let node = open_chain(&cx, &paths, true, Options::default()).await.expect("open");
            write(&cx, &node, 900 << 10, &[3; 4096]).await.expect("write");
            let size = (6 << 20) + 512;
            std::sync::Arc::clone(&node).resize(cx.clone(), size).await.expect("resize");
            assert_eq!(node.info().size, size);
            let shrunk = std::sync::Arc::clone(&node).resize(cx.clone(), 512).await;
            assert_eq!(shrunk, Err(crate::BlockError::Unsupported));
            let got = read(&cx, &node, 0, size as usize).await.expect("read");
            let mut expected = vec![0x77; 1000 << 10];
            expected[900 << 10..904 << 10].fill(3);
            expected.resize(size as usize, 0);
            assert!(got == expected);
            write(&cx, &node, size - 512, &[9; 512]).await.expect("write at the end");
            close(&cx, &node).await;
        });
        assert_sound(&top);
        let tail = ["-f", "qcow2", "-c", "read -P 9 6M 512", "-c", "read -P 0 1000k 5000k"];
        qemu("qemu-io", &[&tail[..], &[text(&top)]].concat());
    }
}

#[test]
fn an_image_that_was_not_closed_is_rebuilt() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for bits in [9, 12, 16] {
        let options = CreateOptions {
            lazy_refcounts: true,
            cluster_size: 1 << bits,
            ..CreateOptions::new(8 << 20)
        };
        make(&path, options).expect("create");
        let paths = vec![path.clone()];
        on_ring(move |cx| async move {
            let node = open_chain(&cx, &paths, false, Options::default()).await.expect("open");
            write(&cx, &node, 1 << 20, &[8; 300 << 10]).await.expect("write");
            bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
        });
        let node = file(&path, true);
        let about = on_ring(move |cx| async move { info::info(&cx, &node).await.expect("info") });
        assert!(about.dirty && about.lazy_refcounts);
        let paths = vec![path.clone()];
        on_ring(move |cx| async move {
            let node = open_chain(&cx, &paths, false, Options::default()).await.expect("open");
            let got = read(&cx, &node, 1 << 20, 300 << 10).await.expect("read");
            assert!(got.iter().all(|b| *b == 8));
            write(&cx, &node, 4 << 20, &[9; 300 << 10]).await.expect("write");
            close(&cx, &node).await;
        });
        assert_sound(&path);
        qemu("qemu-io", &["-f", "qcow2", "-c", "read -P 8 1M 300k", text(&path)]);
    }
}
