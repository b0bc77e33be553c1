//! The arithmetic of an image: clusters, tables, and what their entries mean.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Cluster mapping" and "Host cluster management".

use super::counts::Width;
use crate::Range;

/// "The refcount of what this points to is exactly one": it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3).
pub(super) const ZERO: u64 = 1;
/// Host offset in L1 and standard L2 entries: bits 9 to 55.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of a standard L2 entry that must be zero.
pub(super) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bits of an L1 entry that must be zero.
pub(super) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of a refcount table entry that must be zero.
pub(super) const REFTABLE_RESERVED: u64 = 0x1ff;

/// Sizes of the metadata units, in bytes.
const SLICE_BYTES_MAX: u64 = 4096;
/// Compressed data is counted in sectors of this size, whatever the cluster size.
const COMPRESSED_SECTOR: u64 = 512;

/// Largest L1 table in bytes; the limit that QEMU has.
pub(super) const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest refcount table in bytes; the limit that QEMU has.
pub(super) const REFTABLE_BYTES_MAX: u64 = 8 << 20;

/// The geometry of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub cluster_bits: u32,
    /// 2 or 3: what an L2 entry's lowest bit means.
    pub version: u32,
    /// How wide refcounts are.
    pub refs: Width,
    /// L2 entries have 128 bits: clusters are made of subclusters.
    pub extended: bool,
    /// Guest data is in another file.
    pub external: bool,
}

/// log2 of the subclusters of a cluster.
const SUBS_BITS: u32 = 5;

/// An L2 entry as it lies in a table: its descriptor and, where entries are extended, the bitmaps of
/// its subclusters: bits 0 to 31 say "has a place in the file", bits 32 to 63 "reads as zeros".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub word: u64,
    /// 0 where entries are not extended.
    pub subs: u64,
}

impl Raw {
    /// A standard entry.
    pub fn plain(word: u64) -> Self {
        Self { word, subs: 0 }
    }

    /// Subclusters that have a place.
    pub fn placed(self) -> u32 {
        self.subs as u32
    }

    /// Subclusters that are said to read as zeros.
    pub fn zeroed(self) -> u32 {
        (self.subs >> 32) as u32
    }

    /// The bitmaps of subclusters.
    pub fn bitmaps(placed: u32, zeroed: u32) -> u64 {
        u64::from(placed) | u64::from(zeroed) << 32
    }
}

/// What an L2 entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing here: the backing file decides, or zeros.
    Unallocated,
    /// Reads as zeros. A host cluster may be set aside.
    Zero { host: Option<u64>, owned: bool },
    /// The data is at this host offset; `owned`: by nobody else.
    Data { host: u64, owned: bool },
    /// Deflated or zstd data somewhere in this range of the file.
    Compressed(Range),
    /// Reserved bits, or an offset that is no cluster's.
    Bad,
}

