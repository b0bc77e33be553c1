//! A filter under which nothing is changed: what is written stays in memory, and is read back from
//! there. What was done can be looked at, undone by a file that [`undo`] writes, and then done in
//! earnest, step by step in the same order.
//!
//! So a repair is tried before it is made, and what it would come to is known and not guessed.

mod ranges;
pub mod undo;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use sha2::{Digest, Sha256};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Range,
    qcow2::sync::lock,
    submit::{node_io, read},
};
use ranges::Ranges;

/// Bytes that are kept together.
pub(crate) const BLOCK: u64 = 4096;
/// Storage is written by sectors: after a crash each is old or new (bytes).
pub(crate) const SECTOR: u64 = 512;
/// Bytes that are kept in memory at most: what is written, and what is there then.
const BYTES_MAX: u64 = 256 << 20;
/// Bytes of one read of one's own.
const PIECE: u64 = 1 << 20;

/// The fingerprint of a sector.
pub(crate) type Print = [u8; 32];

pub(crate) fn print(bytes: &[u8]) -> Print {
    Sha256::digest(bytes).into()
}

/// What was done to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Write { offset: u64, data: Vec<u8> },
    Zero { range: Range, unmap: bool },
    Resize(u64),
    Sync,
}

struct State {
    /// The length now, in bytes.
    size: u64,
    /// Bytes of the node below from here on were cut off once.
    cut: u64,
    /// The greatest length that it had, in bytes.
    longest: u64,
    /// What was written, by block.
    blocks: BTreeMap<u64, Box<[u8]>>,
    steps: Vec<Step>,
    /// Bytes in `blocks` and `steps`.
    kept: u64,
    /// What was read.
    reads: Ranges,
    /// What each sector that was written has been since.
    versions: BTreeMap<u64, Vec<Print>>,
}

/// See the module.
pub struct Rehearsal {
    below: Arc<dyn Node>,
    /// The length of the node below, in bytes.
    length: u64,
    state: Mutex<State>,
    /// It became too much to keep.
    full: AtomicBool,
}

/// What a rehearsal came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Places that are written to, in blocks of 4096 bytes.
    pub blocks: u64,
    /// The length before, in bytes.
    pub old_size: u64,
    /// The length after, in bytes.
    pub new_size: u64,
}

impl Changes {
    /// Whether anything is changed.
    #[must_use]
    pub fn any(&self) -> bool {
        self.blocks > 0 || self.old_size != self.new_size
    }
}

impl Rehearsal {
    /// A rehearsal on `below`, whose length is `length` bytes.
    #[must_use]
    pub fn new(below: Arc<dyn Node>, length: u64) -> Arc<Self> {
        let state = State {
            size: length,
            cut: length,
            longest: length,
            blocks: BTreeMap::new(),
            steps: Vec::new(),
            kept: 0,
            reads: Ranges::default(),
            versions: BTreeMap::new(),
        };
        let full = AtomicBool::new(false);
        Arc::new(Self { below, length, state: Mutex::new(state), full })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether it was more than is kept in memory: then its requests failed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(SeqCst)
    }

    /// What would be changed.
    ///
    /// # Errors
    /// The node below cannot be read.
    pub async fn changes(&self, cx: &Cx) -> Result<Changes, BlockError> {
        let new_size = self.state().size;
        let blocks = self.changed(cx).await?.len() as u64;
        Ok(Changes { blocks, old_size: self.length, new_size })
    }

    /// The blocks whose bytes are others now: their numbers and old bytes.
    async fn changed(&self, cx: &Cx) -> Result<Vec<(u64, Vec<u8>)>, BlockError> {
        let numbers: Vec<u64> = self.state().blocks.keys().copied().collect();
        let mut changed = Vec::new();
        for number in numbers {
            let old = self.original(cx, number * BLOCK, BLOCK).await?;
            if self.state().blocks.get(&number).is_some_and(|new| **new != *old) {
                changed.push((number, old));
            }
        }
        Ok(changed)
    }

    /// Bytes of the node below; beyond its end they are zeros.
    async fn original(&self, cx: &Cx, offset: u64, len: u64) -> Result<Vec<u8>, BlockError> {
        let mut bytes = vec![0; len as usize];
        let align = u64::from(self.below.info().request_alignment.max(1));
        let have = self.length.saturating_sub(offset).min(len).next_multiple_of(align).min(len);
        if have > 0 {
            let buf = read(cx, &self.below, offset, have as usize).await?;
            buf.read_at(0, &mut bytes[..have as usize]);
        }
        Ok(bytes)
    }

