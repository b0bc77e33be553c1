//! Images that lie: nothing panics, nothing takes for ever, nothing but the image is harmed.

use std::sync::Arc;

use proptest::prelude::*;

use super::{qemu, text};
use crate::{
    BlockError, Cx, Node, Op,
    nodes::{
        file::FileNode,
        testing::{bare, close, read, write},
    },
    qcow2::{
        HeaderError, OpenError, Options,
        check::{self, Repair},
        header::Header,
        open,
    },
    ring::sim::World,
};

/// A small sound image with data, zeros, a snapshot and compressed clusters.
fn victim() -> Vec<u8> {
    victim_of("cluster_size=4k")
}

fn victim_of(options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&raw, super::golden::pattern(5, 200 << 10)).expect("write");
    let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
    qemu("qemu-img", &[&args[..], &[text(&raw), text(&path)]].concat());
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 8k 40k", text(&path)]);
    qemu("qemu-img", &["snapshot", "-c", "snap", text(&path)]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 6 16k 40k", text(&path)]);
    std::fs::read(&path).expect("read")
}

/// Where an image's tables are: start and length.
fn tables(bytes: &[u8]) -> Vec<(usize, usize)> {
    let header = Header::parse(bytes).expect("a sound image");
    let be = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let l1 = header.l1_offset as usize;
    let reftable = header.reftable_offset as usize;
    let l2 = (be(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let block = be(reftable) as usize;
    vec![
        (0, 160),
        (l1, 8 * header.l1_size as usize),
        (l2, 50 * 8),
        (reftable, 16),
        (block, 200),
        (header.snapshots_offset as usize, 80),
    ]
}

/// A simulated machine on which `task` runs to its end.
fn simulate<T: 'static, F: Future<Output = T> + 'static>(
    bytes: &[u8],
    task: impl FnOnce(Cx, Arc<dyn Node>) -> F,
) -> T {
    let world = World::new(1);
    let file = world.create_file("image", bytes, bytes.len() as u64);
    let cx = world.iothread("hostile").expect("an iothread");
    let node = FileNode::over(file, bytes.len() as u64, 1, false);
    cx.block_on(task(Cx::clone(&cx), node))
}

async fn abuse(cx: Cx, file: Arc<dyn Node>) {
    drop(check::check(&cx, &file, Repair::None).await);
    let Ok(image) = open(&cx, Arc::clone(&file), None, Options::default()).await else {
        return drop(check::check(&cx, &file, Repair::All).await);
    };
    let node: Arc<dyn Node> = image;
    let size = node.info().size.min(1 << 20);
    for at in (0..size).step_by(24 << 10) {
        let len = (10 << 10).min(size - at) as usize;
        drop(read(&cx, &node, at, len).await);
        let _ = write(&cx, &node, at, &vec![1; len]).await;
        let zero = Op::WriteZeroes { unmap: true, fua: false };
        let _ = bare(&cx, &node, zero, at, len as u64).await;
        let _ = bare(&cx, &node, Op::Discard, at, len as u64).await;
    }
    let _ = bare(&cx, &node, Op::Flush, 0, 0).await;
    let _ = Arc::clone(&node).resize(Cx::clone(&cx), size + (1 << 20)).await;
    let _ = Arc::clone(&node).close(Cx::clone(&cx)).await;
    drop(check::check(&cx, &file, Repair::All).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_tables_do_no_harm(
        extended in any::<bool>(),
        hits in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static VICTIMS: [std::sync::OnceLock<Vec<u8>>; 2] = [const { std::sync::OnceLock::new() }; 2];
        let options = ["cluster_size=4k", "cluster_size=16k,extended_l2=on"][usize::from(extended)];
        let sound = VICTIMS[usize::from(extended)].get_or_init(|| victim_of(options));
        let mut bytes = sound.clone();
        let tables = tables(sound);
        for (table, index, value, keep) in hits {
            let (start, len) = tables[table];
            let at = start + index.index(len);
            bytes[at] = if keep { bytes[at] ^ (1 << (value % 8)) } else { value };
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(sound.len()) + 1);
        }
        simulate(&bytes, abuse);
    }

    #[test]
    fn any_bytes_parse_or_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), v in 2u32..4, bits in 8u32..23) {
        drop(Header::parse(&bytes));
        bytes.resize(bytes.len().max(120), 0);
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&v.to_be_bytes());
        bytes[20..24].copy_from_slice(&bits.to_be_bytes());
        drop(Header::parse(&bytes));
        // Nothing but the tail is arbitrary: extensions and names.
        for at in [8, 24, 32, 36, 40, 48, 56, 60, 64, 72, 80, 88, 96] {
            bytes[at..at + 4].fill(0);
        }
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&(1u64 << 21).to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        drop(Header::parse(&bytes));
    }
}

