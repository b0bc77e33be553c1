//! What takes data away on somebody's word: shrinking and emptying.

use std::{rc::Rc, sync::Arc};

use super::file;
use crate::{
    BlockError, Node,
    nodes::{
        file::{FileNode, FileOptions},
        testing::{close, on_ring, read, write},
    },
    qcow2::{
        check::{Repair, check},
        create::{CreateOptions, create},
        open,
    },
};

#[test]
fn a_shrunken_disk_gives_its_space_back_and_grows_with_zeros() {
    let temp = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = temp.path().to_path_buf();
    on_ring(async move |cx| {
        let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
        create(&cx, &file, &CreateOptions::new(1 << 20)).await.expect("create");
        let image = open(&cx, Arc::clone(&file), None, Default::default()).await.expect("open");
        let node: Arc<dyn Node> = Arc::clone(&image) as _;
        write(&cx, &node, 0, &[7; 1 << 20]).await.expect("write");
        assert_eq!(image.shrink(&cx, 2 << 20).await, Err(BlockError::OutOfRange));
        assert_eq!(image.shrink(&cx, 100).await, Err(BlockError::Misaligned));
        image.shrink(&cx, 66048).await.expect("shrink");
        assert_eq!(node.info().size, 66048);
        Arc::clone(&node).resize(Rc::clone(&cx), 1 << 20).await.expect("grow");
        let bytes = read(&cx, &node, 0, 1 << 20).await.expect("read");
        assert!(bytes[..66048].iter().all(|b| *b == 7));
        assert!(bytes[66048..].iter().all(|b| *b == 0));
        close(&cx, &node).await;
        let found = check(&cx, &file, Repair::None).await.expect("check");
        assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
        assert_eq!(found.allocated_clusters, 2);
        close(&cx, &file).await;
    });
}

#[test]
fn an_emptied_image_reads_as_its_backing_file() {
    for version in [2, 3] {
        let dir = tempfile::tempdir().expect("a directory");
        let (base, top) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"));
        std::fs::write(&base, vec![5; 1 << 20]).expect("write");
        std::fs::write(&top, []).expect("write");
        on_ring(async move |cx| {
            let top = file(&top, false);
            let backing = Some((base.to_string_lossy().into_owned(), "raw".to_owned()));
            let options = CreateOptions { backing, version, ..CreateOptions::new(1 << 20) };
            create(&cx, &top, &options).await.expect("create");
            let below = file(&base, true);
            let image = open(&cx, Arc::clone(&top), Some(Arc::clone(&below)), Default::default());
            let image = image.await.expect("open");
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            write(&cx, &node, 1000, &[7; 300_000]).await.expect("write");
            write(&cx, &node, (1 << 20) - 512, &[8; 512]).await.expect("write");
            image.make_empty(&cx).await.expect("empty");
            assert_eq!(read(&cx, &node, 0, 1 << 20).await, Ok(vec![5; 1 << 20]));
            close(&cx, &node).await;
            let found = check(&cx, &top, Repair::None).await.expect("check");
            assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
            assert_eq!(found.allocated_clusters, 0);
            close(&cx, &top).await;
            close(&cx, &below).await;
        });
    }
}
