//! Images whose guest data is in a file beside them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    assert_sound, file,
    golden::pattern,
    making::{assert_same_report, make, patch, run_check},
    qemu, text,
};
use crate::{
    BlockError, Cx, Node, Op,
    conformance::{self, Effort, Resize, Stage, Subject},
    nodes::testing::{bare, close, on_ring, read, write},
    qcow2::{
        Files, NewSnapshot, OpenError, Options, PackedCluster, Qcow2, SnapshotError,
        check::Repair,
        create::{CreateError, CreateOptions},
        open, open_files,
    },
    ring::Aio,
};

const DISK: u64 = (2 << 20) + 512;

/// A directory with the names of an image and its data file.
fn names() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let (image, data) = (dir.path().join("image"), dir.path().join("data"));
    (dir, image, data)
}

fn options(data: &Path, raw: bool) -> CreateOptions {
    let data_file = Some(text(data).to_owned());
    CreateOptions { data_file, data_file_raw: raw, ..CreateOptions::new(DISK) }
}

fn make_both(image: &Path, data: &Path, options: CreateOptions) {
    std::fs::write(data, []).expect("write");
    let file = std::fs::File::options().write(true).open(data).expect("open");
    file.set_len(options.size).expect("grow");
    make(image, options).expect("create");
}

async fn open_both(cx: &Cx, image: &Path, data: &Path) -> Result<Arc<Qcow2>, OpenError> {
    let files = Files { file: file(image, false), backing: None, data: Some(file(data, false)) };
    open_files(cx, files, Options::default()).await
}

async fn with_image(
    image: &Path,
    data: &Path,
    cx: &Cx,
    f: impl AsyncFnOnce(&Cx, &Arc<Qcow2>, &Arc<dyn Node>),
) {
    let image = open_both(cx, image, data).await.expect("open");
    let node: Arc<dyn Node> = Arc::clone(&image) as _;
    f(cx, &image, &node).await;
    let below = node.children();
    close(cx, &node).await;
    for (_, child) in below {
        close(cx, &child).await;
    }
}

