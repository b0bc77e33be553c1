//! What the formats with one table have in common: a disk made of blocks, and a table that says of
//! each block where it is in the file.
//!
//! A format gives a [`Shape`] and its [`Tables`]; the rest is here: cached translation, allocation,
//! copy-on-write, the order of writes. The rules are those of qcow2, made simple by one property: **a
//! block that has a place keeps it**. Discards and zeroes punch the place and never free it, so a
//! translation once true stays true, and a leaf needs no pin.
//!
//! The order that makes a crash harmless: space is taken beyond everything in use (the file grows
//! first, so it reads as zeros); data is written; only then the entry is published in memory. A
//! write-back (flush, FUA, close) syncs the file, stores the changed entries as the format demands,
//! and syncs again. A crash leaves space that nothing points to, and nothing else.

mod backing;
mod block;
mod check;
mod flush;
pub(crate) mod le;
mod map;
mod node;
mod read;
mod space;
mod table;
mod write;

#[cfg(test)]
pub(crate) mod mutation;

use std::sync::{Arc, Mutex, atomic::AtomicBool};

pub(crate) use backing::read_below;
pub(crate) use check::{check, runs};
pub(crate) use space::Space;
pub(crate) use table::{PIECE, Place};

use crate::{
    BlockError, Cx, Info, LocalBoxFuture, Node, Range,
    luks::Sectors,
    qcow2::{
        host::Host,
        sync::{RangeLocks, Semaphore},
    },
};

/// The future of one of [`Tables`]' methods.
pub(crate) type Work<'a, T> = LocalBoxFuture<'a, Result<T, BlockError>>;

/// Entries of a piece that changed, for [`Tables::store`].
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The number of the piece's first block.
    pub first: u64,
    /// All entries of the piece.
    pub entries: Vec<Place>,
    /// Which of them changed: indexes into `entries`.
    pub changed: Vec<usize>,
}

/// The geometry of one image.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The driver's name.
    pub driver: &'static str,
    /// Bytes of the disk: a multiple of 512.
    pub size: u64,
    /// Bytes of a block: a multiple of 512.
    pub block: u64,
    /// Bytes in front of the data of each block (a bitmap).
    pub lead: u64,
    /// New blocks (with what is in front) start at a multiple of this (bytes).
    pub align: u64,
    /// The first byte from which on the multiples count.
    pub origin: u64,
    /// Bytes that follow the last block (a footer): the file is that much longer.
    pub tail: u64,
    /// Where new blocks go at first: everything in use is below.
    pub next: u64,
    /// No byte of a new block may lie at or beyond this.
    pub limit: u64,
    /// Parts of the file that are not data: no entry may point there.
    pub reserved: Vec<Range>,
    /// The format can say of a block that it reads as zeros.
    pub zero_state: bool,
    /// Never written to.
    pub read_only: bool,
}

/// What a format knows of its tables.
pub(crate) trait Tables: Send + Sync {
    /// Reads the entries of piece `piece`: blocks `piece * PIECE ..`, as many as there are.
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>>;

    /// Writes changed entries. The data that they point to is durable already; the caller makes
    /// durable what this leaves written. Order among its own writes is this function's business.
    fn store<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        space: &'a Space,
        changes: &'a [Change],
    ) -> Work<'a, ()>;

    /// Before the first change of the image since it was opened: marks it as in use, durably.
    fn begin<'a>(&'a self, _cx: &'a Cx, _host: &'a Host) -> Work<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// After the last: everything is durable. Only called after [`Tables::begin`].
    fn end<'a>(&'a self, _cx: &'a Cx, _host: &'a Host, _space: &'a Space) -> Work<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// What stands in front of a new block's data: [`Shape::lead`] bytes.
    fn lead(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Which sectors of a [`Place::Partial`] block are here and not in the backing file: one bit
    /// each, the first in bit 0 of byte 0.
    fn present<'a>(
        &'a self,
        _cx: &'a Cx,
        _host: &'a Host,
        _block: u64,
        _at: u64,
    ) -> Work<'a, Vec<u8>> {
        Box::pin(async { Err(BlockError::Unsupported) })
    }

    /// The bytes of a [`Place::Packed`] block: as many as a block has.
    fn unpack<'a>(
        &'a self,
        _cx: &'a Cx,
        _host: &'a Host,
        _block: u64,
        _at: u64,
    ) -> Work<'a, Vec<u8>> {
        Box::pin(async { Err(BlockError::Unsupported) })
    }

    /// What decrypts data, by where it is on the disk. Only disks that are read have that.
    fn sectors(&self) -> Option<&Sectors> {
        None
    }

    /// Makes the disk `size` bytes long, durably. Only called with a larger size.
    fn grow<'a>(&'a self, _cx: &'a Cx, _host: &'a Host, _size: u64) -> Work<'a, ()> {
        Box::pin(async { Err(BlockError::Unsupported) })
    }

    /// The largest size that [`Tables::grow`] can make of it, in bytes.
    fn size_max(&self) -> u64 {
        0
    }
}

