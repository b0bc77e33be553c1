//! Snapshots by us and by QEMU, of one another's images.

use std::{path::Path, sync::Arc};

use super::{
    assert_sound, file,
    golden::pattern,
    making::{assert_same_report, make, run_check},
    open_chain, qemu, text,
};
use crate::{
    Cx, Node, Op,
    nodes::testing::{bare, close, on_ring, read, write},
    qcow2::{
        NewSnapshot, Options, Qcow2, SnapshotError, check::Repair, create::CreateOptions, info,
        open, open_snapshot,
    },
};

const DISK: usize = 2 << 20;

async fn open_image(cx: &Cx, path: &Path) -> (Arc<Qcow2>, Arc<dyn Node>) {
    let file = file(path, false);
    let image = open(cx, Arc::clone(&file), None, Options::default()).await.expect("open");
    (image, file)
}

async fn close_image(cx: &Cx, image: Arc<Qcow2>, file: Arc<dyn Node>) {
    close(cx, &(image as Arc<dyn Node>)).await;
    close(cx, &file).await;
}

fn new(name: &str) -> NewSnapshot {
    let name = name.to_owned();
    NewSnapshot { name, date_s: 1_700_000_000, ..NewSnapshot::default() }
}

/// What QEMU reads: the disk, or a snapshot.
fn by_qemu(path: &Path, snapshot: Option<&str>) -> Vec<u8> {
    let back = path.with_extension("raw");
    let mut args = vec!["convert", "-f", "qcow2", "-O", "raw"];
    args.extend(snapshot.into_iter().flat_map(|name| ["-l", name]));
    args.extend([text(path), text(&back)]);
    qemu("qemu-img", &args);
    std::fs::read(back).expect("read")
}

/// What we read of a snapshot.
fn by_us(path: &Path, name: &str) -> Vec<u8> {
    let file = file(path, true);
    let name = name.to_owned();
    on_ring(move |cx| async move {
        let about = info::info(&cx, &file).await.expect("info");
        let one = about.snapshots.iter().find(|s| s.name == name).expect("a snapshot");
        let options = Options::default();
        let disk = open_snapshot(&cx, Arc::clone(&file), None, options, one).await.expect("open");
        let disk: Arc<dyn Node> = disk;
        let bytes = read(&cx, &disk, 0, disk.info().size as usize).await.expect("read");
        close(&cx, &disk).await;
        close(&cx, &file).await;
        bytes
    })
}

/// Random writes to a disk and its model.
async fn scribble(cx: &Cx, node: &Arc<dyn Node>, model: &mut [u8], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for n in 0..40u8 {
        let at = rng.usize(0..DISK / 512 - 100) * 512;
        let len = rng.usize(1..100) * 512;
        if rng.u8(0..5) == 0 {
            let op = Op::WriteZeroes { unmap: rng.bool(), fua: false };
            bare(cx, node, op, at as u64, len as u64).await.expect("zeroes");
            model[at..at + len].fill(0);
        } else {
            let data = vec![n ^ seed as u8; len];
            write(cx, node, at as u64, &data).await.expect("write");
            model[at..at + len].copy_from_slice(&data);
        }
    }
}

