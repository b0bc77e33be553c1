//! Refcounts of every width: made, filled, freed, damaged and repaired, with QEMU looking on.

use std::path::Path;

use super::{
    assert_sound,
    golden::pattern,
    making::{assert_same_report, make, patch, run_check},
    open_chain, qemu, text,
};
use crate::{
    Op,
    nodes::testing::{bare, close, on_ring, read, write},
    qcow2::{
        Options,
        check::Repair,
        create::{CreateError, CreateOptions},
    },
};

const WIDTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Writes, discards and writes again; returns what the disk holds.
fn use_image(path: &Path, len: usize) -> Vec<u8> {
    let paths = vec![path.to_owned()];
    on_ring(move |cx| async move {
        let node = open_chain(&cx, &paths, false, Options::default()).await.expect("open");
        let mut model = pattern(7, len);
        write(&cx, &node, 0, &model).await.expect("write");
        bare(&cx, &node, Op::Discard, 64 << 10, 256 << 10).await.expect("discard");
        bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
        model[64 << 10..320 << 10].fill(0);
        write(&cx, &node, 100 << 10, &[9; 70 << 10]).await.expect("write");
        model[100 << 10..170 << 10].fill(9);
        assert!(read(&cx, &node, 0, len).await.expect("read") == model);
        close(&cx, &node).await;
        model
    })
}

#[test]
fn images_with_refcounts_of_every_width() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, raw) = (dir.path().join("image"), dir.path().join("raw"));
    for refcount_bits in WIDTHS {
        for cluster_size in [512, 4096, 65536] {
            let len = if cluster_size == 512 { 1 << 20 } else { 3 << 20 };
            let options =
                CreateOptions { cluster_size, refcount_bits, ..CreateOptions::new(len as u64) };
            make(&path, options).expect("create");
            assert_sound(&path);
            let model = use_image(&path, len);
            assert_sound(&path);
            let about = qemu("qemu-img", &["info", text(&path)]);
            assert!(about.contains(&format!("refcount bits: {refcount_bits}\n")), "{about}");
            qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&path), text(&raw)]);
            assert!(std::fs::read(&raw).expect("read") == model, "{refcount_bits} bits");
            // QEMU goes on with it, and we with that.
            qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 3 0 900k", text(&path)]);
            assert_same_report(&path, &run_check(&path, Repair::None));
            use_image(&path, len);
            assert_sound(&path);
        }
    }
}

#[test]
fn damaged_refcounts_of_every_width_are_repaired() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for refcount_bits in WIDTHS {
        for (what, at) in [("no counts", 0x20000), ("no block", 0x10000)] {
            let option = format!("cluster_size=64k,refcount_bits={refcount_bits}");
            let args = ["create", "-q", "-f", "qcow2", "-o", &option, text(&path), "4M"];
            qemu("qemu-img", &args);
            qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 64k 1M", text(&path)]);
            patch(&path, at, |_| 0);
            let found = run_check(&path, Repair::None);
            assert!(found.corruptions > 0, "{refcount_bits} bits, {what}");
            assert_same_report(&path, &found);
            let repaired = run_check(&path, Repair::All);
            assert!(repaired.is_clean(), "{refcount_bits} bits, {what}: {repaired:?}");
            assert_sound(&path);
            qemu("qemu-io", &["-f", "qcow2", "-c", "read -P 5 64k 1M", text(&path)]);
        }
    }
}

#[test]
fn widths_that_there_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for refcount_bits in [0, 3, 128] {
        let options = CreateOptions { refcount_bits, ..CreateOptions::new(1 << 20) };
        let wanted = CreateError::RefcountBits(refcount_bits.into());
        assert_eq!(make(&path, options), Err(wanted));
    }
    let old = CreateOptions { refcount_bits: 8, version: 2, ..CreateOptions::new(1 << 20) };
    assert!(matches!(make(&path, old), Err(CreateError::NeedsVersion3(_))));
}