/// A disk whose blocks are found through one table.
pub(crate) struct Mapped {
    shape: Shape,
    info: Info,
    size: std::sync::atomic::AtomicU64,
    host: Host,
    backing: Option<Arc<dyn Node>>,
    tables: Box<dyn Tables>,
    table: table::Table,
    space: Space,
    /// Blocks that a task gives a place.
    blocks: RangeLocks,
    /// Memory for copies of blocks.
    copies: Semaphore,
    flushes: flush::Flushes,
    /// [`Tables::begin`] was called.
    begun: AtomicBool,
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

/// Copies of blocks in memory at once, in bytes.
const COPY_BYTES_MAX: u64 = 16 << 20;

impl Mapped {
    /// The disk of an image whose header was read.
    pub fn new(
        file: Arc<dyn Node>,
        backing: Option<Arc<dyn Node>>,
        shape: Shape,
        tables: Box<dyn Tables>,
    ) -> Arc<Self> {
        let below = file.info();
        let beside = backing.as_ref().map_or(below, |b| b.info());
        let unit = if shape.block.is_power_of_two() { shape.block.min(2 << 20) } else { 4096 };
        let sector = tables.sectors().map_or(1, |sectors| sectors.size() as u32);
        let align = below.request_alignment.max(beside.request_alignment).max(sector);
        let read_only = shape.read_only || below.read_only;
        let info = Info {
            size: shape.size,
            request_alignment: align,
            memory_alignment: below.memory_alignment.max(beside.memory_alignment),
            preferred_write: u32::try_from(unit).unwrap_or(4096).max(align),
            max_transfer: below.max_transfer.min(beside.max_transfer),
            max_segments: below.max_segments.min(beside.max_segments),
            discard_granularity: if read_only { 0 } else { below.discard_granularity },
            read_only,
        };
        let table = table::Table::new(&shape, tables.size_max());
        let space = Space::new(&shape, below.size);
        Arc::new(Self {
            info,
            size: std::sync::atomic::AtomicU64::new(shape.size),
            host: Host::new(file),
            backing,
            tables,
            table,
            space,
            shape,
            blocks: RangeLocks::default(),
            copies: Semaphore::new(COPY_BYTES_MAX),
            flushes: flush::Flushes::default(),
            begun: AtomicBool::new(false),
            unpacked: Mutex::new(None),
        })
    }

    /// Reads every entry of the table. For checks.
    pub async fn every_place(
        &self,
        cx: &Cx,
        mut each: impl FnMut(u64, Place),
    ) -> Result<(), BlockError> {
        for piece in 0..self.table.pieces() {
            let first = piece * PIECE;
            for (index, place) in (0..).zip(self.tables.load(cx, &self.host, piece).await?) {
                if first + index < self.table.blocks() {
                    each(first + index, place);
                }
            }
        }
        Ok(())
    }

    fn begun(&self) -> bool {
        self.begun.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Mapped {
    /// Whether a block can be at this byte of the file.
    pub fn may_hold_data(&self, at: u64) -> bool {
        self.table.may_hold_data(at)
    }
}
