//! The suite over simulated files, in which requests of several iothreads end in any order: images
//! that are full at first, so that clusters are freed, found and used again.

use std::sync::{Arc, Mutex};

use super::{golden::pattern, qemu, text};
use crate::{
    Cx, Node, Op,
    conformance::{self, Effort, Resize, Stage, Subject, job},
    file::File,
    nodes::{
        file::FileNode,
        testing::{bare, close, read, write},
    },
    qcow2::{
        Options,
        check::{Repair, check},
        create::{CreateOptions, create},
        open,
    },
    ring::sim::World,
};

const DISK: usize = 1 << 20;

/// Opens a simulated file again and again, each time as long as it was left.
fn reopener(
    file: Arc<File>,
    len: u64,
    align: u32,
) -> impl Fn() -> Arc<dyn Node> + Clone + Send + Sync + 'static {
    let last = Arc::new(Mutex::new(FileNode::over(Arc::clone(&file), len, align, false)));
    move || {
        let mut last = last.lock().expect("no panic before");
        let len = last.info().size;
        *last = FileNode::over(Arc::clone(&file), len, align, false);
        Arc::clone(&*last) as Arc<dyn Node>
    }
}

fn full_image(cluster: &str) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let contents = pattern(9, DISK);
    std::fs::write(&raw, &contents).expect("write");
    let option = format!("cluster_size={cluster}");
    let args = ["convert", "-S", "0", "-f", "raw", "-O", "qcow2", "-o", &option];
    qemu("qemu-img", &[&args[..], &[text(&raw), text(&image)]].concat());
    (contents, std::fs::read(&image).expect("read"))
}

#[test]
fn full_images_over_files_of_every_alignment() {
    for cluster in ["512", "4k", "64k"] {
        let (contents, image) = full_image(cluster);
        for round in 0..8u64 {
            let seed = if round < 4 { round } else { fastrand::u64(..) };
            let align = [1, 512, 4096][round as usize % 3];
            let world = World::new(seed);
            let file = world.create_file("image", &image, image.len() as u64);
            let stage = Stage::sim(&world, 3).expect("iothreads");
            let node = reopener(file, image.len() as u64, align);
            let below = node.clone();
            let open = move |cx: crate::Cx| -> crate::LocalBoxFuture<'static, _> {
                let file = below();
                Box::pin(async move {
                    let image = open(&cx, file, None, Options::default()).await;
                    image.map(|image| image as Arc<dyn Node>).map_err(|e| e.to_string())
                })
            };
            let subject = Subject {
                open: Arc::new(open),
                contents: contents.clone(),
                resize: Resize::Grow,
                alone: true,
            };
            let effort = Effort { seed, tasks: 8, requests: 50 };
            conformance::check(&stage, &subject, effort)
                .unwrap_or_else(|e| panic!("clusters of {cluster}, align {align}: {e}"));
            let report = stage
                .run(move |cx| async move { check(&cx, &node(), Repair::None).await })
                .expect("it ends");
            let report = report.expect("check");
            assert!(report.is_clean(), "clusters of {cluster}, seed {seed:#x}: {report:?}");
        }
    }
}

/// A fourth of the disk, written by one task while the disk grows.
async fn fill_quarter(cx: Cx, node: Arc<dyn Node>, quarter: u64) -> Vec<u8> {
    const QUARTER: u64 = 128 << 10;
    let mut rng = fastrand::Rng::with_seed(quarter);
    let mut model = vec![0; QUARTER as usize];
    for n in 1..80u8 {
        let at = rng.u64(0..250) * 512;
        let len = (rng.u64(1..12) * 512).min(QUARTER - at);
        let span = at as usize..(at + len) as usize;
        if rng.u8(0..5) == 0 {
            let zeroes = Op::WriteZeroes { unmap: true, fua: rng.bool() };
            bare(&cx, &node, zeroes, quarter * QUARTER + at, len).await.expect("zeroes");
            model[span].fill(0);
        } else {
            let data = vec![n; len as usize];
            write(&cx, &node, quarter * QUARTER + at, &data).await.expect("write");
            model[span].copy_from_slice(&data);
        }
    }
    let got = read(&cx, &node, quarter * QUARTER, QUARTER as usize).await.expect("read");
    assert!(got == model, "quarter {quarter}");
    model
}

#[test]
fn disks_grow_while_they_are_written() {
    for (cluster_size, lazy_refcounts) in [(512, false), (512, true), (4096, false)] {
        for round in 0..6u64 {
            let seed = if round < 3 { round } else { fastrand::u64(..) };
            let world = World::new(seed);
            let stage = Stage::sim(&world, 3).expect("iothreads");
            let file = reopener(world.create_file("image", &[], 0), 0, 1);
            let options =
                CreateOptions { cluster_size, lazy_refcounts, ..CreateOptions::new(512 << 10) };
            let below = file();
            let disk: Arc<dyn Node> = stage
                .run(move |cx| async move {
                    create(&cx, &below, &options).await.expect("create");
                    open(&cx, below, None, Options::default()).await.expect("open") as _
                })
                .expect("it ends");
            let mut jobs: Vec<_> = (0..4u64)
                .map(|quarter| {
                    let disk = Arc::clone(&disk);
                    job(move |cx| fill_quarter(cx, disk, quarter))
                })
                .collect();
            let growing = Arc::clone(&disk);
            jobs.push(job(move |cx: Cx| async move {
                for step in 1..40u64 {
                    let size = (512 << 10) + step * 50 * 512;
                    Arc::clone(&growing).resize(Cx::clone(&cx), size).await.expect("grow");
                    bare(&cx, &growing, Op::Flush, 0, 0).await.expect("flush");
                }
                Vec::new()
            }));
            let expected = stage.run_all(jobs).expect("they end").concat();
            let closing = Arc::clone(&disk);
            stage.run(move |cx| async move { close(&cx, &closing).await }).expect("it ends");
            let got = stage
                .run(move |cx| async move {
                    let below = file();
                    let report = check(&cx, &below, Repair::None).await.expect("check");
                    assert!(report.is_clean(), "seed {seed:#x}: {report:?}");
                    let node: Arc<dyn Node> =
                        open(&cx, below, None, Options::default()).await.expect("open again");
                    read(&cx, &node, 0, 512 << 10).await.expect("read")
                })
                .expect("it ends");
            assert!(got == expected, "seed {seed:#x}");
        }
    }
}
