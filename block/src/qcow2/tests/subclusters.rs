//! Clusters that are made of subclusters: only what a request touches gets a place.

use std::{path::Path, sync::Arc};

use super::{
    assert_sound, file,
    golden::pattern,
    making::{assert_same_report, make, patch, run_check},
    qemu, text,
};
use crate::{
    Cx, ExtentKind, Node, Op, Range,
    nodes::testing::{bare, close, on_ring, read, write},
    qcow2::{
        NewSnapshot, Options, Qcow2,
        check::Repair,
        create::{CreateError, CreateOptions, Preallocation},
        open,
    },
};

const DISK: u64 = 2 << 20;
/// Bytes of a cluster, and of a subcluster.
const CLUSTER: u64 = 64 << 10;
const SUB: u64 = CLUSTER / 32;

fn options() -> CreateOptions {
    CreateOptions { extended_l2: true, ..CreateOptions::new(DISK) }
}

async fn with_image(
    path: &Path,
    backing: Option<&Path>,
    cx: &Cx,
    f: impl AsyncFnOnce(&Cx, &Arc<Qcow2>, &Arc<dyn Node>),
) {
    let below = backing.map(|path| file(path, true));
    let file = file(path, false);
    let image = open(cx, Arc::clone(&file), below, Options::default()).await.expect("open");
    let node: Arc<dyn Node> = Arc::clone(&image) as _;
    f(cx, &image, &node).await;
    close(cx, &node).await;
    close(cx, &file).await;
}

/// What the disk is made of: length and kind.
async fn extents(cx: &Cx, node: &Arc<dyn Node>, range: Range) -> Vec<(u64, ExtentKind)> {
    let mut found: Vec<(u64, ExtentKind)> = Vec::new();
    let mut at = range.offset;
    while at < range.end() {
        let rest = Range::new(at, range.end() - at);
        let one = Arc::clone(node).extent(cx.clone(), rest).await.expect("an extent");
        match found.last_mut() {
            Some((len, kind)) if *kind == one.kind => *len += one.len,
            _ => found.push((one.len, one.kind)),
        }
        at += one.len;
    }
    found
}

