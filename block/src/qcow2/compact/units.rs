//! What can move: runs of clusters, and every word of the file that points to them.

use std::collections::BTreeMap;

use super::{
    super::{
        be,
        check::Walk,
        header::{Header, field},
        host::Host,
        layout::{Entry, Layout, OFFSET},
    },
    CompactError, io,
};
use crate::Cx;

/// Bytes of the header that are looked at.
const HEADER_MAX: u64 = 64 << 10;
/// The type of the header extension that leads to bitmaps.
const BITMAPS: u32 = 0x2385_2875;

/// Clusters that move together and stay in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// First cluster, and how many.
    pub start: u64,
    pub len: u64,
    /// Where the file has their offset: bytes from its start, in words of 64 bits.
    pub pointers: Vec<Pointer>,
}

/// A word that holds an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    /// Its first byte in the file.
    pub at: u64,
    /// The bits that are the offset.
    pub mask: u64,
}

/// Units whose pointers lie in units of a later phase, or in the header's cluster, which stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// What the header points to.
    Roots,
    /// What those point to: L1 tables of snapshots, tables of bitmaps.
    Branches,
    /// Clusters of disks and bitmaps.
    Leaves,
    /// L2 tables.
    Tables,
    /// Refcount blocks.
    Blocks,
}

/// In this order: what needs room for several clusters in a row goes first.
pub(super) const PHASES: [Phase; 5] =
    [Phase::Roots, Phase::Branches, Phase::Leaves, Phase::Tables, Phase::Blocks];

/// A bitmap of the directory: where its entry is in the file, its table, and entries of that.
struct Bitmap {
    at: u64,
    table: u64,
    entries: u64,
}

/// The units of a phase that reach behind cluster `end`, in the order of the file.
pub(super) struct Units {
    pub list: Vec<Unit>,
}

struct Finder<'a> {
    cx: &'a Cx,
    host: &'a Host,
    header: &'a Header,
    walk: &'a Walk,
    layout: Layout,
    end: u64,
    found: BTreeMap<u64, Unit>,
}

impl Units {
    /// Looks for them. The image is sound.
    pub async fn find(
        cx: &Cx,
        host: &Host,
        header: &Header,
        walk: &Walk,
        phase: Phase,
        end: u64,
    ) -> Result<Self, CompactError> {
        let layout = walk.layout;
        let mut finder = Finder { cx, host, header, walk, layout, end, found: BTreeMap::new() };
        match phase {
            Phase::Roots => finder.roots().await?,
            Phase::Branches => finder.branches().await?,
            Phase::Leaves => finder.leaves().await?,
            Phase::Tables => finder.tables().await?,
            Phase::Blocks => finder.blocks(),
        }
        Ok(Self { list: finder.found.into_values().collect() })
    }
}

