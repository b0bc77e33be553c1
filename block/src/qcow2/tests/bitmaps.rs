//! Bitmaps by us and by QEMU, in one another's images.

use std::{path::Path, sync::Arc};

use super::{
    assert_sound, file,
    making::{assert_same_report, make, run_check},
    qemu, text,
};
use crate::{
    Cx, Node, Op, Range,
    nodes::testing::{bare, close, on_ring, write},
    qcow2::{BitmapError, BitmapInfo, Options, Qcow2, check::Repair, create::CreateOptions, open},
};

const DISK: u64 = 8 << 20;

async fn with_image(path: &Path, cx: &Cx, f: impl AsyncFnOnce(&Cx, &Arc<Qcow2>, &Arc<dyn Node>)) {
    let file = file(path, false);
    let image = open(cx, Arc::clone(&file), None, Options::default()).await.expect("open");
    let node: Arc<dyn Node> = Arc::clone(&image) as _;
    f(cx, &image, &node).await;
    close(cx, &node).await;
    close(cx, &file).await;
}

async fn dirty(cx: &Cx, image: &Qcow2, name: &str) -> Vec<(u64, u64)> {
    let bits = image.bitmap_bits(cx, name).await.expect("bits");
    bits.dirty_ranges().iter().map(|range| (range.offset, range.end())).collect()
}

#[test]
fn what_is_written_is_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for cluster_size in [512, 4096, 65536] {
        make(&path, CreateOptions { cluster_size, ..CreateOptions::new(DISK) }).expect("create");
        let at = path.clone();
        on_ring(move |cx| async move {
            with_image(&at, &cx, async |cx, image, node| {
                image.add_bitmap(cx, "fine", Some(512), true).await.expect("add");
                image.add_bitmap(cx, "coarse", Some(1 << 20), true).await.expect("add");
                image.add_bitmap(cx, "off", None, false).await.expect("add");
                write(cx, node, 1 << 20, &[1; 1000]).await.expect("write");
                write(cx, node, (1 << 20) + 512, &[2; 512]).await.expect("write");
                bare(cx, node, Op::Discard, 3 << 20, 65536).await.expect("discard");
                let zeroes = Op::WriteZeroes { unmap: true, fua: true };
                bare(cx, node, zeroes, 6 << 20, 512).await.expect("zeroes");
            })
            .await;
        });
        assert_sound(&path);
        assert_same_report(&path, &run_check(&path, Repair::None));
        // QEMU records too, and merges what we recorded.
        qemu("qemu-io", &["-f", "qcow2", "-c", "write 2M 4k", text(&path)]);
        qemu("qemu-img", &["bitmap", "--merge", "fine", text(&path), "off"]);
        assert_sound(&path);
        let at = path.clone();
        on_ring(move |cx| async move {
            with_image(&at, &cx, async |cx, image, node| {
                const M: u64 = 1 << 20;
                let fine = [
                    (M, M + 1024),
                    (2 * M, 2 * M + 4096),
                    (3 * M, 3 * M + 65536),
                    (6 * M, 6 * M + 512),
                ];
                assert_eq!(dirty(cx, image, "fine").await, fine);
                assert_eq!(dirty(cx, image, "coarse").await, [(M, 4 * M), (6 * M, 7 * M)]);
                let off = dirty(cx, image, "off").await;
                assert!(off.len() == 4 && off[2] == fine[2], "{off:?}");
                // Of another size, and as it was.
                Arc::clone(node).resize(cx.clone(), 2 << 30).await.expect("grow");
                write(cx, node, (2 << 30) - 4096, &[1; 4096]).await.expect("write");
                assert_eq!(dirty(cx, image, "fine").await.len(), 5);
                image.shrink(cx, 3 << 20).await.expect("shrink");
                assert_eq!(dirty(cx, image, "fine").await, fine[..2]);
                image.clear_bitmap(cx, "fine").await.expect("clear");
                image.enable_bitmap(cx, "coarse", false).await.expect("disable");
                write(cx, node, 0, &[1; 512]).await.expect("write");
                assert_eq!(dirty(cx, image, "fine").await, [(0, 512)]);
                let other = image.bitmap_bits(cx, "fine").await.expect("bits");
                assert_eq!(dirty(cx, image, "coarse").await, [(M, 3 * M)]);
                image.merge_bitmap(cx, "coarse", &other).await.expect("merge");
                assert_eq!(dirty(cx, image, "coarse").await, [(0, 3 * M)]);
                image.remove_bitmap(cx, "off").await.expect("remove");
                let list = image.bitmaps(cx).await.expect("a list");
                let shown = |name: &str, granularity, enabled| BitmapInfo {
                    name: name.to_owned(),
                    granularity,
                    enabled,
                    inconsistent: false,
                };
                assert_eq!(list, [shown("fine", 512, true), shown("coarse", 1 << 20, false)]);
            })
            .await;
        });
        assert_sound(&path);
        let about = qemu("qemu-img", &["info", text(&path)]);
        assert!(about.contains("name: fine\n            granularity: 512"), "{about}");
        qemu("qemu-img", &["bitmap", "--remove", text(&path), "fine"]);
        qemu("qemu-img", &["bitmap", "--remove", text(&path), "coarse"]);
        assert_sound(&path);
    }
}

