//! The suite itself: it passes an honest disk on every engine and notices every lie.

mod crash;
mod nodes;
mod qcow2;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::{
    Info, Lane, Map, Op, OpKind, Pin,
    file::{Backend, File},
    ring::{Aio, FileOp, sim::World},
};

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// Zeroing leaves the last byte.
    Zeroes,
    /// Writes that cross 64 KiB lose their last byte.
    Write,
    /// Reads do not fill the last byte of what they should.
    Read,
    /// Discards write ones.
    Discard,
    /// Everything is said to be zeros.
    Extent,
    /// Extents end before the disk does.
    ShortExtent,
    /// What a resize adds is not cleared.
    Resize,
    /// Requests never end.
    Hang,
    /// The size is forgotten when the disk is closed.
    Size,
}

/// A disk that is a file, its size and its lie.
struct Plain {
    file: Arc<File>,
    size: Arc<AtomicU64>,
    align: u32,
    lie: Lie,
}

impl Plain {
    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        let (mut op, mut range) = (FileOp::Read, (io.range.offset, io.range.len));
        match io.op {
            Op::Read if self.lie == Lie::Read => range.1 -= 1,
            Op::Read => {}
            Op::Write { fua } => {
                op = FileOp::Write { fua };
                let crosses = io.range.offset >> 16 != (io.range.end() - 1) >> 16;
                range.1 -= u64::from(crosses && self.lie == Lie::Write);
            }
            Op::Flush => op = FileOp::Sync,
            Op::Discard if self.lie == Lie::Discard => {
                op = FileOp::Write { fua: false };
                io.buf = IoBuf::from_slice(&vec![1; range.1 as usize]);
            }
            Op::Discard => op = FileOp::PunchHole,
            Op::WriteZeroes { .. } => {
                range.1 -= u64::from(self.lie == Lie::Zeroes);
                op = FileOp::PunchHole;
            }
        }
        if self.lie == Lie::Hang && io.op == Op::Flush {
            std::future::pending::<()>().await;
        }
        let len = range.1.min(io.buf.len());
        cx.file_op(op, self.file.id(), range, io.buf.view(0, len), Pin::NONE).await.1
    }
}

impl Node for Plain {
    fn driver(&self) -> &'static str {
        "plain"
    }
    fn info(&self) -> Info {
        Info {
            size: self.size.load(SeqCst),
            request_alignment: self.align,
            memory_alignment: self.align,
            preferred_write: 4096,
            max_transfer: 100 << 10,
            max_segments: 3,
            discard_granularity: 4096,
            read_only: false,
        }
    }
    fn map(&self, _: Lane, _: OpKind, _: Range) -> Map {
        Map::Slow
    }
    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = self.request(&cx, &mut io).await;
            (io, result)
        })
    }
    fn extent(
        self: Arc<Self>,
        _: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        let kind = match self.lie {
            Lie::Extent => ExtentKind::Zero { allocated: true },
            _ => ExtentKind::Data,
        };
        let len = if self.lie == Lie::ShortExtent { 0 } else { range.len.min(60_000) };
        Box::pin(async move { Ok(Extent { len, kind, host_offset: None }) })
    }
    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            if self.lie != Lie::Resize {
                let (buf, at) = (IoBuf::empty(), (size, 0));
                cx.file_op(FileOp::SetLen, self.file.id(), at, buf, Pin::NONE).await.1?;
            }
            self.size.store(size, SeqCst);
            Ok(())
        })
    }
    fn drain(&self, _: bool) {}
    fn close(self: Arc<Self>, _: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        if self.lie == Lie::Size {
            self.size.fetch_sub(512, SeqCst);
        }
        Box::pin(async { Ok(()) })
    }
    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        Vec::new()
    }
}

const SIZE: usize = 1 << 20;

fn subject(file: Arc<File>, contents: Vec<u8>, align: u32, lie: Lie) -> Subject {
    let size = Arc::new(AtomicU64::new(contents.len() as u64));
    let open: Open = Arc::new(move |_| {
        let (file, size) = (Arc::clone(&file), Arc::clone(&size));
        let node: Arc<dyn Node> = Arc::new(Plain { file, size, align, lie });
        Box::pin(async move { Ok(node) })
    });
    Subject { open, contents, resize: Resize::Any, alone: true }
}

fn on_sim(seed: u64, align: u32, lie: Lie) -> Result<(), String> {
    let world = World::new(seed);
    let stage = Stage::sim(&world, 3).expect("iothreads");
    let contents = vec![0x77; SIZE];
    let file = world.create_file("disk", &contents, SIZE as u64);
    check(&stage, &subject(file, contents, align, lie), Effort::sample(seed))
}

#[test]
fn an_honest_disk_passes_on_the_simulator() {
    for align in [1, 512, 4096] {
        on_sim(fastrand::u64(..), align, Lie::None).expect("honest");
    }
}

#[test]
fn an_honest_disk_passes_on_the_host() {
    for (aio, align) in [(Aio::IoUring, 1), (Aio::Threads, 512)] {
        let stage = Stage::host(aio, 2).expect("iothreads");
        let host = tempfile::tempfile().expect("a temporary file");
        host.set_len(SIZE as u64).expect("length");
        let file = File::register("disk".as_ref(), Backend::Host(host.into())).expect("a number");
        let seed = fastrand::u64(..);
        check(&stage, &subject(file, vec![0; SIZE], align, Lie::None), Effort::sample(seed))
            .expect("honest");
    }
}

#[test]
fn every_lie_is_noticed() {
    for lie in [
        Lie::Zeroes,
        Lie::Write,
        Lie::Read,
        Lie::Discard,
        Lie::Extent,
        Lie::ShortExtent,
        Lie::Resize,
        Lie::Hang,
        Lie::Size,
    ] {
        let found = on_sim(1, 1, lie);
        assert!(found.is_err(), "{lie:?} was not noticed");
    }
}