impl Finder<'_> {
    /// `bytes` at `offset`, which the word at `at` points to.
    fn add(&mut self, offset: u64, bytes: u64, at: u64, mask: u64) {
        let start = offset >> self.layout.cluster_bits;
        let len = bytes.div_ceil(self.layout.cluster());
        if offset == 0 || len == 0 || start + len <= self.end {
            return;
        }
        let unit =
            self.found.entry(start).or_insert_with(|| Unit { start, len, pointers: Vec::new() });
        unit.pointers.push(Pointer { at, mask });
    }

    async fn words(&self, offset: u64, bytes: u64) -> Result<Vec<u64>, CompactError> {
        let read = self.host.read(self.cx, offset, bytes as usize).await;
        Ok(be::table(&read.map_err(io("reading a table"))?))
    }

    async fn roots(&mut self) -> Result<(), CompactError> {
        let header = self.header;
        let all = u64::MAX;
        self.add(header.l1_offset, u64::from(header.l1_size) * 8, field::L1_OFFSET as u64, all);
        let reftable = u64::from(header.reftable_clusters) << self.layout.cluster_bits;
        self.add(header.reftable_offset, reftable, field::REFTABLE_OFFSET as u64, all);
        if header.snapshots > 0 {
            let bytes = self.snapshots().await?.1;
            self.add(header.snapshots_offset, bytes, field::SNAPSHOTS_AT as u64, all);
        }
        if let Some((_, bytes, offset)) = header.bitmaps()
            && let Some(at) = self.bitmaps_field().await?
        {
            self.add(offset, bytes, at, all);
        }
        Ok(())
    }

    /// Where the header has the offset of the bitmap directory.
    async fn bitmaps_field(&self) -> Result<Option<u64>, CompactError> {
        let len = self.layout.cluster().min(HEADER_MAX) as usize;
        let bytes = self.host.read(self.cx, 0, len).await.map_err(io("reading the header"))?;
        let mut at = self.header.header_length as usize;
        while at + 32 <= bytes.len() {
            let (kind, len) = (be::u32_at(&bytes, at), be::u32_at(&bytes, at + 4) as usize);
            match kind {
                0 => break,
                BITMAPS if len >= 24 => return Ok(Some(at as u64 + 8 + 16)),
                _ => at = at.saturating_add(8 + len.min(bytes.len())).next_multiple_of(8),
            }
        }
        Ok(None)
    }

    /// L1 tables of the snapshots: where their entries are, and they; and the bytes of the table.
    async fn snapshots(&self) -> Result<(Vec<(u64, u64, u64)>, u64), CompactError> {
        let mut found = Vec::new();
        let mut at = self.header.snapshots_offset;
        for _ in 0..self.header.snapshots {
            let fixed = self.host.read(self.cx, at, 40).await;
            let fixed = fixed.map_err(io("reading the snapshot table"))?;
            found.push((at, be::u64_at(&fixed, 0), u64::from(be::u32_at(&fixed, 8)) * 8));
            let names = u64::from(be::u16_at(&fixed, 12)) + u64::from(be::u16_at(&fixed, 14));
            at = (at + 40 + names + u64::from(be::u32_at(&fixed, 36))).next_multiple_of(8);
        }
        Ok((found, at - self.header.snapshots_offset))
    }

    async fn bitmaps(&self) -> Result<Vec<Bitmap>, CompactError> {
        let Some((count, bytes, offset)) = self.header.bitmaps() else { return Ok(Vec::new()) };
        let directory = self.host.read(self.cx, offset, bytes as usize).await;
        let directory = directory.map_err(io("reading the bitmap directory"))?;
        let mut found = Vec::new();
        let mut at = 0;
        for _ in 0..count {
            if at + 24 > directory.len() {
                break;
            }
            found.push(Bitmap {
                at: offset + at as u64,
                table: be::u64_at(&directory, at),
                entries: u64::from(be::u32_at(&directory, at + 8)),
            });
            let name = usize::from(be::u16_at(&directory, at + 18));
            let extra = be::u32_at(&directory, at + 20) as usize;
            at = (at + 24 + name).saturating_add(extra).next_multiple_of(8);
        }
        Ok(found)
    }

    async fn branches(&mut self) -> Result<(), CompactError> {
        for (at, l1, bytes) in self.snapshots().await?.0 {
            self.add(l1, bytes, at, u64::MAX);
        }
        for bitmap in self.bitmaps().await? {
            self.add(bitmap.table, bitmap.entries * 8, bitmap.at, u64::MAX);
        }
        Ok(())
    }

    /// L1 tables: where they are in the file, and their entries.
    async fn l1_tables(&self) -> Result<Vec<(u64, Vec<u64>)>, CompactError> {
        let mut tables = vec![(self.header.l1_offset, self.walk.l1.clone())];
        for (_, l1, bytes) in self.snapshots().await?.0 {
            tables.push((l1, self.words(l1, bytes).await?));
        }
        Ok(tables)
    }

    async fn tables(&mut self) -> Result<(), CompactError> {
        let mut seen = std::collections::HashSet::new();
        for (l1, entries) in self.l1_tables().await? {
            if !seen.insert(l1) {
                continue;
            }
            for (at, entry) in (l1..).step_by(8).zip(entries) {
                if let Ok(table) = self.layout.table_of(entry) {
                    self.add(table, self.layout.cluster(), at, OFFSET);
                }
            }
        }
        Ok(())
    }

    async fn leaves(&mut self) -> Result<(), CompactError> {
        let mut tables = std::collections::BTreeSet::new();
        for (_, entries) in self.l1_tables().await? {
            tables.extend(entries.into_iter().filter_map(|e| self.layout.table_of(e).ok()));
        }
        tables.remove(&0);
        for table in tables {
            let entries = self.words(table, self.layout.cluster()).await?;
            for (at, raw) in (table..).step_by(8).zip(entries) {
                if let Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } =
                    self.layout.entry(raw)
                {
                    self.add(host, self.layout.cluster(), at, OFFSET);
                }
            }
        }
        for bitmap in self.bitmaps().await? {
            let entries = self.words(bitmap.table, bitmap.entries * 8).await?;
            for (at, raw) in (bitmap.table..).step_by(8).zip(entries) {
                self.add(raw & OFFSET, self.layout.cluster(), at, OFFSET);
            }
        }
        Ok(())
    }

    fn blocks(&mut self) {
        let at = self.header.reftable_offset;
        for (at, entry) in (at..).step_by(8).zip(self.walk.reftable.clone()) {
            self.add(entry, self.layout.cluster(), at, u64::MAX);
        }
    }
}
