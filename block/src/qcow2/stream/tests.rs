use std::{io::Cursor, sync::Arc};

use super::*;
use crate::{
    Node,
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

/// What a streamed image has in a guest cluster.
fn content(guest: u64, len: u64) -> Vec<u8> {
    (0..len).map(|n| (guest * 31 + n / 7) as u8 | 1).collect()
}

fn stream(options: &CreateOptions, runs: Vec<std::ops::Range<u64>>) -> Vec<u8> {
    let plan = StreamPlan::new(options, runs).expect("a plan");
    let mut out = Vec::new();
    let mut keep = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    plan.metadata(&mut keep).expect("metadata");
    for guest in plan.runs().iter().cloned().flatten() {
        out.extend(content(guest, plan.cluster_size()));
    }
    assert_eq!(out.len() as u64, plan.file_size());
    out
}

fn random_runs(random: &mut fastrand::Rng, clusters: u64) -> Vec<std::ops::Range<u64>> {
    let mut runs = Vec::new();
    let mut at = random.u64(..3);
    while at < clusters {
        let end = clusters.min(at + random.u64(1..40));
        runs.push(at..end);
        at = end + random.u64(1..300);
    }
    runs
}

#[test]
fn what_is_written_is_an_image_and_can_be_read_as_a_stream() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let shapes = [
        (512, 16, false),
        (4096, 1, false),
        (65536, 16, false),
        (4096, 64, false),
        (16384, 16, true),
    ];
    for (cluster_size, refcount_bits, extended_l2) in shapes {
        let size = cluster_size * random.u64(1..3000) - random.u64(..cluster_size / 512) * 512;
        let options =
            CreateOptions { cluster_size, refcount_bits, extended_l2, ..CreateOptions::new(size) };
        let clusters = size.div_ceil(cluster_size);
        let runs = random_runs(&mut random, clusters);
        let bytes = stream(&options, runs.clone());
        let mut reader = StreamReader::open(Cursor::new(&bytes)).expect("a stream");
        assert_eq!(reader.size(), size);
        let mut disk = vec![0; size as usize];
        while let Some(piece) = reader.next_piece().expect("a piece") {
            let at = piece.offset as usize;
            disk[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        for guest in 0..clusters {
            let at = guest * cluster_size;
            let len = cluster_size.min(size - at);
            let data = runs.iter().any(|run| run.contains(&guest));
            let wanted = if data { content(guest, cluster_size) } else { vec![0; len as usize] };
            assert!(disk[at as usize..][..len as usize] == wanted[..len as usize], "{guest}");
        }
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(temp.path(), &bytes).expect("write");
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
            let found = check(&cx, &file, Repair::None).await.expect("check");
            assert!(found.is_clean(), "{:?}", found.messages);
            let image: Arc<dyn Node> =
                open(&cx, Arc::clone(&file), None, Default::default()).await.expect("open");
            assert!(read(&cx, &image, 0, disk.len()).await.expect("read") == disk);
            close(&cx, &image).await;
            close(&cx, &file).await;
        });
    }
}

#[test]
fn a_stream_that_is_cut_short_is_noticed_wherever() {
    let options = CreateOptions { cluster_size: 512, ..CreateOptions::new(40 * 512 - 100) };
    let bytes = stream(&options, vec![1..3, 30..40]);
    let read = |bytes: &[u8]| {
        let mut reader = StreamReader::open(Cursor::new(bytes))?;
        while reader.next_piece()?.is_some() {}
        Ok(())
    };
    // What lies behind the end of the disk may be missing: 40 * 512 - 100 is rounded up to sectors.
    assert!(read(&bytes).is_ok());
    for len in 0..bytes.len() {
        let result: Result<(), StreamError> = read(&bytes[..len]);
        assert!(matches!(result, Err(StreamError::Short)), "{len} of {}: {result:?}", bytes.len());
    }
}

#[test]
fn other_images_are_refused_with_one_sentence() {
    let temp = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = temp.path().to_path_buf();
    on_ring(async move |cx| {
        let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
        let options = CreateOptions::new(2 << 30);
        create(&cx, &file, &options).await.expect("create");
        let image: Arc<dyn Node> =
            open(&cx, Arc::clone(&file), None, Default::default()).await.expect("open");
        // The table of the second write lies behind the data of the first, which it does not map;
        // the third is mapped by a table that lies behind it once the refcounts are written.
        for at in [0, 1 << 30, 65536] {
            write(&cx, &image, at, &vec![7; 65536]).await.expect("write");
        }
        close(&cx, &image).await;
        close(&cx, &file).await;
    });
    let bytes = std::fs::read(temp.path()).expect("read");
    let mut reader = StreamReader::open(Cursor::new(&bytes)).expect("a header");
    let mut found = 0;
    let result = loop {
        match reader.next_piece() {
            Ok(Some(piece)) => found += piece.bytes.len(),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    match result {
        Ok(()) => assert_eq!(found, 3 * 65536),
        Err(sentence) => assert!(sentence.contains("read from a pipe"), "{sentence}"),
    }
    let backed = CreateOptions {
        backing: Some(("base".to_owned(), "raw".to_owned())),
        ..CreateOptions::new(1 << 20)
    };
    let refused = StreamReader::open(Cursor::new(stream(&backed, vec![])));
    let sentence = refused.err().expect("refused").to_string();
    assert!(sentence.contains("backing file") && sentence.contains("pipe"), "{sentence}");
    // The tables moved behind the data.
    let options = CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) };
    let mut bytes = stream(&options, std::iter::once(0..1).collect());
    let l2 = bytes.len() - 2 * 4096;
    let l1 = l2 - 4096;
    let (table, data) = (bytes[l2..l2 + 4096].to_vec(), bytes[l2 + 4096..].to_vec());
    bytes[l2..l2 + 4096].copy_from_slice(&data);
    bytes[l2 + 4096..].copy_from_slice(&table);
    let entry = |at: usize| (at as u64 | 1 << 63).to_be_bytes();
    bytes[l2 + 4096..][..8].copy_from_slice(&entry(l2));
    bytes[l1..l1 + 8].copy_from_slice(&entry(l2 + 4096));
    let mut reader = StreamReader::open(Cursor::new(&bytes)).expect("a header");
    let sentence = reader.next_piece().expect_err("refused").to_string();
    assert!(sentence.contains("before its tables"), "{sentence}");
}

#[test]
fn hostile_streams_end() {
    let options = CreateOptions { cluster_size: 512, ..CreateOptions::new(200 * 512) };
    let bytes = stream(&options, vec![1..30, 90..120]);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..3000 {
        let mut bad = bytes.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..4096.min(bad.len()));
            bad[at] = random.u8(..);
        }
        let Ok(mut reader) = StreamReader::open(Cursor::new(&bad)) else { continue };
        while let Ok(Some(piece)) = reader.next_piece() {
            assert!(piece.offset + piece.bytes.len() as u64 <= reader.size(), "seed {seed}");
        }
    }
}