impl Layout {
    /// Bytes in a cluster.
    pub fn cluster(self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the bytes of an L2 entry.
    fn entry_bits(self) -> u32 {
        if self.extended { 4 } else { 3 }
    }

    /// log2 of the entries of an L2 table.
    pub fn l2_bits(self) -> u32 {
        self.cluster_bits - self.entry_bits()
    }

    /// log2 of the unit in which guest data has or has no place of its own: the subcluster where
    /// there are such, and else the cluster.
    pub fn unit_bits(self) -> u32 {
        if self.extended { self.cluster_bits - SUBS_BITS } else { self.cluster_bits }
    }

    /// Bytes of that unit.
    pub fn unit(self) -> u64 {
        1 << self.unit_bits()
    }

    /// The subclusters that hold a byte of `from..to` (not empty, within a cluster).
    pub fn subs(self, from: u64, to: u64) -> u32 {
        let bits = self.unit_bits();
        let (first, last) = (from >> bits & 31, (to - 1) >> bits & 31);
        u32::MAX << first & u32::MAX >> (31 - last)
    }

    /// Bytes of a slice: the unit in which L2 tables and refcount blocks are cached and written.
    pub fn slice_bytes(self) -> u64 {
        self.cluster().min(SLICE_BYTES_MAX)
    }

    /// log2 of the L2 entries in a slice.
    pub fn slice_bits(self) -> u32 {
        self.slice_bytes().trailing_zeros() - self.entry_bits()
    }

    /// 64-bit words in a slice.
    pub fn slice_words(self) -> usize {
        (self.slice_bytes() / 8) as usize
    }

    /// L2 entries in a slice.
    pub fn slice_entries(self) -> usize {
        1 << self.slice_bits()
    }

    /// Slices in an L2 table.
    pub fn slices_per_table(self) -> u64 {
        1 << (self.l2_bits() - self.slice_bits())
    }

    /// The guest cluster of an offset.
    pub fn guest_cluster(self, offset: u64) -> u64 {
        offset >> self.cluster_bits
    }

    /// The slice that maps a guest cluster.
    pub fn slice_of(self, cluster: u64) -> u64 {
        cluster >> self.slice_bits()
    }

    /// The place of a guest cluster in its slice.
    pub fn index_in_slice(self, cluster: u64) -> usize {
        (cluster & ((1 << self.slice_bits()) - 1)) as usize
    }

    /// The L1 entry whose table holds a slice.
    pub fn l1_of_slice(self, slice: u64) -> u64 {
        slice >> (self.l2_bits() - self.slice_bits())
    }

    /// The byte offset of a slice in its table.
    pub fn slice_in_table(self, slice: u64) -> u64 {
        (slice & (self.slices_per_table() - 1)) * self.slice_bytes()
    }

    /// L1 entries that a disk of `size` bytes needs; `None` where that is beyond the limit.
    pub fn l1_entries(self, size: u64) -> Option<u64> {
        let per_entry = 1u64 << (self.cluster_bits + self.l2_bits());
        let entries = size.div_ceil(per_entry);
        (entries <= L1_BYTES_MAX / 8).then_some(entries)
    }

    /// Refcounts in a slice of a refcount block.
    pub fn refs_per_slice(self) -> u64 {
        self.refs.in_bytes(self.slice_bytes())
    }

    /// Refcounts in a block.
    pub fn refs_per_block(self) -> u64 {
        self.refs.in_bytes(self.cluster())
    }

    /// Whether `offset` is a cluster's.
    pub fn is_cluster_offset(self, offset: u64) -> bool {
        offset & (self.cluster() - 1) == 0
    }

    /// What the descriptor of an L2 entry means: for the whole cluster, or, where there are
    /// subclusters, for its place ([`Layout::at`]).
    pub fn entry(self, raw: u64) -> Entry {
        if raw & COMPRESSED != 0 {
            return if self.external { Entry::Bad } else { self.compressed(raw) };
        }
        let host = raw & OFFSET;
        let zero = raw & ZERO != 0 && !self.extended;
        if raw & L2_RESERVED != 0 || !self.is_cluster_offset(host) || (zero && self.version < 3) {
            return Entry::Bad;
        }
        // What is in a data file is nobody else's, and may begin at 0.
        let copied = raw & COPIED != 0;
        let owned = (copied || self.external) && host != 0;
        match (zero, host) {
            (true, _) => Entry::Zero { host: (host != 0).then_some(host), owned },
            (false, 0) if copied && self.external => Entry::Data { host, owned: true },
            (false, 0) => Entry::Unallocated,
            (false, _) => Entry::Data { host, owned },
        }
    }

    /// What an L2 entry means for the byte `in_cluster` of its cluster, as if the whole cluster were
    /// as the subcluster that holds it.
    #[inline]
    pub fn at(self, raw: Raw, in_cluster: u64) -> Entry {
        let entry = self.entry(raw.word);
        if self.extended {
            self.sub(entry, raw, in_cluster >> self.unit_bits() & 31)
        } else {
            entry
        }
    }

    fn sub(self, entry: Entry, raw: Raw, index: u64) -> Entry {
        let says = |bitmap: u32| bitmap >> index & 1 == 1;
        match entry {
            Entry::Data { .. } if raw.placed() & raw.zeroed() != 0 => Entry::Bad,
            Entry::Data { .. } if says(raw.placed()) => entry,
            Entry::Data { host, owned } if says(raw.zeroed()) => {
                Entry::Zero { host: Some(host), owned }
            }
            Entry::Data { .. } => Entry::Unallocated,
            Entry::Unallocated if raw.placed() != 0 => Entry::Bad,
            Entry::Unallocated if says(raw.zeroed()) => Entry::Zero { host: None, owned: false },
            other => other,
        }
    }

    /// The entry of a cluster of our own at this host offset, all of it data.
    pub fn data(self, host: u64) -> Raw {
        Raw { word: host | COPIED, subs: if self.extended { u64::from(u32::MAX) } else { 0 } }
    }

    /// The entry of a cluster that has no place and reads as zeros (version 3).
    pub fn zeros(self) -> Raw {
        if self.extended {
            Raw { word: 0, subs: Raw::bitmaps(0, u32::MAX) }
        } else {
            Raw::plain(ZERO)
        }
    }

    /// 64-bit words of an L2 entry.
    pub fn words(self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    /// The entries in these words of a table.
    pub fn entries(self, words: &[u64]) -> impl Iterator<Item = Raw> + '_ {
        words
            .chunks(self.words())
            .map(|entry| Raw { word: entry[0], subs: entry.get(1).copied().unwrap_or(0) })
    }

    /// The host cluster that an entry points to, unless it is compressed.
    pub fn host_of(self, raw: u64) -> Option<u64> {
        match self.entry(raw) {
            Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => Some(host),
            _ => None,
        }
    }

    /// Where the data of a compressed cluster begins.
    pub fn compressed_at(self, raw: u64) -> u64 {
        raw & ((1 << (62 - (self.cluster_bits - 8))) - 1)
    }

    /// Whether some of an entry's cluster is data.
    pub fn holds_data(self, raw: Raw) -> bool {
        if self.extended { raw.placed() != 0 } else { raw.word & ZERO == 0 }
    }

    /// What is wrong with the bitmaps of an entry that is not compressed.
    pub fn bad_bitmaps(self, raw: Raw) -> Option<&'static str> {
        let has_place = raw.word & OFFSET != 0 || (self.external && raw.word & COPIED != 0);
        if has_place && raw.placed() & raw.zeroed() != 0 {
            Some("Allocated cluster has corrupted subcluster allocation bitmap")
        } else if !has_place && raw.placed() != 0 {
            Some("Unallocated cluster has non-zero subcluster allocation map")
        } else {
            None
        }
    }