/// What QEMU reads.
fn by_qemu(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("raw");
    qemu("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]);
    std::fs::read(raw).expect("read")
}

#[test]
fn every_cluster_is_where_it_is_on_the_disk() {
    for (raw, extended_l2) in [(false, false), (true, false), (false, true), (true, true)] {
        let (_dir, image, data) = names();
        make_both(&image, &data, CreateOptions { extended_l2, ..options(&data, raw) });
        assert_sound(&image);
        let (at, beside) = (image.clone(), data.clone());
        let model = on_ring(move |cx| async move {
            let mut model = vec![0; DISK as usize];
            with_image(&at, &beside, &cx, async |cx, _, node| {
                write(cx, node, 100_352, &[7; 200_704]).await.expect("write");
                model[100_352..301_056].fill(7);
                write(cx, node, DISK - 512, &[8; 512]).await.expect("write");
                model[DISK as usize - 512..].fill(8);
                write(cx, node, 1 << 20, &[9; 4096]).await.expect("write");
                model[1 << 20..(1 << 20) + 4096].fill(9);
                let zeroes = Op::WriteZeroes { unmap: true, fua: false };
                bare(cx, node, zeroes, 128 << 10, 70 << 10).await.expect("zeroes");
                model[128 << 10..198 << 10].fill(0);
                bare(cx, node, Op::Discard, 1 << 20, 64 << 10).await.expect("discard");
                model[1 << 20..(1 << 20) + 65536].fill(0);
                assert!(read(cx, node, 0, DISK as usize).await.expect("read") == model);
            })
            .await;
            model
        });
        assert_sound(&image);
        assert_same_report(&image, &run_check(&image, Repair::None));
        assert!(by_qemu(&image) == model, "raw {raw}, subclusters {extended_l2}");
        let bytes = std::fs::read(&data).expect("read");
        assert_eq!(bytes.len() as u64, DISK, "it is as long as the disk");
        assert!(bytes[198 << 10..301_056] == model[198 << 10..301_056]);
        assert!(!raw || bytes == model, "a raw data file is the disk");
        // QEMU goes on, and we with that.
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 3 0 900k", text(&image)]);
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -z -u 64k 64k", text(&image)]);
        let wanted = by_qemu(&image);
        let at = image.clone();
        on_ring(move |cx| async move {
            with_image(&at, &data, &cx, async |cx, image, node| {
                assert!(read(cx, node, 0, DISK as usize).await.expect("read") == wanted);
                assert_eq!(image.has_raw_data_file(), raw);
            })
            .await;
        });
        assert_sound(&image);
    }
}

#[test]
fn random_histories() {
    let stage = Stage::host(Aio::IoUring, 2).expect("iothreads");
    for seed in [0x5eed, fastrand::u64(..)] {
        for (raw, extended_l2, cluster_size) in
            [(false, false, 4096), (true, false, 65536), (false, true, 16384), (true, true, 16384)]
        {
            let (_dir, image, data) = names();
            let options = CreateOptions { cluster_size, extended_l2, ..options(&data, raw) };
            make_both(&image, &data, options);
            let (at, beside) = (image.clone(), data.clone());
            let subject = Subject {
                open: Arc::new(move |cx| {
                    let (image, data) = (at.clone(), beside.clone());
                    Box::pin(async move {
                        let image = open_both(&cx, &image, &data).await;
                        image.map(|image| image as Arc<dyn Node>).map_err(|e| e.to_string())
                    })
                }),
                contents: vec![0; DISK as usize],
                resize: Resize::Grow,
                alone: true,
            };
            let effort = Effort { seed, tasks: 6, requests: 60 };
            conformance::check(&stage, &subject, effort).unwrap_or_else(|e| {
                panic!("raw {raw}, subclusters {extended_l2}, seed {seed:#x}: {e}")
            });
            assert_sound(&image);
            let bytes = std::fs::read(&data).expect("read");
            let disk = by_qemu(&image);
            assert_eq!(bytes.len(), disk.len(), "seed {seed:#x}");
            assert!(!raw || bytes == disk, "seed {seed:#x}: a raw data file is the disk");
        }
    }
}

#[test]
fn what_a_data_file_does_not_go_together_with() {
    let (dir, image, data) = names();
    make_both(&image, &data, options(&data, false));
    let (at, beside) = (image.clone(), data.clone());
    let plain = dir.path().join("plain");
    make(&plain, CreateOptions::new(DISK)).expect("create");
    on_ring(move |cx| async move {
        let alone = open(&cx, file(&at, false), None, Options::default()).await.err();
        assert_eq!(alone, Some(OpenError::NoDataFile));
        assert_eq!(open_both(&cx, &plain, &beside).await.err(), Some(OpenError::DataFile));
        with_image(&at, &beside, &cx, async |cx, image, _| {
            let snapshot = image.create_snapshot(cx, NewSnapshot::default()).await;
            assert_eq!(snapshot, Err(SnapshotError::Io(BlockError::Unsupported)));
            let packed = PackedCluster { offset: 0, bytes: vec![1; 100] };
            let packed = image.write_compressed(cx, &[packed]).await;
            assert_eq!(packed, Err(BlockError::Unsupported));
        })
        .await;
    });
    assert_sound(&image);
    let refused = |options| make(&image, options).expect_err("refused");
    let raw = options(&data, true);
    let backing = Some(("x".to_owned(), "raw".to_owned()));
    assert_eq!(refused(CreateOptions { backing, ..raw.clone() }), CreateError::RawBacking);
    assert_eq!(refused(CreateOptions { version: 2, ..raw.clone() }), CreateError::DataFileVersion);
    assert_eq!(refused(CreateOptions { data_file: None, ..raw }), CreateError::RawWithoutDataFile);
}

#[test]
fn flags_of_mapped_clusters_are_put_right() {
    let (_dir, image, data) = names();
    make_both(&image, &data, options(&data, true));
    let found = run_check(&image, Repair::None);
    assert!(found.is_clean() && found.allocated_clusters == 33, "{found:?}");
    // The second entry of the first table.
    let bytes = std::fs::read(&image).expect("read");
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let table = word(word(40) as usize) & 0x00ff_ffff_ffff_fe00;
    patch(&image, table + 8, |word| word & !(1 << 63));
    let found = run_check(&image, Repair::None);
    assert_eq!(found.messages, ["ERROR OFLAG_COPIED data cluster: l2_entry=10000 refcount=1"]);
    assert_same_report(&image, &found);
    let repaired = run_check(&image, Repair::All);
    assert!(repaired.is_clean() && repaired.corruptions_fixed == 1, "{repaired:?}");
    assert_sound(&image);
}

#[test]
fn disks_grow_and_shrink_with_their_data_files() {
    for raw in [false, true] {
        let (_dir, image, data) = names();
        make_both(&image, &data, options(&data, raw));
        let (at, beside) = (image.clone(), data.clone());
        on_ring(move |cx| async move {
            with_image(&at, &beside, &cx, async |cx, image, node| {
                let bytes = pattern(1, DISK as usize);
                write(cx, node, 0, &bytes).await.expect("write");
                image.shrink(cx, 1 << 20).await.expect("shrink");
                let length = std::fs::metadata(&beside).expect("there").len();
                assert_eq!(length, 1 << 20);
                Arc::clone(node).resize(cx.clone(), 3 << 20).await.expect("grow");
                let length = std::fs::metadata(&beside).expect("there").len();
                assert_eq!(length, 3 << 20);
                let now = read(cx, node, 0, 3 << 20).await.expect("read");
                assert!(now[..1 << 20] == bytes[..1 << 20]);
                assert!(now[1 << 20..].iter().all(|b| *b == 0));
            })
            .await;
        });
        assert_sound(&image);
        let found = run_check(&image, Repair::None);
        assert_eq!(found.allocated_clusters, if raw { 48 } else { 16 });
        assert!(!raw || by_qemu(&image) == std::fs::read(&data).expect("read"));
    }
}