    /// Bytes as they are now, of whole blocks that start at `offset`.
    async fn present(&self, cx: &Cx, offset: u64, len: u64) -> Result<Vec<u8>, BlockError> {
        let mut bytes = self.original(cx, offset, len).await?;
        let state = self.state();
        if state.cut < offset + len {
            let from = state.cut.saturating_sub(offset) as usize;
            bytes[from..].fill(0);
        }
        let last = (offset + len).div_ceil(BLOCK);
        for (number, block) in state.blocks.range(offset / BLOCK..last) {
            let at = (number * BLOCK - offset) as usize;
            let n = block.len().min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&block[..n]);
        }
        Ok(bytes)
    }

    async fn put(&self, cx: &Cx, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let start = offset / BLOCK * BLOCK;
        let end = (offset + data.len() as u64).next_multiple_of(BLOCK);
        let mut at = start;
        while at < end {
            let mut block = self.present(cx, at, BLOCK).await?;
            let from = offset.max(at);
            let to = (offset + data.len() as u64).min(at + BLOCK);
            block[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            let mut state = self.state();
            let sectors = (from / SECTOR)..to.div_ceil(SECTOR);
            for sector in sectors {
                let within = (sector * SECTOR - at) as usize;
                let print = print(&block[within..within + SECTOR as usize]);
                let versions = state.versions.entry(sector).or_default();
                if !versions.contains(&print) {
                    versions.push(print);
                }
            }
            if state.blocks.insert(at / BLOCK, block.into()).is_none() {
                state.kept += BLOCK;
            }
            at += BLOCK;
        }
        let mut state = self.state();
        state.size = state.size.max(offset + data.len() as u64);
        state.longest = state.longest.max(state.size);
        Ok(())
    }

    fn room_for(&self, bytes: u64) -> Result<(), BlockError> {
        if self.state().kept.saturating_add(bytes.saturating_mul(2)) > BYTES_MAX {
            self.full.store(true, SeqCst);
            return Err(BlockError::NoMemory);
        }
        Ok(())
    }

    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        let Range { offset, len } = io.range;
        match io.op {
            Op::Read => {
                self.state().reads.add(io.range);
                let start = offset / BLOCK * BLOCK;
                let mut at = start;
                while at < io.range.end() {
                    let end = (at + PIECE).min(io.range.end().next_multiple_of(BLOCK));
                    let bytes = self.present(cx, at, end - at).await?;
                    let (from, to) = (offset.max(at), io.range.end().min(end));
                    io.buf
                        .write_at(from - offset, &bytes[(from - at) as usize..(to - at) as usize]);
                    at = end;
                }
                Ok(())
            }
            Op::Write { fua } => {
                self.room_for(len)?;
                let data = io.buf.to_vec();
                self.put(cx, offset, &data).await?;
                let mut state = self.state();
                state.kept += len;
                state.steps.push(Step::Write { offset, data });
                if fua {
                    state.steps.push(Step::Sync);
                }
                Ok(())
            }
            Op::WriteZeroes { unmap, fua } => {
                self.room_for(len)?;
                self.put(cx, offset, &vec![0; len as usize]).await?;
                let mut state = self.state();
                state.steps.push(Step::Zero { range: io.range, unmap });
                if fua {
                    state.steps.push(Step::Sync);
                }
                Ok(())
            }
            Op::Flush => {
                self.state().steps.push(Step::Sync);
                Ok(())
            }
            // Nobody needs the bytes: they may as well stay.
            Op::Discard => Ok(()),
        }
    }

    /// Does to `target` what was done to this node, in the same order. `target` is the node below,
    /// or holds the same bytes.
    ///
    /// # Errors
    /// What the target says; a part is done then.
    pub async fn perform(&self, cx: &Cx, target: &Arc<dyn Node>) -> Result<(), BlockError> {
        let steps = std::mem::take(&mut self.state().steps);
        for step in &steps {
            match step {
                Step::Write { offset, data } => {
                    node_io(cx, target, Io::write(*offset, IoBuf::from_slice(data))).await.1?;
                }
                Step::Zero { range, unmap } => {
                    let op = Op::WriteZeroes { unmap: *unmap, fua: false };
                    node_io(cx, target, Io::bare(op, *range)).await.1?;
                }
                Step::Resize(size) => Arc::clone(target).resize(Cx::clone(cx), *size).await?,
                Step::Sync => node_io(cx, target, Io::flush()).await.1?,
            }
        }
        let result = node_io(cx, target, Io::flush()).await.1;
        self.state().steps = steps;
        result
    }

    async fn set_size(&self, cx: &Cx, size: u64) -> Result<(), BlockError> {
        let whole = size.next_multiple_of(BLOCK);
        if size < self.state().size && size < whole {
            // Of the block that is cut through, the rest reads as zeros from now on.
            self.put(cx, size, &vec![0; (whole - size) as usize]).await?;
        }
        let mut state = self.state();
        state.size = size;
        state.longest = state.longest.max(size);
        state.cut = state.cut.min(size);
        let gone: Vec<u64> = state.blocks.range(whole / BLOCK..).map(|(n, _)| *n).collect();
        for number in gone {
            state.blocks.remove(&number);
            state.kept = state.kept.saturating_sub(BLOCK);
        }
        state.steps.push(Step::Resize(size));
        Ok(())
    }
}

impl Node for Rehearsal {
    fn driver(&self) -> &'static str {
        "rehearsal"
    }

    fn info(&self) -> Info {
        let size = self.state().size.next_multiple_of(SECTOR);
        Info { size, read_only: false, ..self.below.info() }
    }

    fn map(&self, _lane: Lane, _op: OpKind, _range: Range) -> Map {
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
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(
            async move { Ok(Extent { len: range.len, kind: ExtentKind::Data, host_offset: None }) },
        )
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
        vec![("file", Arc::clone(&self.below))]
    }
}
