//! Random histories against a model: the suite that every node passes, over images of every shape,
//! each ending in what QEMU thinks of the image.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{assert_sound, golden::pattern, open_chain, qemu, text};
use crate::{
    conformance::{self, Effort, Resize, Stage, Subject},
    qcow2::Options,
    ring::Aio,
};

/// An image under test and what it holds at first.
struct Shape {
    paths: Vec<PathBuf>,
    raw_base: bool,
    contents: Vec<u8>,
    cache_bytes: Option<u64>,
}

fn subject(shape: &Shape) -> Subject {
    let (paths, raw_base) = (shape.paths.clone(), shape.raw_base);
    let options = Options { cache_bytes: shape.cache_bytes, ..Options::default() };
    Subject {
        open: Arc::new(move |cx| {
            let (paths, options) = (paths.clone(), options.clone());
            Box::pin(async move { open_chain(&cx, &paths, raw_base, options).await })
        }),
        contents: shape.contents.clone(),
        resize: Resize::Grow,
        alone: shape.paths.len() == 1,
    }
}

fn run(stage: &Stage, shape: &Shape, seed: u64, what: &str) {
    let effort = Effort { seed, tasks: 6, requests: 60 };
    conformance::check(stage, &subject(shape), effort)
        .unwrap_or_else(|e| panic!("{what}, seed {seed:#x}: {e}"));
    assert_sound(&shape.paths[0]);
}

fn create(path: &Path, len: usize, options: &str) -> Shape {
    let size = len.to_string();
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(path), &size]);
    Shape {
        paths: vec![path.to_owned()],
        raw_base: false,
        contents: vec![0; len],
        cache_bytes: None,
    }
}

fn seeds() -> [u64; 2] {
    [0x5eed, fastrand::u64(..)]
}

#[test]
fn every_cluster_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let stage = Stage::host(Aio::IoUring, 2).expect("iothreads");
    for seed in seeds() {
        for bits in 9..=21u32 {
            let path = dir.path().join("image");
            let shape = create(&path, 3 << 20, &format!("cluster_size={}", 1u64 << bits));
            run(&stage, &shape, seed, &format!("cluster bits {bits}"));
        }
    }
}

#[test]
fn clusters_of_subclusters() {
    let dir = tempfile::tempdir().expect("a directory");
    let stage = Stage::host(Aio::IoUring, 2).expect("iothreads");
    for seed in seeds() {
        for (options, cache_bytes) in [
            ("cluster_size=16k", None),
            ("cluster_size=64k", Some(0)),
            ("cluster_size=2M", None),
            ("cluster_size=32k,lazy_refcounts=on", None),
            ("cluster_size=16k,preallocation=metadata", Some(0)),
        ] {
            let path = dir.path().join("image");
            let mut shape = create(&path, 3 << 20, &format!("extended_l2=on,{options}"));
            shape.cache_bytes = cache_bytes;
            run(&stage, &shape, seed, options);
        }
    }
}

#[test]
fn version_2_lazy_refcounts_and_a_tiny_cache() {
    let dir = tempfile::tempdir().expect("a directory");
    let stage = Stage::host(Aio::IoUring, 2).expect("iothreads");
    for seed in seeds() {
        for options in [
            "compat=0.10,cluster_size=4k",
            "lazy_refcounts=on,cluster_size=4k",
            "lazy_refcounts=on,cluster_size=512",
            "cluster_size=512",
            "preallocation=metadata,cluster_size=4k",
        ] {
            let path = dir.path().join("image");
            let mut shape = create(&path, 3 << 20, options);
            run(&stage, &shape, seed, options);
            let mut shape_small = create(&path, 3 << 20, options);
            shape_small.cache_bytes = Some(0);
            run(&stage, &shape_small, seed, &format!("{options}, tiny cache"));
            shape.contents.clear();
        }
    }
}

#[test]
fn backing_chains() {
    let dir = tempfile::tempdir().expect("a directory");
    let stage = Stage::host(Aio::IoUring, 3).expect("iothreads");
    for seed in seeds() {
        for (top_options, mid_options) in [
            ("cluster_size=64k", "cluster_size=4k"),
            ("cluster_size=4k", "cluster_size=64k"),
            ("cluster_size=512", "cluster_size=2M"),
            ("compat=0.10,cluster_size=16k", "compat=0.10,cluster_size=512"),
            ("extended_l2=on,cluster_size=16k", "cluster_size=64k"),
            ("extended_l2=on,cluster_size=128k", "extended_l2=on,cluster_size=16k"),
        ] {
            let path = |name: &str| dir.path().join(name);
            let (base, mid, top) = (path("base"), path("mid"), path("top"));
            let mut contents = pattern(seed, (2 << 20) + 512);
            std::fs::write(&base, &contents).expect("write");
            let create = |image: &Path, backing: &Path, format: &str, options: &str, size: &str| {
                let _ = std::fs::remove_file(image);
                let b = ["-b", text(backing), "-F", format, text(image), size];
                let all = [&["create", "-q", "-f", "qcow2", "-o", options][..], &b];
                qemu("qemu-img", &all.concat());
            };
            create(&mid, &base, "raw", mid_options, "2500k");
            qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 9 1000k 200k", text(&mid)]);
            create(&top, &mid, "qcow2", top_options, "3M");
            contents.resize(3 << 20, 0);
            contents[1000 << 10..1200 << 10].fill(9);
            let shape = Shape {
                paths: vec![top, mid, base],
                raw_base: true,
                contents,
                cache_bytes: Some(0),
            };
            run(&stage, &shape, seed, top_options);
        }
    }
}

#[test]
fn compressed_images_are_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let stage = Stage::host(Aio::IoUring, 2).expect("iothreads");
    for seed in seeds() {
        for options in [
            "cluster_size=64k",
            "compression_type=zstd,cluster_size=4k",
            "extended_l2=on,cluster_size=32k",
        ] {
            let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
            let contents = pattern(seed, 3 << 20);
            std::fs::write(&raw, &contents).expect("write");
            let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
            qemu("qemu-img", &[&args[..], &[text(&raw), text(&image)]].concat());
            let shape = Shape { paths: vec![image], raw_base: false, contents, cache_bytes: None };
            run(&stage, &shape, seed, options);
        }
    }
}
