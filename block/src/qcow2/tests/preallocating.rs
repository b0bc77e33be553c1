//! Clusters that get their place before anything is written to them.

use std::{path::Path, sync::Arc};

use super::{assert_sound, file};
use crate::{
    Io, IoBuf, Node, Op, Range,
    nodes::testing::{close, on_ring, read, write},
    qcow2::{
        check::{Repair, check},
        create::{CreateOptions, create},
        open,
    },
    submit::node_io,
};

const SIZE: u64 = 1 << 20;

/// Fills what was freed, holes by now, as a file system without holes would have left it.
fn leave_old_data(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let mut filled = 0;
    for cluster in bytes.chunks_mut(65536).filter(|cluster| cluster.iter().all(|byte| *byte == 0)) {
        cluster.fill(0xee);
        filled += 1;
    }
    assert!(filled >= 8, "{filled} free clusters");
    std::fs::write(path, bytes).expect("write");
}

/// What was freed holds old data: its next owner must not show them. What a backing file has, and what was
/// written before, stays.
#[test]
fn a_place_that_was_had_before_shows_no_old_data() {
    for (version, extended_l2) in [(2, false), (3, false), (3, true)] {
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let file = file(&path, false);
            let options = CreateOptions { version, extended_l2, ..CreateOptions::new(SIZE) };
            create(&cx, &file, &options).await.expect("create");
            let image = open(&cx, Arc::clone(&file), None, Default::default()).await.expect("open");
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            write(&cx, &node, 0, &[7; SIZE as usize]).await.expect("write");
            let discard =
                Io { op: Op::Discard, range: Range::new(65536, SIZE / 2), buf: IoBuf::empty() };
            node_io(&cx, &node, discard).await.1.expect("discard");
            close(&cx, &node).await;
            close(&cx, &file).await;
        });
        leave_old_data(temp.path());
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let file = file(&path, false);
            let image = open(&cx, Arc::clone(&file), None, Default::default()).await.expect("open");
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            image.preallocate(&cx, Range::new(0, SIZE)).await.expect("preallocate");
            let bytes = read(&cx, &node, 0, SIZE as usize).await.expect("read");
            let wanted =
                |at: usize| if (65536..65536 + SIZE as usize / 2).contains(&at) { 0 } else { 7 };
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == wanted(at)));
            close(&cx, &node).await;
            let found = check(&cx, &file, Repair::None).await.expect("check");
            assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
            assert_eq!(found.allocated_clusters, SIZE >> 16);
            close(&cx, &file).await;
        });
        assert_sound(temp.path());
    }
}

#[test]
fn a_backing_file_is_not_hidden() {
    let dir = tempfile::tempdir().expect("a directory");
    let (base, top) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"));
    std::fs::write(&base, vec![5; SIZE as usize / 2]).expect("write");
    std::fs::write(&top, []).expect("write");
    let checked = top.clone();
    on_ring(async move |cx| {
        let top = file(&top, false);
        let backing = Some((base.to_string_lossy().into_owned(), "raw".to_owned()));
        let options = CreateOptions { backing, ..CreateOptions::new(SIZE) };
        create(&cx, &top, &options).await.expect("create");
        let below = file(&base, true);
        let image = open(&cx, Arc::clone(&top), Some(Arc::clone(&below)), Default::default());
        let image = image.await.expect("open");
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        image.preallocate(&cx, Range::new(0, SIZE)).await.expect("preallocate");
        let half = SIZE as usize / 2;
        assert_eq!(read(&cx, &node, 0, half).await, Ok(vec![5; half]));
        assert_eq!(read(&cx, &node, SIZE / 2, half).await, Ok(vec![0; half]));
        write(&cx, &node, SIZE - 512, &[9; 512]).await.expect("write");
        close(&cx, &node).await;
        let found = check(&cx, &top, Repair::None).await.expect("check");
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
        assert_eq!(found.allocated_clusters, (SIZE / 2) >> 16);
        close(&cx, &top).await;
        close(&cx, &below).await;
    });
    assert_sound(&checked);
}

/// A cluster whose first subcluster is zeros and whose others are the backing file's.
#[test]
fn subclusters_of_a_backing_file_are_not_hidden() {
    let dir = tempfile::tempdir().expect("a directory");
    let (base, top) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"));
    std::fs::write(&base, vec![5; SIZE as usize]).expect("write");
    std::fs::write(&top, []).expect("write");
    on_ring(async move |cx| {
        let top = file(&top, false);
        let backing = Some((base.to_string_lossy().into_owned(), "raw".to_owned()));
        let options = CreateOptions { backing, extended_l2: true, ..CreateOptions::new(SIZE) };
        create(&cx, &top, &options).await.expect("create");
        let below = file(&base, true);
        let image = open(&cx, Arc::clone(&top), Some(Arc::clone(&below)), Default::default());
        let image = image.await.expect("open");
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        let op = Op::WriteZeroes { unmap: true, fua: false };
        let zeros = Io { op, range: Range::new(0, 2048), buf: IoBuf::empty() };
        node_io(&cx, &node, zeros).await.1.expect("write zeroes");
        image.preallocate(&cx, Range::new(0, SIZE)).await.expect("preallocate");
        let bytes = read(&cx, &node, 0, 65536).await.expect("read");
        assert!(bytes[..2048].iter().all(|byte| *byte == 0));
        assert!(bytes[2048..].iter().all(|byte| *byte == 5));
        close(&cx, &node).await;
        close(&cx, &top).await;
        close(&cx, &below).await;
    });
}
