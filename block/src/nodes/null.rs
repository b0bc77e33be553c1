//! `null-co`: a disk that takes no time. For finding out what the rest of the path costs.

use std::{sync::Arc, time::Duration};

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, Lane, LocalBoxFuture, Map, Node, Op, OpKind,
    Range,
};

/// Options of a [`NullNode`], with QEMU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullOptions {
    /// Size of the disk in bytes.
    pub size: u64,
    /// How long each request takes, in nanoseconds.
    pub latency_ns: u64,
    /// Reads store zeros. Without it they leave memory as it was, and cost nothing.
    pub read_zeroes: bool,
    /// No writes.
    pub read_only: bool,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self { size: 1 << 30, latency_ns: 0, read_zeroes: false, read_only: false }
    }
}

/// A disk without a medium. Without latency, a request ends where it is submitted: no system call,
/// no task, no allocation.
pub struct NullNode {
    options: NullOptions,
    size: AtomicU64,
}

impl NullNode {
    /// A disk as `options` say.
    #[must_use]
    pub fn new(options: NullOptions) -> Arc<Self> {
        Arc::new(Self { options, size: AtomicU64::new(options.size) })
    }
}

impl Node for NullNode {
    fn driver(&self) -> &'static str {
        "null-co"
    }

    fn info(&self) -> Info {
        Info {
            size: self.size.load(Relaxed),
            request_alignment: 1,
            memory_alignment: 1,
            preferred_write: 4096,
            max_transfer: 1 << 40,
            max_segments: u32::MAX,
            discard_granularity: 1,
            read_only: self.options.read_only,
        }
    }

    fn map(&self, _lane: Lane, op: OpKind, range: Range) -> Map {
        match op {
            _ if self.options.latency_ns > 0 => Map::Slow,
            OpKind::Read if self.options.read_zeroes => Map::Zero { len: range.len },
            _ => Map::Done { len: range.len },
        }
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            if self.options.latency_ns > 0 {
                cx.sleep(Duration::from_nanos(self.options.latency_ns)).await;
            }
            if io.op == Op::Read && self.options.read_zeroes {
                io.buf.zero(0, io.range.len);
            }
            (io, Ok(()))
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        let kind = if self.options.read_zeroes {
            ExtentKind::Zero { allocated: false }
        } else {
            ExtentKind::Data
        };
        Box::pin(async move { Ok(Extent { len: range.len, kind, host_offset: None }) })
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        self.size.store(size, Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        IoBuf, Root, RootHandle,
        iothread::{Port, Progress, Queue},
        nodes::testing::on_ring,
    };
    use std::sync::Mutex;

    type Ended = Arc<Mutex<Vec<(u32, Vec<u8>)>>>;

    /// Submits one of each, and keeps what came back.
    struct Each {
        root: RootHandle,
        todo: Vec<Io>,
        ended: Ended,
    }

    impl Queue for Each {
        fn service(&mut self, port: &mut Port<'_>, _budget: u32) -> Progress {
            for (token, io) in self.todo.drain(..).enumerate() {
                port.submit(&mut self.root, io, token as u32);
            }
            Progress::Idle
        }

        fn complete(
            &mut self,
            _port: &mut Port<'_>,
            token: u32,
            buf: IoBuf,
            result: Result<(), BlockError>,
        ) {
            assert_eq!(result, Ok(()));
            self.ended.lock().expect("one thread").push((token, buf.to_vec()));
        }

        fn flush_irq(&mut self) {}

        fn pending(&mut self) -> bool {
            !self.todo.is_empty()
        }

        fn notify(&mut self, _on: bool) {}

        fn doorbell(&self) -> Option<std::os::fd::RawFd> {
            None
        }

        fn drained(&mut self) {}
    }

    fn each(options: NullOptions, fast: bool) -> Vec<(u32, Vec<u8>)> {
        let root = Root::new("null", NullNode::new(options), crate::root::Policy::default());
        let ended = Arc::new(Mutex::new(Vec::new()));
        let todo = vec![
            Io::read(0, IoBuf::from_slice(&[1; 8])),
            Io::write(512, IoBuf::from_slice(&[2; 8])),
            Io::flush(),
            Io::bare(Op::Discard, Range::new(0, 1 << 29)),
            Io::bare(Op::WriteZeroes { unmap: true, fua: true }, Range::new(0, 1 << 29)),
        ];
        let queue = Each { root: root.handle(), todo, ended: Arc::clone(&ended) };
        on_ring(async move |cx| {
            let base = cx.tasks();
            let start = cx.now();
            cx.attach(Box::new(queue));
            let mut most = base;
            while ended.lock().expect("one thread").len() < 5 {
                most = most.max(cx.tasks());
                cx.sleep(Duration::from_micros(50)).await;
            }
            assert_eq!(most == base, fast, "tasks");
            assert_eq!(cx.ring_stats().requests, 0);
            assert!(cx.now() - start >= Duration::from_nanos(options.latency_ns));
            let mut ended = std::mem::take(&mut *ended.lock().expect("one thread"));
            ended.sort();
            ended
        })
    }

    #[test]
    fn requests_end_without_a_task_or_a_ring() {
        let ended = each(NullOptions::default(), true);
        assert_eq!(ended[0], (0, vec![1; 8]));
        assert_eq!(ended[1], (1, vec![2; 8]));
        let ended = each(NullOptions { read_zeroes: true, ..NullOptions::default() }, true);
        assert_eq!(ended[0], (0, vec![0; 8]));
    }

    #[test]
    fn latency_is_waited_for() {
        let latency_ns = 20_000_000;
        let options = NullOptions { latency_ns, read_zeroes: true, ..NullOptions::default() };
        assert_eq!(each(options, false)[0], (0, vec![0; 8]));
    }
}