    /// Where the data of a compressed cluster is, whether or not that is possible.
    pub fn compressed_range(self, raw: u64) -> Range {
        let shift = 62 - (self.cluster_bits - 8);
        let offset = self.compressed_at(raw);
        let sectors = (raw >> shift) & ((1 << (self.cluster_bits - 8)) - 1);
        // The first sector counts from its start, so the data ends with the last one's end.
        Range::new(offset, (sectors + 1) * COMPRESSED_SECTOR - (offset & (COMPRESSED_SECTOR - 1)))
    }

    fn compressed(self, raw: u64) -> Entry {
        match self.compressed_range(raw) {
            Range { offset, .. } if offset == 0 || offset >= 1 << 56 => Entry::Bad,
            range => Entry::Compressed(range),
        }
    }

    /// The L2 table of an L1 entry: `Ok(0)` where there is none, `Err` where the entry is bad.
    pub fn table_of(self, l1_entry: u64) -> Result<u64, ()> {
        let host = l1_entry & OFFSET;
        if l1_entry & L1_RESERVED != 0 || !self.is_cluster_offset(host) {
            return Err(());
        }
        Ok(host)
    }

    /// The block of a refcount table entry: as [`Layout::table_of`].
    pub fn block_of(self, entry: u64) -> Result<u64, ()> {
        if entry & REFTABLE_RESERVED != 0 || !self.is_cluster_offset(entry) || entry >= 1 << 56 {
            return Err(());
        }
        Ok(entry)
    }

    /// Of an image without any feature that changes its tables.
    #[cfg(test)]
    pub const fn standard(cluster_bits: u32, version: u32) -> Self {
        let refs = Width::of(4);
        Self { cluster_bits, version, refs, extended: false, external: false }
    }

