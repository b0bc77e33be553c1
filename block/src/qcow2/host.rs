//! The file below: reads and writes of any alignment, with the pin that keeps them true.

use std::sync::Arc;

use super::sync::Semaphore;
use crate::{
    BlockError, Cx, Io, IoBuf, Map, Node, Op, Pin, Range,
    submit::{leaf_op, node_io},
};

/// The child with the role `file`.
pub(crate) struct Host {
    node: Arc<dyn Node>,
    align: u64,
    /// Held by writes that read, change and write whole blocks.
    bounce: Semaphore,
}

impl Host {
    pub fn new(node: Arc<dyn Node>) -> Self {
        let align = u64::from(node.info().request_alignment.max(1));
        Self { node, align, bounce: Semaphore::new(1) }
    }

    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// Offsets and lengths that the file takes as they are.
    pub fn align(&self) -> u64 {
        self.align
    }

    fn aligned(&self, range: Range) -> bool {
        (range.offset | range.len).is_multiple_of(self.align)
    }

    fn widen(&self, range: Range) -> Range {
        let start = range.offset / self.align * self.align;
        Range::new(start, range.end().next_multiple_of(self.align) - start)
    }

    /// Reads the whole blocks that hold `range`. Returns them and where they start.
    async fn read_blocks(&self, cx: &Cx, range: Range) -> Result<(u64, IoBuf), BlockError> {
        let wide = self.widen(range);
        let buf = IoBuf::zeroed(wide.len as usize);
        let (buf, result) = self.io(cx, Op::Read, wide.offset, buf, Pin::NONE).await;
        result.map(|()| (wide.offset, buf))
    }

    /// Reads bytes for our own use.
    pub async fn read(&self, cx: &Cx, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let (start, blocks) = self.read_blocks(cx, Range::new(offset, len as u64)).await?;
        let mut bytes = vec![0; len];
        blocks.read_at(offset - start, &mut bytes);
        Ok(bytes)
    }

    /// Reads into `buf`.
    pub async fn read_into(
        &self,
        cx: &Cx,
        offset: u64,
        buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let range = Range::new(offset, buf.len());
        if self.aligned(range) {
            return self.io(cx, Op::Read, offset, buf, pin).await.1;
        }
        let mut buf = buf;
        let bytes = self.read(cx, offset, range.len as usize).await?;
        buf.write_at(0, &bytes);
        drop(pin);
        Ok(())
    }

    /// Writes `buf`.
    pub async fn write(
        &self,
        cx: &Cx,
        offset: u64,
        buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let range = Range::new(offset, buf.len());
        if self.aligned(range) {
            return self.io(cx, Op::Write { fua: false }, offset, buf, pin).await.1;
        }
        let _one_at_a_time = self.bounce.take(1).await;
        let (start, mut whole) = self.read_blocks(cx, range).await?;
        whole.copy_from(offset - start, &buf, 0, range.len);
        self.io(cx, Op::Write { fua: false }, start, whole, pin).await.1
    }

    /// Writes bytes of our own.
    pub async fn write_bytes(&self, cx: &Cx, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        self.write(cx, offset, IoBuf::from_slice(bytes), Pin::NONE).await
    }

    /// Makes whole clusters read as zeros; with `unmap` the space may be given back.
    pub async fn zero(&self, cx: &Cx, range: Range, unmap: bool) -> Result<(), BlockError> {
        if self.aligned(range) {
            let op = Op::WriteZeroes { unmap, fua: false };
            match node_io(cx, &self.node, Io::bare(op, range)).await.1 {
                Err(BlockError::Unsupported) => {}
                result => return result,
            }
        }
        let mut at = range.offset;
        while at < range.end() {
            let len = (range.end() - at).min(1 << 20);
            self.write(cx, at, IoBuf::zeroed(len as usize), Pin::NONE).await?;
            at += len;
        }
        Ok(())
    }

    /// Gives the space of whole clusters back. Returns whether they read as zeros now.
    pub async fn punch(&self, cx: &Cx, range: Range) -> bool {
        let op = Op::WriteZeroes { unmap: true, fua: false };
        self.aligned(range) && node_io(cx, &self.node, Io::bare(op, range)).await.1.is_ok()
    }

    /// Makes what was written durable.
    pub async fn sync(&self, cx: &Cx) -> Result<(), BlockError> {
        node_io(cx, &self.node, Io::flush()).await.1
    }

    /// Sets the file's length. What is new reads as zeros.
    pub async fn set_len(&self, cx: &Cx, len: u64) -> Result<(), BlockError> {
        Arc::clone(&self.node).resize(Cx::clone(cx), len).await
    }

    /// One aligned transfer. The pin goes with the request to the ring, so that it outlives even a
    /// task that is dropped; over a node that is no file it is held here.
    async fn io(
        &self,
        cx: &Cx,
        op: Op,
        offset: u64,
        buf: IoBuf,
        pin: Pin,
    ) -> (IoBuf, Result<(), BlockError>) {
        let range = Range::new(offset, buf.len());
        if let Some(file_op) = leaf_op(op)
            && let Map::Leaf { file, offset, len, pin: below } =
                self.node.map(cx.lane(), op.kind(), range)
            && len == range.len
        {
            let done = cx.file_op(file_op, file, (offset, len), buf, pin).await;
            drop(below);
            return done;
        }
        let (io, result) = node_io(cx, &self.node, Io { op, range, buf }).await;
        drop(pin);
        (io.buf, result)
    }
}