#[test]
fn features_that_are_not_known_are_refused_by_name() {
    let sound = victim();
    let opened = |bytes: &[u8]| {
        simulate(bytes, |cx, file| async move {
            open(&cx, file, None, Options::default()).await.map(drop)
        })
    };
    assert_eq!(opened(&sound), Ok(()));
    let mut bytes = sound.clone();
    bytes[79] |= 4;
    assert_eq!(opened(&bytes), Err(OpenError::NoDataFile));
    let mut bytes = sound.clone();
    bytes[79] |= 16;
    let small = HeaderError::Field("extended L2 entries with clusters below 16 KiB");
    assert_eq!(opened(&bytes), Err(OpenError::Header(small)));
    let mut bytes = sound.clone();
    bytes[72] |= 0x80;
    let error = opened(&bytes).expect_err("refused").to_string();
    assert!(error.contains("unknown feature bit 63"), "{error}");
    let mut bytes = sound.clone();
    bytes[35] = 3;
    assert_eq!(opened(&bytes), Err(OpenError::Header(HeaderError::Encrypted(3))));
    let mut bytes = sound.clone();
    bytes[99] = 7;
    let width = HeaderError::Field("refcount width beyond 64 bits");
    assert_eq!(opened(&bytes), Err(OpenError::Header(width)));
    let mut bytes = sound.clone();
    bytes[79] |= 2;
    assert_eq!(opened(&bytes), Err(OpenError::Corrupt));
    assert!(matches!(opened(b"GIF89a"), Err(OpenError::Header(HeaderError::Magic(_)))));
    assert!(matches!(opened(&sound[..4096]), Err(OpenError::Truncated(_))));
}

#[test]
fn compatible_bits_are_kept_and_autoclear_bits_cleared() {
    let mut bytes = victim();
    bytes[80] |= 0x40;
    bytes[95] |= 1;
    bytes[88] |= 0x80;
    let after = simulate(&bytes, |cx, file| async move {
        let image = open(&cx, Arc::clone(&file), None, Options::default()).await.expect("open");
        let node: Arc<dyn Node> = image;
        close(&cx, &node).await;
        read(&cx, &file, 72, 24).await.expect("read")
    });
    assert_eq!(after[8], 0x40);
    // That of the bitmaps is ours to keep: without a bitmap there is nothing it could be wrong about.
    assert_eq!(after[16..24], [0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn a_write_through_a_lying_entry_is_refused_and_remembered() {
    let sound = victim();
    let tables = tables(&sound);
    let (l1, l2) = (tables[1].0 as u64, tables[2].0);
    // The first entry claims to own the L1 table's own cluster.
    let mut bytes = sound.clone();
    bytes[l2..l2 + 8].copy_from_slice(&(l1 | 1 << 63).to_be_bytes());
    let (result, again, marks) = simulate(&bytes, |cx, file| async move {
        let image = open(&cx, Arc::clone(&file), None, Options::default()).await.expect("open");
        let node: Arc<dyn Node> = image;
        read(&cx, &node, 0, 512).await.expect("reading harms nobody");
        let result = write(&cx, &node, 0, &[1; 512]).await;
        let again = write(&cx, &node, 100 << 10, &[1; 512]).await;
        close(&cx, &node).await;
        (result, again, read(&cx, &file, 79, 1).await.expect("read"))
    });
    assert_eq!(result, Err(BlockError::Corrupt));
    assert_eq!(again, Err(BlockError::Corrupt));
    assert_eq!(marks[0] & 2, 2);
}