    /// Clusters that hold a byte of `range`.
    pub fn clusters_of(self, range: Range) -> std::ops::Range<u64> {
        let end = range.offset.saturating_add(range.len);
        (range.offset >> self.cluster_bits)..end.div_ceil(self.cluster())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_decode_as_the_specification_says() {
        let v3 = Layout::standard(16, 3);
        assert_eq!(v3.entry(0), Entry::Unallocated);
        assert_eq!(v3.entry(COPIED | 0x50000), Entry::Data { host: 0x50000, owned: true });
        assert_eq!(v3.entry(0x50000), Entry::Data { host: 0x50000, owned: false });
        assert_eq!(v3.entry(ZERO), Entry::Zero { host: None, owned: false });
        let kept = Entry::Zero { host: Some(0x50000), owned: true };
        assert_eq!(v3.entry(COPIED | 0x50001), kept);
        assert_eq!(v3.entry(0x50200), Entry::Bad);
        assert_eq!(v3.entry(0x50002), Entry::Bad);
        assert_eq!(v3.entry(1 << 56 | 0x50000), Entry::Bad);
        let v2 = Layout { version: 2, ..v3 };
        assert_eq!(v2.entry(ZERO), Entry::Bad);
        // 64 KiB clusters: x = 62 - (16 - 8) = 54; three more sectors after the first.
        let raw = COMPRESSED | 3 << 54 | 0x12345;
        assert_eq!(v3.entry(raw), Entry::Compressed(Range::new(0x12345, 4 * 512 - 0x145)));
    }

    #[test]
    fn geometry_of_every_cluster_size_is_consistent() {
        for cluster_bits in 9..=21 {
            let standard = Layout::standard(cluster_bits, 3);
            let extended = Layout { extended: true, ..standard };
            let each = if cluster_bits < 14 { vec![standard] } else { vec![standard, extended] };
            for layout in each {
                let per_table = layout.slices_per_table() << layout.slice_bits();
                assert_eq!(per_table * 8 * layout.words() as u64, layout.cluster());
                assert_eq!(layout.slices_per_table() * layout.slice_bytes(), layout.cluster());
                let last = per_table * 3 - 1;
                assert_eq!(layout.l1_of_slice(layout.slice_of(last)), 2);
                let in_table = layout.slice_in_table(layout.slice_of(last));
                assert_eq!(in_table, layout.cluster() - layout.slice_bytes());
                assert_eq!(layout.l1_entries(per_table * layout.cluster() + 1), Some(2));
                assert_eq!(layout.l1_entries(u64::MAX), None);
            }
        }
    }

    #[test]
    fn subclusters_and_data_files_mean_what_the_specification_says() {
        let layout = Layout { extended: true, ..Layout::standard(16, 3) };
        assert_eq!(layout.unit(), 2048);
        assert_eq!((layout.subs(0, 1), layout.subs(2047, 2049)), (1, 3));
        assert_eq!(layout.subs(0, 65536), u32::MAX);
        let raw = Raw { word: COPIED | 0x50000, subs: Raw::bitmaps(0b1, 0b10) };
        let at = |raw, sub: u64| layout.at(raw, sub * 2048 + 5);
        assert_eq!(at(raw, 0), Entry::Data { host: 0x50000, owned: true });
        assert_eq!(at(raw, 1), Entry::Zero { host: Some(0x50000), owned: true });
        assert_eq!(at(raw, 2), Entry::Unallocated);
        assert_eq!(at(layout.zeros(), 31), Entry::Zero { host: None, owned: false });
        assert_eq!(at(Raw { subs: 1 << 32 | 1, ..raw }, 7), Entry::Bad);
        assert_eq!(at(Raw { word: 0, subs: 1 }, 7), Entry::Bad);
        let external = Layout { external: true, ..Layout::standard(16, 3) };
        assert_eq!(external.entry(COPIED), Entry::Data { host: 0, owned: true });
        assert_eq!(external.entry(0), Entry::Unallocated);
        assert_eq!(external.entry(COMPRESSED | 0x12345), Entry::Bad);
    }
}
