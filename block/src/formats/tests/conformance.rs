//! The suite that every node passes.

use super::*;
use crate::{
    conformance::{Effort, Open, Resize, Stage, Subject, check, close_all, seeds},
    formats::Alone,
    ring::{Aio, sim::World},
};

thread_local! {
    /// The world on this thread: a node over a simulated file is told its length.
    static WORLD: std::cell::RefCell<Option<World>> = const { std::cell::RefCell::new(None) };
}

fn subject(case: &Case, size: u64, open_it: Open) -> Subject {
    let grows = matches!(case.format, ImageFormat::Qed);
    let resize = if grows { Resize::Grow } else { Resize::Never };
    Subject { open: open_it, contents: vec![0; size as usize], resize, alone: true }
}

fn on_sim(case: &Case, size: u64, seed: u64, align: u32) {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 3).expect("iothreads");
    let file = world.create_file("disk", &[], 0);
    WORLD.set(Some(world.clone()));
    let made = case.clone();
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&file), 0, align, false);
    stage
        .run(move |cx| async move {
            made.make(&cx, &node, "disk.vmdk", &NoFiles).await.expect("made");
            close_all(cx, node).await.expect("close");
        })
        .expect("made");
    let format = case.format;
    let opener: Open = Arc::new(move |cx| {
        let file = Arc::clone(&file);
        Box::pin(async move {
            let len = WORLD.with_borrow(|world| Some(world.as_ref()?.contents(&file).len()));
            let node: Arc<dyn Node> = FileNode::over(file, len.ok_or("no world")?, align, false);
            let mut request = Request::read(node, &Alone);
            request.read_only = false;
            open(&cx, format, request).await.map_err(|e| e.to_string())
        })
    });
    check(&stage, &subject(case, size, opener), Effort::sample(seed))
        .unwrap_or_else(|e| panic!("{}, align {align}: {e}", case.name));
}

#[test]
fn images_conform_on_the_simulator() {
    for seed in seeds([1]) {
        // Not a multiple of any block.
        let size = (5 << 20) + 7 * 4096;
        for (n, case) in cases(size).iter().enumerate() {
            if !case.is_one_file() || case.name == "vpc-geometry" {
                continue;
            }
            on_sim(case, size, seed, [1, 512, 4096][(n + seed as usize) % 3]);
        }
    }
}

#[test]
fn images_conform_on_the_thread_pool() {
    for seed in seeds([]) {
        let size = (3 << 20) + 9 * 512;
        for case in cases(size).into_iter().filter(|case| case.name != "vpc-geometry") {
            let stage = Stage::host(Aio::Threads, 3).expect("iothreads");
            let dir = directory();
            let path = dir.path().join("disk.vmdk");
            let (made, to) = (case.clone(), path.clone());
            stage.run(move |cx| async move { make_on_host(&cx, &made, &to).await }).expect("made");
            let format = case.format;
            let opener: Open = Arc::new(move |cx| {
                let path = path.clone();
                Box::pin(async move { open_on_host(&cx, format, &path, None, false).await })
            });
            check(&stage, &subject(&case, size, opener), Effort::sample(seed))
                .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}