#[test]
fn a_bitmap_that_was_left_in_use_says_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "8M"]);
    qemu("qemu-img", &["bitmap", "--add", text(&path), "left"]);
    qemu("qemu-img", &["bitmap", "--add", text(&path), "good"]);
    let mut bytes = std::fs::read(&path).expect("read");
    let extension = 0x2385_2875_u32.to_be_bytes();
    let at = bytes.windows(4).position(|w| w == extension).expect("the extension");
    let directory: [u8; 8] = bytes[at + 24..at + 32].try_into().expect("eight bytes");
    bytes[u64::from_be_bytes(directory) as usize + 15] |= 1;
    std::fs::write(&path, &bytes).expect("write");
    let at = path.clone();
    on_ring(move |cx| async move {
        with_image(&at, &cx, async |cx, image, node| {
            write(cx, node, 0, &[1; 4096]).await.expect("write");
            assert_eq!(dirty(cx, image, "good").await, [(0, 65536)]);
            let left = || "left".to_owned();
            let bits = image.bitmap_bits(cx, "left").await.map(drop);
            assert_eq!(bits, Err(BitmapError::Inconsistent(left())));
            let cleared = image.clear_bitmap(cx, "left").await;
            assert_eq!(cleared, Err(BitmapError::Inconsistent(left())));
            image.clear_bitmap(cx, "good").await.expect("clear");
            let list = image.bitmaps(cx).await.expect("a list");
            assert!(list[0].inconsistent && !list[1].inconsistent, "{list:?}");
        })
        .await;
    });
    assert_sound(&path);
    let about = qemu("qemu-img", &["info", text(&path)]);
    assert!(about.contains("[0]: in-use"), "{about}");
    let at = path.clone();
    on_ring(move |cx| async move {
        with_image(&at, &cx, async |cx, image, _| {
            image.remove_bitmap(cx, "left").await.expect("remove");
            let again = image.remove_bitmap(cx, "left").await;
            assert_eq!(again, Err(BitmapError::Missing("left".to_owned())));
            let exists = image.add_bitmap(cx, "good", None, true).await;
            assert_eq!(exists, Err(BitmapError::Exists("good".to_owned())));
            for granularity in [256, 3000, 1 << 32] {
                let coarse = image.add_bitmap(cx, "x", Some(granularity), true).await;
                assert_eq!(coarse, Err(BitmapError::Granularity));
            }
        })
        .await;
    });
    assert_sound(&path);
}

#[test]
fn a_write_to_dirty_granules_costs_nothing_more() {
    use crate::{Map, OpKind};
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    make(&path, CreateOptions::new(DISK)).expect("create");
    on_ring(move |cx| async move {
        with_image(&path, &cx, async |cx, image, node| {
            write(cx, node, 0, &[1; 128 << 10]).await.expect("write");
            image.add_bitmap(cx, "b", Some(65536), true).await.expect("add");
            write(cx, node, 0, &[2; 4096]).await.expect("write");
            let leaf = |at| {
                let map = node.map(cx.lane(), OpKind::Write, Range::new(at, 4096));
                matches!(map, Map::Leaf { .. })
            };
            assert!(leaf(0) && leaf(60 << 10), "they are dirty already");
            assert!(!leaf(64 << 10), "it is clean");
        })
        .await;
    });
}

/// The figures of docs/adr/0011.
#[test]
fn what_recording_costs() {
    use crate::{
        conformance::Stage,
        nodes::file::FileNode,
        ring::{FileOp, sim::World},
    };
    use std::{cell::Cell, rc::Rc};
    let world = World::new(1);
    let stage = Stage::sim(&world, 1).expect("an iothread");
    let file: Arc<dyn Node> = FileNode::over(world.create_file("image", &[], 0), 0, 1, false);
    let image = stage
        .run(move |cx| async move {
            let options = CreateOptions::new(DISK);
            crate::qcow2::create::create(&cx, &file, &options).await.expect("create");
            let image = open(&cx, file, None, Options::default()).await.expect("open");
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            write(&cx, &node, 0, &vec![1; DISK as usize]).await.expect("write");
            image.add_bitmap(&cx, "b", Some(65536), true).await.expect("add");
            // The cluster of the bits is there.
            write(&cx, &node, 0, &[2; 4096]).await.expect("write");
            bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
            image
        })
        .expect("it ends");
    let counts = Rc::new(Cell::new((0u32, 0u32)));
    let seen = Rc::clone(&counts);
    world.observe(move |_, event| {
        let (writes, syncs) = seen.get();
        if event.completed {
            match event.op {
                FileOp::Write { .. } => seen.set((writes + 1, syncs)),
                FileOp::Sync => seen.set((writes, syncs + 1)),
                _ => {}
            }
        }
    });
    let node: Arc<dyn Node> = image as _;
    for (at, wanted) in [(65536, (2, 1)), (65536, (1, 0)), (65536 + 4096, (1, 0))] {
        counts.set((0, 0));
        let node = Arc::clone(&node);
        stage
            .run(move |cx| async move { write(&cx, &node, at, &[3; 4096]).await })
            .expect("it ends")
            .expect("write");
        assert_eq!(counts.get(), wanted, "a write at {at}");
    }
    world.observe(|_, _| ());
}
