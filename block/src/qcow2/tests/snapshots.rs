//! Snapshots by us and by QEMU, of one another's images.

use std::{path::Path, sync::Arc};

use super::{
    assert_sound, file,
    golden::pattern,
    making::{assert_same_report, make, patch, run_check},
    open_chain, qemu, text,
};
use crate::{
    Cx, IoBuf, Node, Op,
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
fn machine_state_stays_with_its_snapshot() {
    const M: u64 = 1 << 20;
    /// Where the state of a disk of up to 512 MiB begins.
    const STATE_AT: u64 = 512 * M;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "4M"]);
    let io = |command: &str| qemu("qemu-io", &["-f", "qcow2", "-c", command, text(&path)]);
    io("write -P 1 0 256k");
    // The state, as a machine leaves it, and that it is 128 KiB long after an hour.
    io("write -b -P 9 0 128k");
    qemu("qemu-img", &["snapshot", "-c", "vm", text(&path)]);
    let bytes = std::fs::read(&path).expect("read");
    let table = u64::from_be_bytes(bytes[64..72].try_into().expect("eight bytes"));
    patch(&path, table + 24, |_| 3_600_000_000_000);
    patch(&path, table + 32, |word| word & 0xffff_ffff | (128 << 10) << 32);
    patch(&path, table + 40, |_| 128 << 10);
    assert_sound(&path);
    let at = path.clone();
    on_ring(move |cx| async move {
        let (image, file) = open_image(&cx, &at).await;
        let list = image.snapshots(&cx).await.expect("a list");
        assert_eq!((list[0].vm_state_size, list[0].vm_clock_ns), (128 << 10, 3_600_000_000_000));
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        write(&cx, &node, 0, &[2; 65536]).await.expect("write");
        image.create_snapshot(&cx, new("disk")).await.expect("create");
        image.apply_snapshot(&cx, "vm").await.expect("apply");
        // A part of what the snapshot shares, and more than there was.
        image.write_vm_state(&cx, 1000, &IoBuf::from_slice(&[7; 24])).await.expect("write");
        image.write_vm_state(&cx, 300 << 10, &IoBuf::from_slice(&[8; 512])).await.expect("write");
        let mut state = IoBuf::zeroed(128 << 10);
        image.read_vm_state(&cx, 0, &mut state).await.expect("read");
        let state = state.to_vec();
        assert!(state[1000..1024] == [7; 24] && state[..1000] == [9; 1000]);
        assert!(state[1024..].iter().all(|b| *b == 9));
        close_image(&cx, image, file).await;
    });
    io("read -b -P 8 300k 512");
    qemu("qemu-img", &["snapshot", "-a", "vm", text(&path)]);
    assert_sound(&path);
    assert_same_report(&path, &run_check(&path, Repair::None));
    io("read -b -P 9 0 128k");
    io("read -P 1 0 256k");
    let about = qemu("qemu-img", &["info", text(&path)]);
    assert!(about.contains("128 KiB") && about.contains("01:00:00.000"), "{about}");
    let at = path.clone();
    on_ring(move |cx| async move {
        let (image, file) = open_image(&cx, &at).await;
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        // The state is behind the disk, until the disk gets there.
        Arc::clone(&node).resize(cx.clone(), 2 * STATE_AT).await.expect("grow");
        let gained = read(&cx, &node, STATE_AT, 128 << 10).await.expect("read");
        assert!(gained.iter().all(|b| *b == 0), "what a disk gains is zeros");
        image.apply_snapshot(&cx, "vm").await.expect("apply");
        assert_eq!(node.info().size, 4 * M);
        image.delete_snapshot(&cx, "disk").await.expect("delete");
        close_image(&cx, image, file).await;
    });
    assert_sound(&path);
    io("read -b -P 9 0 128k");
    qemu("qemu-img", &["snapshot", "-d", "vm", text(&path)]);
    assert_sound(&path);
}

#[test]
fn a_snapshot_table_that_says_too_little_is_written_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "4M"]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 256k", text(&path)]);
    qemu("qemu-img", &["snapshot", "-c", "one", text(&path)]);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let table = u64::from_be_bytes(bytes[64..72].try_into().expect("eight bytes")) as usize;
    // As long ago: no extra data, the identifier and the name follow at once.
    let tail = bytes[table + 64..table + 68].to_vec();
    bytes[table + 36..table + 40].fill(0);
    bytes[table + 40..table + 44].copy_from_slice(&tail);
    bytes[table + 44..table + 72].fill(0);
    std::fs::write(&path, &bytes).expect("write");
    let found = run_check(&path, Repair::None);
    assert_eq!(found.messages, ["ERROR snapshot table entry 0 is incomplete"]);
    assert_same_report(&path, &found);
    let repaired = run_check(&path, Repair::All);
    assert!(repaired.is_clean() && repaired.corruptions_fixed == 1, "{repaired:?}");
    assert_eq!(repaired.messages, ["Repairing snapshot table entry 0 is incomplete"]);
    assert_sound(&path);
    let about = qemu("qemu-img", &["snapshot", "-l", text(&path)]);
    assert!(about.contains("one"), "{about}");
    qemu("qemu-img", &["snapshot", "-a", "one", text(&path)]);
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
