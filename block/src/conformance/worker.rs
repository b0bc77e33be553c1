//! One task of the suite: random requests, each checked against the model.

use std::sync::Arc;

use super::{Shared, lock};
use crate::{BlockError, Cx, Io, IoBuf, Node, Op, Range, Root, RootHandle, submit::node_io};

/// The longest request in bytes.
const LEN_MAX: u64 = 300 << 10;

/// See the module.
pub(super) struct Worker {
    /// Marks the bytes that this task writes.
    number: u8,
    root: RootHandle,
    node: Arc<dyn Node>,
    model: Shared,
    rng: fastrand::Rng,
}

/// Memory of `len` bytes in up to four segments, with gaps between them.
fn scattered(rng: &mut fastrand::Rng, len: u64) -> IoBuf {
    let parts = rng.u64(1..=4).min(len);
    let whole = IoBuf::zeroed((len + parts) as usize);
    let mut buf = whole.view(0, 0);
    let mut at = 0;
    for part in 0..parts {
        let n = len * (part + 1) / parts - len * part / parts;
        for segment in whole.view(at, n).iovecs() {
            // SAFETY: a part of `whole`, whose memory `buf`, a view of it, keeps.
            unsafe { buf.push(segment.iov_base.cast(), segment.iov_len) };
        }
        at += n + 1;
    }
    buf
}

impl Worker {
    pub fn new(number: u8, root: Arc<Root>, model: Shared, rng: fastrand::Rng) -> Self {
        let node = root.node();
        Self { number, root: root.handle(), node, model, rng }
    }

    pub async fn run(mut self, cx: Cx, requests: u32) -> Result<(), String> {
        for _ in 0..requests {
            self.request(&cx).await?;
        }
        Ok(())
    }

    async fn request(&mut self, cx: &Cx) -> Result<(), String> {
        let op = self.choose();
        if op == Op::Flush {
            return self.io(cx, Io::flush()).await.1.map_err(|e| format!("flush: {e}"));
        }
        let range = self.range();
        if range.len == 0 || !lock(&self.model).claim(range, op.writes()) {
            return Ok(());
        }
        let result = match op {
            Op::Read => self.read(cx, range).await,
            Op::Write { .. } => self.write(cx, op, range).await,
            Op::WriteZeroes { .. } => self.zeroes(cx, op, range).await,
            Op::Discard => self.discard(cx, range).await,
            Op::Flush => Ok(()),
        };
        lock(&self.model).release(range);
        result
    }

    fn choose(&mut self) -> Op {
        let (fua, unmap) = (self.rng.u8(0..8) == 0, self.rng.bool());
        match self.rng.u8(0..100) {
            0..35 => Op::Read,
            35..75 => Op::Write { fua },
            75..87 => Op::WriteZeroes { unmap, fua },
            87..95 => Op::Discard,
            _ => Op::Flush,
        }
    }

    /// A range somewhere, at the edges of the disk, or at those of a cluster.
    fn range(&mut self) -> Range {
        let (size, info) = (lock(&self.model).len(), self.node.info());
        let unit = u64::from(info.preferred_write);
        let block = if self.rng.bool() { 1 } else { u64::from(info.request_alignment).max(512) };
        let near = |rng: &mut fastrand::Rng, place: u64| {
            let jump = rng.u64(0..4) * block;
            if rng.bool() { place.saturating_add(jump) } else { place.saturating_sub(jump) }
        };
        let rng = &mut self.rng;
        let edge = rng.u64(0..=size / unit) * unit;
        let from = match rng.u8(0..8) {
            0 => 0,
            1 => near(rng, size),
            2..5 => near(rng, edge),
            _ => rng.u64(0..size.max(1)),
        };
        let from = from.min(size) / block * block;
        let len = match rng.u8(0..8) {
            0 => block,
            1 => size,
            2..4 => near(rng, unit),
            4 => rng.u64(0..4 * unit),
            _ => rng.u64(0..64 << 10),
        };
        let len = len.min(LEN_MAX).next_multiple_of(block).min(size - from);
        Range::new(from, len)
    }

    /// Through the root, or to the node itself where that takes the request as it is.
    async fn io(&mut self, cx: &Cx, io: Io) -> (IoBuf, Result<(), BlockError>) {
        let info = self.node.info();
        let mask = u64::from(info.request_alignment) - 1;
        let fits = (io.range.offset | io.range.len) & mask == 0
            && io.range.len <= info.max_transfer
            && io.buf.iovecs().len() <= info.max_segments as usize
            && io.buf.is_aligned(info.memory_alignment);
        if fits && self.rng.bool() {
            let (io, result) = node_io(cx, &self.node, io).await;
            return (io.buf, result);
        }
        self.root.io(cx, io).await
    }

    async fn read(&mut self, cx: &Cx, range: Range) -> Result<(), String> {
        let mut buf = scattered(&mut self.rng, range.len);
        buf.write_at(0, &vec![0xee; range.len as usize]);
        let (buf, result) = self.io(cx, Io::read(range.offset, buf)).await;
        result.map_err(|e| format!("read of {range:?}: {e}"))?;
        lock(&self.model).compare(range, &buf)
    }

    async fn write(&mut self, cx: &Cx, op: Op, range: Range) -> Result<(), String> {
        let mut bytes = vec![0; range.len as usize];
        self.rng.fill(&mut bytes);
        // The writer is to be seen in a dump.
        bytes.iter_mut().step_by(16).for_each(|b| *b = 0xc0 | self.number);
        let mut buf = scattered(&mut self.rng, range.len);
        buf.write_at(0, &bytes);
        let (_, result) = self.io(cx, Io { op, range, buf }).await;
        result.map_err(|e| format!("write of {range:?}: {e}"))?;
        lock(&self.model).set(range.offset, &bytes);
        Ok(())
    }

    async fn zeroes(&mut self, cx: &Cx, op: Op, range: Range) -> Result<(), String> {
        let (_, result) = self.io(cx, Io::bare(op, range)).await;
        result.map_err(|e| format!("{op:?} of {range:?}: {e}"))?;
        lock(&self.model).set(range.offset, &vec![0; range.len as usize]);
        Ok(())
    }

    /// Afterwards every byte is what it was, or zero; and stays that.
    async fn discard(&mut self, cx: &Cx, range: Range) -> Result<(), String> {
        let (_, result) = self.io(cx, Io::bare(Op::Discard, range)).await;
        result.map_err(|e| format!("discard of {range:?}: {e}"))?;
        let buf = IoBuf::zeroed(range.len as usize);
        let (buf, result) = self.root.io(cx, Io::read(range.offset, buf)).await;
        result.map_err(|e| format!("read of {range:?} after its discard: {e}"))?;
        let got = buf.to_vec();
        let mut model = lock(&self.model);
        let old = model.slice(range);
        if let Some(at) = (0..got.len()).find(|at| got[*at] != 0 && got[*at] != old[*at]) {
            let at = range.offset + at as u64;
            return Err(format!("byte {at} is neither old nor zero after a discard of {range:?}"));
        }
        model.set(range.offset, &got);
        Ok(())
    }
}
