//! Crashes of plain files, and of disks that lie about durability.

use std::sync::Mutex;

use super::*;
use crate::{
    conformance::crash::{
        Cuts, History, Mix, Sectors, SharedSectors, Value, Verify, cut, encode, lock, run,
    },
    nodes::file::FileNode,
    ring::sim::CrashImage,
};

/// A disk over another that is not as careful.
struct Careless {
    below: Arc<dyn Node>,
    flush: bool,
    fua: bool,
    /// Writes beyond 64 KiB go to the first.
    wraps: bool,
}

impl Node for Careless {
    fn driver(&self) -> &'static str {
        "careless"
    }
    fn info(&self) -> Info {
        self.below.info()
    }
    fn map(&self, _: Lane, _: OpKind, _: Range) -> Map {
        Map::Slow
    }
    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        match &mut io.op {
            Op::Flush if !self.flush => return Box::pin(async { (io, Ok(())) }),
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => *fua &= self.fua,
            _ => {}
        }
        if self.wraps && matches!(io.op, Op::Write { .. }) && io.range.offset >= 1 << 16 {
            io.range.offset -= 1 << 16;
        }
        Box::pin(async move { node_io(&cx, &self.below, io).await })
    }
    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Arc::clone(&self.below).extent(cx, range)
    }
    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Arc::clone(&self.below).resize(cx, size)
    }
    fn drain(&self, _: bool) {}
    fn close(self: Arc<Self>, _: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }
    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        vec![("file", Arc::clone(&self.below))]
    }
}

/// The file's bytes are the disk's.
struct Bytes;

impl Verify for Bytes {
    fn verify(&mut self, image: &CrashImage, sectors: &SharedSectors) -> Result<(), String> {
        let bytes = image.file("disk").ok_or("no file")?.to_vec();
        let sectors = lock(sectors);
        // A request that grew the file may have been lost; what is missing reads as zeros.
        let mut whole = bytes;
        whole.resize(sectors.size() as usize, 0);
        sectors.check_crashed(Range::new(0, sectors.size()), &whole)
    }
}

const SECTORS: u64 = 256;

fn crash(
    seed: u64,
    align: u32,
    wrap: impl Fn(Arc<dyn Node>) -> Arc<dyn Node>,
) -> Result<u64, String> {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 3).expect("iothreads");
    let first: Vec<u8> = (0..SECTORS).flat_map(|lba| encode(lba, Value::Written(0))).collect();
    let file = world.create_file("disk", &first, first.len() as u64);
    let node = wrap(FileNode::over(file, first.len() as u64, align, false));
    let values = (0..SECTORS).map(|_| Value::Written(0));
    let sectors = Arc::new(Mutex::new(Sectors::new(values)));
    let history =
        History { seed, tasks: 6, requests: 30, hot: 4, mix: Mix::default(), grow_to: None };
    let cuts = Cuts { seed, every: 1, images: 2 };
    cut(&world, &sectors, cuts, Bytes, || run(&stage, &node, &sectors, history))
}

#[test]
fn what_a_file_made_durable_survives_every_cut() {
    for seed in seeds(0..3) {
        for align in [1, 512, 4096] {
            let cuts = crash(seed, align, |node| node);
            assert!(cuts.expect("consistent") > 300);
        }
    }
}

#[test]
fn a_disk_that_is_careless_with_durability_is_noticed() {
    let careless = |flush, fua, wraps| {
        move |below| -> Arc<dyn Node> { Arc::new(Careless { below, flush, fua, wraps }) }
    };
    crash(1, 1, careless(true, true, false)).expect("consistent");
    for (what, disk) in [
        ("flush", careless(false, true, false)),
        ("fua", careless(true, false, false)),
        ("place", careless(true, true, true)),
    ] {
        let found = crash(1, 1, disk);
        assert!(found.is_err(), "{what} was not noticed");
    }
}
