//! The block allocation table (MS-VHDX 2.5).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{
    log::Log,
    metadata::Metadata,
    spec::{Header, MIB},
};
use crate::{
    BlockError, Cx, Range,
    mapped::{Change, PIECE, Place, Space, Tables, Work, le},
    qcow2::{host::Host, sync::lock},
};

/// What is written through the log at once, in bytes.
pub(super) const PAGE: u64 = 4096;

const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
/// All of the block is here.
pub(super) const PRESENT: u64 = 6;
const PARTIAL: u64 = 7;

/// The table of an open image.
pub(super) struct Bat {
    at: u64,
    blocks: u64,
    ratio: u64,
    block: u64,
    sector: u64,
    has_parent: bool,
    header: Mutex<Header>,
    log: Mutex<Log>,
    /// The file is durably at least this long.
    length: AtomicU64,
}

impl Bat {
    pub fn new(header: Header, bat: Range, metadata: &Metadata, length: u64) -> Self {
        Self {
            at: bat.offset,
            blocks: metadata.blocks(),
            ratio: metadata.chunk_ratio(),
            block: metadata.block,
            sector: metadata.sector,
            has_parent: metadata.has_parent,
            log: Mutex::new(Log::new(&header)),
            header: Mutex::new(header),
            length: AtomicU64::new(length),
        }
    }

    /// The entry of a block: those of bitmap blocks stand between.
    fn index(&self, block: u64) -> u64 {
        block + block / self.ratio
    }

    fn place(&self, entry: u64) -> Place {
        let at = entry / MIB * MIB;
        match entry & 7 {
            0 => Place::Unallocated,
            UNDEFINED | ZERO | UNMAPPED => Place::Zero,
            PRESENT => Place::Data(at),
            PARTIAL if self.has_parent => Place::Partial(at),
            _ => Place::Bad,
        }
    }

    /// The pages of the table that hold changed entries, with the changes made.
    async fn pages(
        &self,
        cx: &Cx,
        host: &Host,
        changes: &[Change],
    ) -> Result<BTreeMap<u64, Vec<u8>>, BlockError> {
        let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for change in changes {
            for index in crate::mapped::runs(change).into_iter().flatten() {
                let word = match change.entries[index] {
                    Place::Data(at) => at | PRESENT,
                    Place::Zero => ZERO,
                    _ => 0,
                };
                let at = self.at + self.index(change.first + index as u64) * 8;
                let page = at / PAGE * PAGE;
                let bytes = match pages.entry(page) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(host.read(cx, page, PAGE as usize).await?),
                };
                le::put(bytes, (at - page) as usize, &word.to_le_bytes());
            }
        }
        Ok(pages)
    }
}

impl Tables for Bat {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let first = piece * PIECE;
            let last = (first + PIECE).min(self.blocks);
            if first >= last {
                return Ok(Vec::new());
            }
            let start = self.index(first);
            let count = self.index(last - 1) + 1 - start;
            let bytes = host.read(cx, self.at + start * 8, count as usize * 8).await?;
            let entry = |block| le::u64_at(&bytes, (self.index(block) - start) as usize * 8);
            Ok((first..last).map(|block| self.place(entry(block))).collect())
        })
    }

    fn store<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        _space: &'a Space,
        changes: &'a [Change],
    ) -> Work<'a, ()> {
        Box::pin(async move {
            // The blocks that the entries point to are durable, and so is a file that holds them.
            let places = changes.iter().flat_map(|change| &change.entries);
            let end = places.filter_map(|place| match place {
                Place::Data(at) => Some(at + self.block),
                _ => None,
            });
            let length = self.length.fetch_max(end.max().unwrap_or(0), SeqCst);
            let length = length.max(self.length.load(SeqCst));
            let pages: Vec<_> = self.pages(cx, host, changes).await?.into_iter().collect();
            for (n, some) in pages.chunks(super::log::PAGES_MAX).enumerate() {
                if n > 0 {
                    // The next entry may take the place of the one before.
                    host.sync(cx).await?;
                }
                let (at, entry) = lock(&self.log).entry(some, length);
                host.write_bytes(cx, at, &entry).await?;
                #[cfg(test)]
                let syncs =
                    crate::mapped::mutation::holds(crate::mapped::mutation::Rule::FlushSyncs);
                #[cfg(not(test))]
                let syncs = true;
                if syncs {
                    // From here on a crash brings the changes back.
                    host.sync(cx).await?;
                }
                for (page, bytes) in some {
                    host.write_bytes(cx, *page, bytes).await?;
                }
            }
            Ok(())
        })
    }

    fn begin<'a>(&'a self, cx: &'a Cx, host: &'a Host) -> Work<'a, ()> {
        Box::pin(async move {
            let header = lock(&self.header).clone();
            let header = header.opened(cx, host).await?;
            *lock(&self.log) = Log::new(&header);
            *lock(&self.header) = header;
            Ok(())
        })
    }

    fn end<'a>(&'a self, cx: &'a Cx, host: &'a Host, _space: &'a Space) -> Work<'a, ()> {
        Box::pin(async move {
            let header = lock(&self.header).clone();
            *lock(&self.header) = header.closed(cx, host).await?;
            Ok(())
        })
    }

    fn present<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        block: u64,
        _at: u64,
    ) -> Work<'a, Vec<u8>> {
        Box::pin(async move {
            let chunk = block / self.ratio;
            let entry = self.at + (chunk * (self.ratio + 1) + self.ratio) * 8;
            let bytes = host.read(cx, entry, 8).await?;
            let entry = le::u64_at(&bytes, 0);
            let sectors = self.block / self.sector;
            if entry & 7 != PRESENT {
                return Err(BlockError::Corrupt);
            }
            let at = entry / MIB * MIB + block % self.ratio * (sectors / 8);
            if at > i64::MAX as u64 - MIB {
                return Err(BlockError::Corrupt);
            }
            let bits = host.read(cx, at, (sectors / 8) as usize).await?;
            // The caller counts in sectors of 512 bytes.
            let each = (self.sector / 512) as usize;
            if each == 1 {
                return Ok(bits);
            }
            let all = |byte: u8| (0..8).map(move |bit| if byte >> bit & 1 == 0 { 0 } else { 0xff });
            Ok(bits.into_iter().flat_map(all).collect())
        })
    }
}
