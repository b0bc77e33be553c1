//! A disk that is made of others, one behind the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, Lane, LocalBoxFuture, Map, Node, Op, OpKind,
    Range, qcow2::sync::Semaphore, submit::node_io,
};

/// A stretch of the disk.
pub(crate) struct Part {
    /// Its first byte on the disk.
    pub start: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// Where its bytes are; `None`: they are zeros and stay so.
    pub node: Option<Arc<dyn Node>>,
    /// The first byte in that node.
    pub offset: u64,
}

impl Part {
    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// What has to be done before a disk is changed for the first time.
pub(crate) trait FirstWrite: Send + Sync {
    /// Does it, durably.
    fn run<'a>(&'a self, cx: &'a Cx) -> LocalBoxFuture<'a, Result<(), BlockError>>;
}

/// See the module.
pub(crate) struct Extents {
    driver: &'static str,
    info: Info,
    parts: Vec<Part>,
    /// The nodes below, with their roles. Those that only this disk knows are closed with it.
    children: Vec<(&'static str, Arc<dyn Node>)>,
    own: Vec<Arc<dyn Node>>,
    /// A leaf's offset is one in the child `file`.
    single: bool,
    first: Option<Box<dyn FirstWrite>>,
    /// There is nothing to be done before a write any more.
    written: AtomicBool,
    one_at_a_time: Semaphore,
}

impl Extents {
    /// A disk of these parts, which follow one another without gaps. `own` are nodes that are closed
    /// with it, in this order.
    pub fn new(
        driver: &'static str,
        parts: Vec<Part>,
        children: Vec<(&'static str, Arc<dyn Node>)>,
        own: Vec<Arc<dyn Node>>,
        read_only: bool,
        first: Option<Box<dyn FirstWrite>>,
    ) -> Arc<Self> {
        let file = children.first().map(|(_, node)| node.info());
        let mut info = file.unwrap_or(Info {
            size: 0,
            request_alignment: 1,
            memory_alignment: 1,
            preferred_write: 4096,
            max_transfer: 1 << 30,
            max_segments: 1024,
            discard_granularity: 0,
            read_only,
        });
        info.read_only = read_only;
        for node in parts.iter().filter_map(|part| part.node.as_ref()) {
            let below = node.info();
            info.request_alignment = info.request_alignment.max(below.request_alignment);
            info.memory_alignment = info.memory_alignment.max(below.memory_alignment);
            info.preferred_write = info.preferred_write.max(below.preferred_write);
            info.max_transfer = info.max_transfer.min(below.max_transfer);
            info.max_segments = info.max_segments.min(below.max_segments);
            info.discard_granularity = info.discard_granularity.max(below.discard_granularity);
            info.read_only |= below.read_only;
        }
        info.size = parts.last().map_or(0, Part::end);
        let single = match (&*parts, children.first()) {
            ([Part { node: Some(node), .. }], Some((_, file))) => {
                let below = node.children();
                Arc::ptr_eq(node, file) || below.first().is_some_and(|(_, n)| Arc::ptr_eq(n, file))
            }
            _ => false,
        };
        let written = AtomicBool::new(first.is_none());
        let one_at_a_time = Semaphore::new(1);
        Arc::new(Self { driver, info, parts, children, own, single, first, written, one_at_a_time })
    }

    /// The part that holds `at`.
    fn part(&self, at: u64) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.end() <= at))
    }

    async fn before_write(&self, cx: &Cx) -> Result<(), BlockError> {
        let _turn = self.one_at_a_time.take(1).await;
        if let Some(first) = self.first.as_ref().filter(|_| !self.written.load(SeqCst)) {
            first.run(cx).await?;
            self.written.store(true, SeqCst);
        }
        Ok(())
    }

    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        if io.op.writes() && self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        if io.op.writes() && !self.written.load(SeqCst) {
            self.before_write(cx).await?;
        }
        if io.op == Op::Flush {
            for node in self.parts.iter().filter_map(|part| part.node.as_ref()) {
                crate::submit::flush(cx, node).await?;
            }
            return Ok(());
        }
        let mut at = io.range.offset;
        while at < io.range.end() {
            let part = self.part(at).ok_or(BlockError::OutOfRange)?;
            let len = (part.end() - at).min(io.range.len - (at - io.range.offset));
            let in_buf = at - io.range.offset;
            let range = Range::new(at - part.start + part.offset, len);
            let data = io.op.has_data();
            match &part.node {
                Some(node) => {
                    let buf = if data { io.buf.view(in_buf, len) } else { crate::IoBuf::empty() };
                    node_io(cx, node, Io { op: io.op, range, buf }).await.1?;
                }
                None if io.op == Op::Read => io.buf.zero(in_buf, len),
                None if matches!(io.op, Op::Write { .. }) => return Err(BlockError::ReadOnly),
                None => {}
            }
            at += len;
        }
        Ok(())
    }
}

impl Node for Extents {
    fn driver(&self) -> &'static str {
        self.driver
    }

    fn info(&self) -> Info {
        self.info
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if op == OpKind::Flush {
            return match &*self.parts {
                [Part { node: Some(node), .. }] => node.map(lane, op, range),
                _ => Map::Slow,
            };
        }
        if op != OpKind::Read && (self.info.read_only || !self.written.load(SeqCst)) {
            return Map::Slow;
        }
        let Some(part) = self.part(range.offset) else { return Map::Slow };
        let len = range.len.min(part.end() - range.offset);
        match &part.node {
            Some(node) => {
                node.map(lane, op, Range::new(range.offset - part.start + part.offset, len))
            }
            None if op == OpKind::Read => Map::Zero { len },
            None => Map::Slow,
        }
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
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move {
            let part = self.part(range.offset).ok_or(BlockError::OutOfRange)?;
            let len = range.len.min(part.end() - range.offset);
            let Some(node) = &part.node else {
                let kind = ExtentKind::Zero { allocated: false };
                return Ok(Extent { len, kind, host_offset: None });
            };
            let below = Range::new(range.offset - part.start + part.offset, len);
            let mut extent = Arc::clone(node).extent(cx, below).await?;
            if !self.single {
                // The file that this is in is not the one that the image is named by.
                extent.host_offset = None;
            }
            Ok(extent)
        })
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        let same = size == self.info.size;
        Box::pin(async move { if same { Ok(()) } else { Err(BlockError::Unsupported) } })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            let mut result = Ok(());
            for node in &self.own {
                result = result.and(Arc::clone(node).close(Cx::clone(&cx)).await);
            }
            result
        })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        self.children.clone()
    }
}

/// The bytes of `file` from `offset` as a disk.
pub(crate) fn flat(
    driver: &'static str,
    file: Arc<dyn Node>,
    offset: u64,
    len: u64,
    read_only: bool,
) -> Arc<dyn Node> {
    let part = Part { start: 0, len, node: Some(Arc::clone(&file)), offset };
    let parts = if len == 0 { Vec::new() } else { vec![part] };
    Extents::new(driver, parts, vec![("file", file)], Vec::new(), read_only, None)
}