#[test]
fn snapshots_hold_what_the_disk_held() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for (cluster_size, version, refcount_bits) in
        [(512, 3, 16), (4096, 2, 16), (65536, 3, 4), (65536, 3, 64)]
    {
        let options = CreateOptions {
            cluster_size,
            version,
            refcount_bits,
            ..CreateOptions::new(DISK as u64)
        };
        make(&path, options).expect("create");
        let at = path.clone();
        let [first, second, third] = on_ring(move |cx| async move {
            let (image, file) = open_image(&cx, &at).await;
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            let mut model = vec![0; DISK];
            scribble(&cx, &node, &mut model, 1).await;
            let first = model.clone();
            assert_eq!(image.create_snapshot(&cx, new("one")).await.as_deref(), Ok("1"));
            scribble(&cx, &node, &mut model, 2).await;
            let second = model.clone();
            assert_eq!(image.create_snapshot(&cx, new("two")).await.as_deref(), Ok("2"));
            scribble(&cx, &node, &mut model, 3).await;
            assert!(read(&cx, &node, 0, DISK).await.expect("read") == model);
            image.apply_snapshot(&cx, "one").await.expect("apply");
            assert!(read(&cx, &node, 0, DISK).await.expect("read") == first);
            let mut model = first.clone();
            scribble(&cx, &node, &mut model, 4).await;
            let missing = image.delete_snapshot(&cx, "three").await;
            assert_eq!(missing, Err(SnapshotError::Missing));
            close_image(&cx, image, file).await;
            [first, second, model]
        });
        assert_sound(&path);
        assert_same_report(&path, &run_check(&path, Repair::None));
        let wanted = [(Some("one"), &first), (Some("two"), &second), (None, &third)];
        for (name, wanted) in wanted {
            assert!(by_qemu(&path, name) == *wanted, "{cluster_size}: {name:?}");
        }
        assert!(by_us(&path, "one") == first && by_us(&path, "two") == second);
        // QEMU deletes one of ours, goes back to the other, and takes one for us to delete.
        qemu("qemu-img", &["snapshot", "-d", "one", text(&path)]);
        qemu("qemu-img", &["snapshot", "-a", "two", text(&path)]);
        qemu("qemu-img", &["snapshot", "-c", "theirs", text(&path)]);
        let at = path.clone();
        on_ring(move |cx| async move {
            let (image, file) = open_image(&cx, &at).await;
            image.delete_snapshot(&cx, "theirs").await.expect("delete");
            let list = image.snapshots(&cx).await.expect("a list");
            assert_eq!(list.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["two"]);
            image.delete_snapshot(&cx, "2").await.expect("delete by its identifier");
            assert_eq!(image.snapshots(&cx).await.expect("a list"), []);
            close_image(&cx, image, file).await;
        });
        assert_sound(&path);
        assert!(by_qemu(&path, None) == second, "{cluster_size}: the disk");
    }
}

#[test]
fn compressed_clusters_and_disks_that_change_their_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
    let bytes = pattern(5, DISK);
    std::fs::write(&raw, &bytes).expect("write");
    qemu("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)]);
    let at = path.clone();
    let wanted = bytes.clone();
    on_ring(move |cx| async move {
        let (image, file) = open_image(&cx, &at).await;
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        image.create_snapshot(&cx, new("small")).await.expect("create");
        Arc::clone(&node).resize(cx.clone(), 3 << 30).await.expect("grow");
        write(&cx, &node, (3 << 30) - 512, &[7; 512]).await.expect("write");
        image.create_snapshot(&cx, new("large")).await.expect("create");
        image.apply_snapshot(&cx, "small").await.expect("apply");
        assert_eq!(node.info().size, DISK as u64);
        assert!(read(&cx, &node, 0, DISK).await.expect("read") == wanted);
        write(&cx, &node, 0, &[1; 4096]).await.expect("write");
        image.apply_snapshot(&cx, "large").await.expect("apply");
        assert_eq!(node.info().size, 3 << 30);
        assert_eq!(read(&cx, &node, (3 << 30) - 512, 512).await, Ok(vec![7; 512]));
        assert!(read(&cx, &node, 0, DISK).await.expect("read") == wanted);
        image.shrink(&cx, 1 << 20).await.expect("shrink");
        close_image(&cx, image, file).await;
    });
    assert_sound(&path);
    // QEMU reads as much of a snapshot as the disk is long now.
    assert!(by_qemu(&path, Some("small")) == bytes[..1 << 20]);
    assert!(by_us(&path, "small") == bytes);
    qemu("qemu-img", &["snapshot", "-d", "large", text(&path)]);
    assert_sound(&path);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    let options = CreateOptions { refcount_bits: 1, ..CreateOptions::new(DISK as u64) };
    make(&path, options).expect("create");
    let at = path.clone();
    on_ring(move |cx| async move {
        let (image, file) = open_image(&cx, &at).await;
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        write(&cx, &node, 0, &[1; 4096]).await.expect("write");
        let narrow = image.create_snapshot(&cx, new("one")).await;
        assert_eq!(narrow, Err(SnapshotError::RefcountWidth));
        assert_eq!(image.snapshots(&cx).await.expect("a list"), []);
        write(&cx, &node, 4096, &[2; 4096]).await.expect("write");
        close_image(&cx, image, file).await;
    });
    assert_sound(&path);
    // Version 2: the size of a disk with snapshots stays.
    make(&path, CreateOptions { version: 2, ..CreateOptions::new(DISK as u64) }).expect("create");
    let paths = vec![path.clone()];
    qemu("qemu-img", &["snapshot", "-c", "one", text(&path)]);
    on_ring(move |cx| async move {
        let node = open_chain(&cx, &paths, false, Options::default()).await.expect("open");
        let grown = Arc::clone(&node).resize(cx.clone(), 4 << 20).await;
        assert_eq!(grown, Err(crate::BlockError::Unsupported));
        close(&cx, &node).await;
    });
    assert_sound(&path);
}
