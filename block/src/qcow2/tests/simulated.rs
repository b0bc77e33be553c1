//! The suite over simulated files, in which requests of several iothreads end in any order: images
//! that are full at first, so that clusters are freed, found and used again.

use std::sync::{Arc, Mutex};

use super::{golden::pattern, qemu, text};
use crate::{
    Node,
    conformance::{self, Effort, Resize, Stage, Subject},
    file::File,
    nodes::file::FileNode,
    qcow2::{
        Options,
        check::{Repair, check},
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