/// What the first entry of the first L2 table of a new image says.
fn first_entry(path: &Path) -> (u64, u64) {
    let bytes = std::fs::read(path).expect("read");
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let l2 = (word(word(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
    (word(l2), word(l2 + 8))
}

#[test]
fn a_write_gives_a_place_to_what_it_touches_alone() {
    use ExtentKind::{Data, Unallocated, Zero};
    let dir = tempfile::tempdir().expect("a directory");
    let (path, base) = (dir.path().join("image"), dir.path().join("base"));
    let below = pattern(3, DISK as usize);
    std::fs::write(&base, &below).expect("write");
    let backing = Some((text(&base).to_owned(), "raw".to_owned()));
    make(&path, CreateOptions { backing, ..options() }).expect("create");
    let (at, under, mut model) = (path.clone(), base.clone(), below.clone());
    on_ring(move |cx| async move {
        with_image(&at, Some(&under), &cx, async |cx, _, node| {
            // Across the border of two subclusters, in parts of both.
            write(cx, node, 3 * SUB + 512, &[7; SUB as usize]).await.expect("write");
            model[(3 * SUB + 512) as usize..(4 * SUB + 512) as usize].fill(7);
            let zeroes = Op::WriteZeroes { unmap: true, fua: false };
            bare(cx, node, zeroes, 8 * SUB, 2 * SUB).await.expect("zeroes");
            model[(8 * SUB) as usize..(10 * SUB) as usize].fill(0);
            assert!(read(cx, node, 0, DISK as usize).await.expect("read") == model);
            let cluster = Range::new(0, CLUSTER);
            let zero = Zero { allocated: true };
            let wanted = [
                (3 * SUB, Unallocated),
                (2 * SUB, Data),
                (3 * SUB, Unallocated),
                (2 * SUB, zero),
                (22 * SUB, Unallocated),
            ];
            assert_eq!(extents(cx, node, cluster).await, wanted);
            // Into zeros, and over what is there.
            write(cx, node, 4 * SUB, &[9; 5 * SUB as usize - 512]).await.expect("write");
            model[(4 * SUB) as usize..(9 * SUB - 512) as usize].fill(9);
            let wanted = [(3 * SUB, Unallocated), (6 * SUB, Data), (SUB, zero)];
            assert_eq!(extents(cx, node, Range::new(0, 10 * SUB)).await, wanted);
            // A discard of some, and of a whole cluster that nobody wrote to.
            bare(cx, node, Op::Discard, 4 * SUB, SUB).await.expect("discard");
            model[(4 * SUB) as usize..(5 * SUB) as usize].fill(0);
            let wanted = [(3 * SUB, Unallocated), (SUB, Data), (SUB, zero), (4 * SUB, Data)];
            assert_eq!(extents(cx, node, Range::new(0, 9 * SUB)).await, wanted);
            bare(cx, node, zeroes, CLUSTER - SUB, CLUSTER + 2 * SUB).await.expect("zeroes");
            model[(CLUSTER - SUB) as usize..(2 * CLUSTER + SUB) as usize].fill(0);
            assert!(read(cx, node, 0, DISK as usize).await.expect("read") == model);
        })
        .await;
    });
    assert_sound(&path);
    let (word, subs) = first_entry(&path);
    assert_eq!(word >> 63, 1, "{word:#x}");
    assert_eq!(subs, 1 << 63 | 1 << 41 | 1 << 36 | 0b1_1110_1000, "{subs:#x}");
    assert_same_report(&path, &run_check(&path, Repair::None));
    // QEMU reads the same, writes, and we read that.
    qemu(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 5 5k 3k", "-c", "discard 64k 64k", text(&path)],
    );
    let raw = dir.path().join("raw");
    qemu("qemu-img", &["convert", "-O", "raw", text(&path), text(&raw)]);
    let theirs = std::fs::read(&raw).expect("read");
    assert!(theirs[5 << 10..8 << 10].iter().all(|b| *b == 5));
    assert!(theirs[2 * CLUSTER as usize + SUB as usize..] == below[(2 * CLUSTER + SUB) as usize..]);
    on_ring(move |cx| async move {
        with_image(&path, Some(&base), &cx, async |cx, _, node| {
            assert!(read(cx, node, 0, DISK as usize).await.expect("read") == theirs);
        })
        .await;
    });
}

#[test]
fn what_a_snapshot_shares_moves_as_far_as_it_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    make(&path, options()).expect("create");
    let at = path.clone();
    let (before, after) = on_ring(move |cx| async move {
        let mut model = vec![0; DISK as usize];
        let put = |model: &mut [u8], at: u64, len: u64, value: u8| {
            model[at as usize..(at + len) as usize].fill(value);
        };
        let mut before = Vec::new();
        with_image(&at, None, &cx, async |cx, image, node| {
            write(cx, node, SUB, &[1; 2 * SUB as usize]).await.expect("write");
            put(&mut model, SUB, 2 * SUB, 1);
            write(cx, node, 20 * SUB, &[2; SUB as usize]).await.expect("write");
            put(&mut model, 20 * SUB, SUB, 2);
            let new = NewSnapshot { name: "one".to_owned(), ..NewSnapshot::default() };
            image.create_snapshot(cx, new).await.expect("a snapshot");
            before = model.clone();
            write(cx, node, 2 * SUB + 512, &[3; 512]).await.expect("write");
            put(&mut model, 2 * SUB + 512, 512, 3);
            let wanted = [
                (SUB, ExtentKind::Unallocated),
                (2 * SUB, ExtentKind::Data),
                (17 * SUB, ExtentKind::Unallocated),
                (SUB, ExtentKind::Data),
                (11 * SUB, ExtentKind::Unallocated),
            ];
            assert_eq!(extents(cx, node, Range::new(0, CLUSTER)).await, wanted);
            let zeroes = Op::WriteZeroes { unmap: true, fua: false };
            bare(cx, node, zeroes, SUB, SUB).await.expect("zeroes");
            put(&mut model, SUB, SUB, 0);
            assert!(read(cx, node, 0, DISK as usize).await.expect("read") == model);
        })
        .await;
        (before, model)
    });
    assert_sound(&path);
    let raw = dir.path().join("raw");
    qemu("qemu-img", &["convert", "-O", "raw", text(&path), text(&raw)]);
    assert!(std::fs::read(&raw).expect("read") == after);
    qemu("qemu-img", &["convert", "-l", "one", "-O", "raw", text(&path), text(&raw)]);
    assert!(std::fs::read(&raw).expect("read") == before);
    qemu("qemu-img", &["snapshot", "-a", "one", text(&path)]);
    on_ring({
        let path = path.clone();
        move |cx| async move {
            with_image(&path, None, &cx, async |cx, image, node| {
                assert!(read(cx, node, 0, DISK as usize).await.expect("read") == before);
                image.delete_snapshot(cx, "one").await.expect("delete");
                write(cx, node, 0, &[5; 512]).await.expect("write");
            })
            .await;
        }
    });
    assert_sound(&path);
}

#[test]
fn preallocated_images_have_places_and_over_a_backing_file_no_contents() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, base) = (dir.path().join("image"), dir.path().join("base"));
    let below = pattern(3, DISK as usize);
    std::fs::write(&base, &below).expect("write");
    let preallocation = Preallocation::Metadata;
    make(&path, CreateOptions { preallocation, ..options() }).expect("create");
    assert_sound(&path);
    assert_eq!(first_entry(&path).1, u64::from(u32::MAX));
    let backing = Some((text(&base).to_owned(), "raw".to_owned()));
    make(&path, CreateOptions { preallocation, backing: backing.clone(), ..options() })
        .expect("create");
    assert_sound(&path);
    let (word, subs) = first_entry(&path);
    assert!(word >> 63 == 1 && subs == 0, "{word:#x} {subs:#x}");
    let raw = dir.path().join("raw");
    qemu("qemu-img", &["convert", "-O", "raw", text(&path), text(&raw)]);
    assert!(std::fs::read(&raw).expect("read") == below);
    let refused = |options| make(&path, options).expect_err("refused");
    let small = CreateOptions { cluster_size: 8192, ..options() };
    assert_eq!(refused(small), CreateError::ExtendedClusterSize);
    assert_eq!(refused(CreateOptions { version: 2, ..options() }), CreateError::ExtendedVersion);
    let standard = CreateOptions { preallocation, backing, ..CreateOptions::new(DISK) };
    assert_eq!(refused(standard), CreateError::PreallocatedBacking);
}

#[test]
fn impossible_bitmaps_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for (at, bit, cluster, message) in [
        (8, 1 << 32, 0, "Allocated cluster has corrupted subcluster allocation bitmap"),
        (24, 1, CLUSTER, "Unallocated cluster has non-zero subcluster allocation map"),
    ] {
        let args = ["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", text(&path), "1M"];
        qemu("qemu-img", &args);
        qemu("qemu-io", &["-f", "qcow2", "-c", "write 0 64k", text(&path)]);
        patch(&path, 0x40000 + at, |word| word | bit);
        let found = run_check(&path, Repair::None);
        assert_eq!((found.corruptions, found.leaks), (1, 0), "{found:?}");
        assert!(found.messages[0].ends_with(message), "{:?}", found.messages);
        assert_same_report(&path, &found);
        let at = path.clone();
        on_ring(move |cx| async move {
            with_image(&at, None, &cx, async |cx, _, node| {
                read(cx, node, cluster, 512).await.expect_err("damaged");
                write(cx, node, cluster, &[0; 512]).await.expect_err("damaged");
            })
            .await;
        });
    }
}
