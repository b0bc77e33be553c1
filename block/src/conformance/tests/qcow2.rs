//! qcow2 images, new ones, over the simulator and over the thread pool.

use super::*;
use crate::{
    nodes::file::{FileNode, FileOptions},
    qcow2::{
        self, Options,
        create::{CreateOptions, create},
    },
};

thread_local! {
    /// The world on this thread: a node over a simulated file is told its length.
    static WORLD: std::cell::RefCell<Option<World>> = const { std::cell::RefCell::new(None) };
}

fn subject_of(
    stage: &Stage,
    file: impl Fn() -> Result<Arc<dyn Node>, String> + Send + Sync + 'static,
    options: CreateOptions,
    cache_bytes: Option<u64>,
) -> Subject {
    let size = options.size as usize;
    let node = file().expect("the file");
    stage
        .run(move |cx| async move {
            create(&cx, &node, &options).await.expect("create");
            close_all(cx, node).await.expect("close");
        })
        .expect("created");
    let file = Arc::new(file);
    let open: Open = Arc::new(move |cx| {
        let file = Arc::clone(&file);
        Box::pin(async move {
            let options = Options { cache_bytes, ..Options::default() };
            let node = qcow2::open(&cx, file()?, None, options).await;
            let node: Arc<dyn Node> = node.map_err(|e| e.to_string())?;
            Ok(node)
        })
    });
    Subject { open, contents: vec![0; size], resize: Resize::Grow, alone: true }
}

fn options(cluster_bits: u32, lazy_refcounts: bool) -> CreateOptions {
    CreateOptions { cluster_size: 1 << cluster_bits, lazy_refcounts, ..CreateOptions::new(1 << 20) }
}

#[test]
fn images_conform_on_the_simulator() {
    for seed in seeds([1]) {
        for (cluster_bits, lazy, align, cache) in [
            (9, false, 1, None),
            (9, true, 4096, Some(0)),
            (12, false, 512, Some(0)),
            (12, true, 1, None),
            (16, false, 4096, None),
            (21, false, 512, None),
        ] {
            let world = World::new(seed);
            let stage = Stage::sim(&world, 3).expect("iothreads");
            let file = world.create_file("disk", &[], 0);
            WORLD.set(Some(world.clone()));
            let open = move || -> Result<Arc<dyn Node>, String> {
                let len = WORLD.with_borrow(|world| Some(world.as_ref()?.contents(&file).len()));
                Ok(FileNode::over(Arc::clone(&file), len.ok_or("no world")?, align, false))
            };
            let subject = subject_of(&stage, open, options(cluster_bits, lazy), cache);
            check(&stage, &subject, Effort::sample(seed)).unwrap_or_else(|e| {
                panic!("cluster bits {cluster_bits}, lazy {lazy}, align {align}: {e}")
            });
        }
    }
}

#[test]
fn images_conform_on_the_thread_pool() {
    for seed in seeds([]) {
        for direct in [false, true] {
            let stage = Stage::host(Aio::Threads, 3).expect("iothreads");
            let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
            let path = dir.path().join("disk.qcow2");
            std::fs::write(&path, []).expect("a file");
            let open = move || -> Result<Arc<dyn Node>, String> {
                let options = FileOptions { direct, ..FileOptions::new(&path) };
                Ok(FileNode::open(&options).map_err(|e| e.to_string())?)
            };
            let subject = subject_of(&stage, open, options(12, false), None);
            check(&stage, &subject, Effort::sample(seed)).expect("conforms");
        }
    }
}
