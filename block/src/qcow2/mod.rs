//! qcow2: images that grow, with backing files, zero clusters and compressed clusters.
//!
//! Reading and overwriting is translation: [`Node::map`] finds the host offset in cached L2 entries
//! and answers with a pinned leaf, without a lock. Everything else is a task. What a task changes,
//! it changes in memory; the file's metadata follows in a *write-back*, in an order that leaves at
//! most leaks behind a crash (`writeback`).
//!
//! Specification: QEMU, `docs/interop/qcow2.txt`.

mod alloc;
mod amend;
mod backing;
pub(crate) mod be;
mod bitmap;
mod cache;
pub mod check;
mod close;
pub mod compact;
mod compressed;
mod counts;
pub mod create;
mod crypt;
mod data;
mod header_io;
pub(crate) mod host;
pub(crate) mod join;
mod l1;
mod layout;
mod limbo;
mod map;
mod open;
mod pack;
mod prealloc;
mod read;
mod refcount;
mod replace;
mod resize;
mod snapshot;
mod stream;
mod subclusters;
pub(crate) mod sync;
mod tables;
mod vmstate;
mod write;
mod writeback;
mod zero;

pub mod header;
pub mod info;
pub mod mutation;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

pub use amend::{Amend, AmendError, amend};
pub use backing::{set_backing, set_data_file};
pub use bitmap::{BitmapError, BitmapInfo, DirtyBits};
pub use crypt::{Encrypt, amend_keys};
pub use data::data_path;
pub use header::{Header, HeaderError};
pub use open::{Files, OpenError, Options, open, open_files, open_snapshot, read_header, unlocks};
pub use pack::{ClusterPacker, PackedCluster};
pub use snapshot::{NewSnapshot, Snapshot, SnapshotError};
pub use stream::{Piece, StreamError, StreamPlan, StreamReader};

use crate::{
    BlockError, Cx, Extent, Info, Io, Lane, LocalBoxFuture, Map, Node, Op, OpKind, PinDomain, Range,
};

/// Memory that copies of clusters may take at once, in bytes.
const COPY_BYTES_MAX: u64 = 16 << 20;

/// An open qcow2 image.
pub struct Qcow2 {
    layout: layout::Layout,
    host: Arc<host::Host>,
    data: data::Data,
    backing: Option<Arc<dyn Node>>,
    /// All but the size.
    info: Info,
    size: AtomicU64,
    /// Set when the metadata turned out to contradict itself: no writes from then on.
    corrupt: AtomicBool,
    lazy_refcounts: bool,
    pins: PinDomain,
    cache: cache::SliceCache,
    l1: l1::L1,
    alloc: alloc::Allocator,
    limbo: limbo::Limbo,
    header: header_io::HeaderSector,
    /// Guest clusters that a task allocates, discards or copies.
    clusters: sync::RangeLocks,
    /// L1 entries whose table a task makes.
    tables: sync::RangeLocks,
    copies: sync::Semaphore,
    flushes: writeback::Flushes,
    /// Held by whoever writes metadata in order: a write-back, a resize.
    order: sync::Semaphore,
    unpacker: compressed::Unpacker,
    packing: pack::Packing,
    bitmaps: bitmap::Bitmaps,
    crypt: Option<crypt::Crypt>,
}

impl Qcow2 {
    fn check_writable(&self) -> Result<(), BlockError> {
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.corrupt.load(SeqCst) {
            return Err(BlockError::Corrupt);
        }
        Ok(())
    }

    /// Remembers that the image is damaged, in the file too where it can be.
    async fn mark_corrupt(&self, cx: &Cx, what: &str) -> BlockError {
        if !self.corrupt.swap(true, SeqCst) {
            log::error!(
                "qcow2 image is damaged ({what}); it is read-only from now on, see 'spindle img check'"
            );
            if !self.info.read_only
                && self.layout.version >= 3
                && let Err(error) =
                    self.set_incompatible(cx, header::incompatible::CORRUPT, 0).await
            {
                log::warn!("the corrupt mark could not be written: {error}");
            }
        }
        BlockError::Corrupt
    }

    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        let range = io.range;
        if io.op.writes() {
            self.check_writable()?;
            self.record(cx, range).await?;
        }
        let fua = match io.op {
            Op::Read => return self.read(cx, range, &mut io.buf).await,
            Op::Flush => return self.flush(cx).await,
            Op::Write { fua } => {
                self.write(cx, range, &io.buf).await?;
                fua
            }
            Op::WriteZeroes { unmap, fua } => {
                self.write_zeroes(cx, range, unmap).await?;
                fua
            }
            Op::Discard => {
                self.discard(cx, range).await?;
                false
            }
        };
        if fua { self.flush(cx).await } else { Ok(()) }
    }
}

impl Node for Qcow2 {
    fn driver(&self) -> &'static str {
        "qcow2"
    }

    fn info(&self) -> Info {
        Info { size: self.size.load(SeqCst), ..self.info }
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        match op {
            OpKind::Read => self.map_read(lane, range),
            OpKind::Write | OpKind::WriteFua => self.map_write(lane, op, range),
            OpKind::Flush => self.map_flush(lane, range),
            OpKind::Discard | OpKind::WriteZeroes => Map::Slow,
        }
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let mut result = self.request(&cx, &mut io).await;
            if result == Err(BlockError::Corrupt) {
                result =
                    Err(self.mark_corrupt(&cx, "a table entry points where it must not").await);
            }
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move { self.first_extent(&cx, range).await })
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.set_size(&cx, size).await })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.shut(&cx).await })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        let mut children = vec![("file", Arc::clone(self.host.node()))];
        if self.data.is_external() {
            children.push(("data-file", Arc::clone(self.data.host.node())));
        }
        if let Some(backing) = &self.backing {
            children.push(("backing", Arc::clone(backing)));
        }
        children
    }
}
