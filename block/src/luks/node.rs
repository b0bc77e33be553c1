//! An open encrypted disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use super::{Volume, sectors::Source};
use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Pin, Range, qcow2::host::Host, submit::node_io,
};

/// See the module.
pub(super) struct Luks {
    host: Host,
    header: Option<Arc<dyn Node>>,
    volume: Volume,
    info: Info,
    size: AtomicU64,
}

impl Luks {
    pub fn new(
        file: Arc<dyn Node>,
        header: Option<Arc<dyn Node>>,
        volume: Volume,
        size: u64,
        read_only: bool,
    ) -> Arc<Self> {
        let below = file.info();
        let align = below.request_alignment.max(volume.sectors.size() as u32);
        let info = Info {
            size,
            request_alignment: align,
            preferred_write: below.preferred_write.max(align),
            // What is discarded would read as garbage.
            discard_granularity: 0,
            read_only: read_only || below.read_only,
            ..below
        };
        Arc::new(Self { host: Host::new(file), header, volume, info, size: AtomicU64::new(size) })
    }

    /// Writes `source` to `range`.
    async fn write(&self, cx: &Cx, range: Range, source: Source<'_>) -> Result<(), BlockError> {
        let at = (self.volume.at + range.offset, range.offset);
        let what = (source, range.len);
        self.volume.sectors.write(cx, &self.host, at, what, || Pin::NONE).await
    }

    async fn read(&self, cx: &Cx, range: Range, buf: &IoBuf) -> Result<(), BlockError> {
        let at = (self.volume.at + range.offset, range.offset);
        let view = buf.view(0, range.len);
        self.volume.sectors.read(cx, &self.host, at, view, Pin::NONE).await
    }

    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        if io.op.writes() && self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        let fua = match io.op {
            Op::Read => return self.read(cx, io.range, &io.buf).await,
            Op::Flush => return self.host.sync(cx).await,
            Op::Discard => return Ok(()),
            Op::Write { fua } => {
                self.write(cx, io.range, Source::Bytes(&io.buf, 0)).await?;
                fua
            }
            Op::WriteZeroes { fua, .. } => {
                self.write(cx, io.range, Source::Zeros).await?;
                fua
            }
        };
        if fua { self.host.sync(cx).await } else { Ok(()) }
    }

    /// What is new is zeros before the disk has it.
    async fn set_size(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        let old = self.size.load(SeqCst);
        if size == old {
            return Ok(());
        }
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.volume.size.is_some() {
            return Err(BlockError::Unsupported);
        }
        if !size.is_multiple_of(u64::from(self.info.request_alignment)) {
            return Err(BlockError::Misaligned);
        }
        let end = size.checked_add(self.volume.at).ok_or(BlockError::NoSpace)?;
        if size < old {
            self.size.store(size, SeqCst);
            return self.host.set_len(cx, end).await;
        }
        self.host.set_len(cx, end).await?;
        self.write(cx, Range::new(old, size - old), Source::Zeros).await?;
        self.size.store(size, SeqCst);
        Ok(())
    }
}

impl Node for Luks {
    fn driver(&self) -> &'static str {
        "luks"
    }

    fn info(&self) -> Info {
        Info { size: self.size.load(SeqCst), ..self.info }
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if op == OpKind::Flush { self.host.node().map(lane, op, range) } else { Map::Slow }
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            if io.op == Op::Flush {
                return node_io(&cx, self.host.node(), io).await;
            }
            let result = self.request(&cx, &mut io).await;
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        // What a hole reads as is no zeros.
        let extent = Extent { len: range.len, kind: ExtentKind::Data, host_offset: None };
        Box::pin(async move { Ok(extent) })
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.set_size(&cx, size).await })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        let mut children = vec![("file", Arc::clone(self.host.node()))];
        children.extend(self.header.iter().map(|header| ("header", Arc::clone(header))));
        children
    }
}
