//! Counting references.

use std::collections::BTreeMap;

use super::{
    super::{
        be,
        header::Header,
        host::Host,
        layout::{COPIED, Entry, L1_BYTES_MAX, Layout, OFFSET},
        snapshot::{TABLE_MAX, read_snapshots},
    },
    CheckError, Report, io,
};
use crate::{BlockError, Cx, Range};

/// The most clusters that are counted: three counters of four bytes for each, of which only the pages
/// that are touched take memory. Counts beyond 32 bits are as good as the largest.
const CLUSTERS_MAX: u64 = 1 << 28;
/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Bitmaps that an image can have, and bytes of their directory and tables: the limits of QEMU.
const BITMAPS_MAX: u32 = 65535;
const BITMAP_DIRECTORY_MAX: u64 = 64 << 20;
const BITMAP_TABLE_MAX: u64 = 64 << 20;

/// Everything that is known of an image.
pub(in super::super) struct Walk {
    pub layout: Layout,
    /// References by host cluster, without those of the refcount structures.
    pub counted: Vec<u32>,
    /// References of the refcount structures.
    pub structure: Vec<u32>,
    /// What the image says.
    pub stored: Vec<u32>,
    pub reftable: Vec<u64>,
    /// Blocks that cannot be used as they are.
    pub structure_broken: bool,
    pub l1: Vec<u64>,
    pub report: Report,
}

struct Walker<'a> {
    cx: &'a Cx,
    host: &'a Host,
    walk: Walk,
    /// L2 tables by offset: references from the active L1 table, and from those of snapshots.
    tables: BTreeMap<u64, (u32, u32)>,
}

impl Walk {
    pub async fn new(cx: &Cx, host: &Host, header: &Header) -> Result<Self, CheckError> {
        let layout = header.layout();
        let file = host.node().info().size;
        let clusters = file.div_ceil(layout.cluster());
        if clusters > CLUSTERS_MAX {
            return Err(CheckError::TooLarge(clusters));
        }
        let empty = || vec![0u32; clusters as usize];
        let report =
            Report { total_clusters: header.size.div_ceil(layout.cluster()), ..Report::default() };
        let walk = Self {
            layout,
            counted: empty(),
            structure: empty(),
            stored: empty(),
            reftable: Vec::new(),
            structure_broken: false,
            l1: Vec::new(),
            report,
        };
        let mut walker = Walker { cx, host, walk, tables: BTreeMap::new() };
        walker.all(header).await?;
        Ok(walker.walk)
    }

    /// References by host cluster.
    pub fn references(&self, cluster: usize) -> u32 {
        self.counted[cluster].saturating_add(self.structure[cluster])
    }
}

impl Walker<'_> {
    async fn all(&mut self, header: &Header) -> Result<(), CheckError> {
        self.add(Range::new(0, self.walk.layout.cluster()), "header");
        match header.encryption_header() {
            Ok(None) => {}
            Ok(Some(place)) => drop(self.add(place, "encryption header")),
            Err(error) => self.walk.report.corruption(error.to_string()),
        }
        self.l1_tables(header).await?;
        self.l2_tables().await?;
        self.bitmaps(header).await?;
        self.refcounts(header).await?;
        self.compare();
        self.copied_flags().await
    }

    /// Counts a reference to each cluster of `range`.
    fn add(&mut self, range: Range, what: &str) -> bool {
        self.add_to(range, 1, what, false)
    }

    fn add_to(&mut self, range: Range, times: u32, what: &str, structure: bool) -> bool {
        let walk = &mut self.walk;
        let clusters = walk.layout.clusters_of(range);
        if clusters.end > walk.counted.len() as u64 {
            walk.report.corruption(format!("{what} at {:#x} is outside the file", range.offset));
            return false;
        }
        let counts = if structure { &mut walk.structure } else { &mut walk.counted };
        for count in &mut counts[clusters.start as usize..clusters.end as usize] {
            *count = count.saturating_add(times);
        }
        true
    }

    async fn read_table(&self, offset: u64, bytes: u64) -> Result<Vec<u64>, BlockError> {
        Ok(be::table(&self.host.read(self.cx, offset, bytes as usize).await?))
    }

    async fn l1_tables(&mut self, header: &Header) -> Result<(), CheckError> {
        let bytes = u64::from(header.l1_size) * 8;
        self.add(Range::new(header.l1_offset, bytes), "L1 table");
        let doing = io("reading the L1 table");
        self.walk.l1 = self.read_table(header.l1_offset, bytes).await.map_err(doing)?;
        for (index, entry) in self.walk.l1.clone().into_iter().enumerate() {
            self.l1_entry(index, entry, true);
        }
        if header.snapshots == 0 {
            return Ok(());
        }
        let (snapshots, bytes) = read_snapshots(self.cx, self.host, header)
            .await
            .map_err(io("reading the snapshot table"))?;
        self.add(Range::new(header.snapshots_offset, bytes.min(TABLE_MAX)), "snapshot table");
        for snapshot in snapshots {
            let bytes = u64::from(snapshot.l1_size) * 8;
            let aligned = self.walk.layout.is_cluster_offset(snapshot.l1_offset);
            if bytes > L1_BYTES_MAX || !aligned {
                let message = format!("L1 table of snapshot '{}' is impossible", snapshot.name);
                self.walk.report.corruption(message);
                continue;
            }
            if !self.add(Range::new(snapshot.l1_offset, bytes), "L1 table of a snapshot") {
                continue;
            }
            let doing = io("reading the L1 table of a snapshot");
            let entries = self.read_table(snapshot.l1_offset, bytes).await.map_err(doing)?;
            for (index, entry) in entries.into_iter().enumerate() {
                self.l1_entry(index, entry, false);
            }
        }
        Ok(())
    }

    fn l1_entry(&mut self, index: usize, entry: u64, active: bool) {
        match self.walk.layout.table_of(entry) {
            Ok(0) => {}
            Ok(host) => {
                let uses = self.tables.entry(host).or_default();
                if active { uses.0 += 1 } else { uses.1 += 1 }
            }
            Err(()) => {
                let message = format!("L1 entry {index} is {entry:#x}: not a table");
                self.walk.report.corruption(message);
            }
        }
    }

    async fn l2_tables(&mut self) -> Result<(), CheckError> {
        let cluster = self.walk.layout.cluster();
        let tables = std::mem::take(&mut self.tables);
        for (&host, &(active, snapshots)) in &tables {
            let times = active.saturating_add(snapshots);
            if !self.add_to(Range::new(host, cluster), times, "L2 table", false) {
                continue;
            }
            match self.read_table(host, cluster).await {
                Ok(entries) => self.l2_entries(&entries, host, (active, times)),
                Err(error) => {
                    self.walk.report.check_errors += 1;
                    self.walk.report.say(format!("L2 table at {host:#x} cannot be read: {error}"));
                }
            }
        }
        self.tables = tables;
        Ok(())
    }

    fn l2_entries(&mut self, entries: &[u64], table: u64, (active, times): (u32, u32)) {
        let layout = self.walk.layout;
        let mut expected = None;
        for (index, raw) in entries.iter().enumerate() {
            let bad = match layout.entry(*raw) {
                Entry::Unallocated | Entry::Zero { host: None, .. } => false,
                Entry::Zero { host: Some(host), .. } | Entry::Data { host, .. } => {
                    let range = Range::new(host, layout.cluster());
                    self.add_to(range, times, "cluster of the disk", false);
                    if active > 0 {
                        self.walk.report.allocated_clusters += 1;
                        if expected.is_some_and(|e| e != host) {
                            self.walk.report.fragmented_clusters += 1;
                        }
                        expected = Some(host + layout.cluster());
                    }
                    false
                }
                Entry::Compressed(range) => {
                    // The last sector may reach beyond a file that ends with the data.
                    let file = (self.walk.counted.len() as u64) << layout.cluster_bits;
                    let len = range.len.min(file.saturating_sub(range.offset).max(1));
                    self.add_to(Range::new(range.offset, len), times, "compressed cluster", false);
                    if active > 0 {
                        self.walk.report.allocated_clusters += 1;
                        self.walk.report.compressed_clusters += 1;
                        self.walk.report.fragmented_clusters += 1;
                    }
                    raw & COPIED != 0
                }
                Entry::Bad => true,
            };
            if bad {
                let message = format!("entry {index} of the L2 table at {table:#x} is {raw:#x}");
                self.walk.report.corruption(message);
            }
        }
    }

    /// Clusters of persistent bitmaps.
    async fn bitmaps(&mut self, header: &Header) -> Result<(), CheckError> {
        let Some((count, bytes, offset)) = header.bitmaps() else { return Ok(()) };
        let layout = self.walk.layout;
        if count > BITMAPS_MAX || bytes > BITMAP_DIRECTORY_MAX || !layout.is_cluster_offset(offset)
        {
            self.walk.report.corruption("the bitmap directory is impossible".to_owned());
            return Ok(());
        }
        if !self.add(Range::new(offset, bytes), "bitmap directory") {
            return Ok(());
        }
        let doing = io("reading the bitmap directory");
        let directory = self.host.read(self.cx, offset, bytes as usize).await.map_err(doing)?;
        let mut at = 0usize;
        for _ in 0..count {
            // Entry: table offset, table entries, flags, type, granularity, name and extra lengths.
            if at + 24 > directory.len() {
                break;
            }
            let (table, entries) =
                (be::u64_at(&directory, at), u64::from(be::u32_at(&directory, at + 8)));
            let name = usize::from(be::u16_at(&directory, at + 18));
            let extra = be::u32_at(&directory, at + 20) as usize;
            at = (at + 24 + name).saturating_add(extra).next_multiple_of(8);
            self.bitmap_table(table, entries * 8).await?;
        }
        Ok(())
    }

    async fn bitmap_table(&mut self, table: u64, bytes: u64) -> Result<(), CheckError> {
        let layout = self.walk.layout;
        if bytes > BITMAP_TABLE_MAX || !layout.is_cluster_offset(table) {
            self.walk.report.corruption(format!("bitmap table at {table:#x} is impossible"));
            return Ok(());
        }
        if !self.add(Range::new(table, bytes), "bitmap table") {
            return Ok(());
        }
        let doing = io("reading a bitmap table");
        for entry in self.read_table(table, bytes).await.map_err(doing)? {
            let host = entry & OFFSET;
            if host != 0 {
                self.add(Range::new(host, layout.cluster()), "bitmap data");
            }
        }
        Ok(())
    }

    /// The refcount table and its blocks.
    async fn refcounts(&mut self, header: &Header) -> Result<(), CheckError> {
        let layout = self.walk.layout;
        let bytes = u64::from(header.reftable_clusters) << layout.cluster_bits;
        let range = Range::new(header.reftable_offset, bytes);
        let inside = self.add_to(range, 1, "refcount table", true);
        self.walk.structure_broken |= !inside;
        let doing = io("reading the refcount table");
        self.walk.reftable = self.read_table(range.offset, bytes).await.map_err(doing)?;
        for index in 0..self.walk.reftable.len() {
            let entry = self.walk.reftable[index];
            let ok = match layout.block_of(entry) {
                Ok(0) => continue,
                Ok(host) => {
                    let block = Range::new(host, layout.cluster());
                    let inside = self.add_to(block, 1, "refcount block", true);
                    inside && self.walk.structure[(host >> layout.cluster_bits) as usize] == 1
                }
                Err(()) => false,
            };
            if !ok {
                self.walk.structure_broken = true;
                let message = format!("refcount table entry {index} is {entry:#x}");
                self.walk.report.corruption(message);
                continue;
            }
            self.stored_counts(index as u64, entry).await;
        }
        Ok(())
    }

    async fn stored_counts(&mut self, index: u64, block: u64) {
        let per_block = self.walk.layout.refs_per_block();
        let mut at = 0;
        while at < self.walk.layout.cluster() {
            let len = PIECE.min(self.walk.layout.cluster() - at);
            let bytes = match self.host.read(self.cx, block + at, len as usize).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.walk.report.check_errors += 1;
                    let message = format!("refcount block at {block:#x} cannot be read: {error}");
                    self.walk.report.say(message);
                    return;
                }
            };
            let refs = self.walk.layout.refs;
            let first = index * per_block + refs.in_bytes(at);
            // What is counted beyond the end of the file wastes nothing.
            let counted = (self.walk.stored.len() as u64).saturating_sub(first);
            for n in 0..refs.in_bytes(len).min(counted) {
                let count = refs.get(&bytes, n);
                self.walk.stored[(first + n) as usize] = u32::try_from(count).unwrap_or(u32::MAX);
            }
            at += len;
        }
    }

    fn compare(&mut self) {
        for cluster in 0..self.walk.counted.len() {
            let (stored, counted) = (self.walk.stored[cluster], self.walk.references(cluster));
            if stored != 0 || counted != 0 {
                let end = (cluster as u64 + 1) << self.walk.layout.cluster_bits;
                self.walk.report.image_end_offset = end;
            }
            let message = || format!("cluster {cluster} refcount={stored} reference={counted}");
            if stored < counted {
                self.walk.report.corruption(message());
            } else if stored > counted {
                self.walk.report.leak(message());
            }
        }
    }

    /// The flag that says "refcount 1" in the active tables.
    async fn copied_flags(&mut self) -> Result<(), CheckError> {
        let layout = self.walk.layout;
        for index in 0..self.walk.l1.len() {
            let entry = self.walk.l1[index];
            let Ok(host) = layout.table_of(entry) else { continue };
            if host == 0 || !self.copied_is_right(host, entry) {
                if host != 0 {
                    let message = format!("OFLAG_COPIED of L1 entry {index}: {entry:#x}");
                    self.wrong_flag(host, entry, message);
                }
                if host == 0 {
                    continue;
                }
            }
            let Ok(entries) = self.read_table(host, layout.cluster()).await else { continue };
            for (at, raw) in entries.into_iter().enumerate() {
                let data = match layout.entry(raw) {
                    Entry::Data { host, .. } | Entry::Zero { host: Some(host), .. } => host,
                    _ => continue,
                };
                if !self.copied_is_right(data, raw) {
                    let message =
                        format!("OFLAG_COPIED of entry {at} of table {host:#x}: {raw:#x}");
                    self.wrong_flag(data, raw, message);
                }
            }
        }
        Ok(())
    }

    fn wrong_flag(&mut self, host: u64, entry: u64, message: String) {
        let cluster = (host >> self.walk.layout.cluster_bits) as usize;
        let once = cluster < self.walk.counted.len() && self.walk.references(cluster) == 1;
        self.walk.report.harmless_flags += u64::from(entry & COPIED == 0 || once);
        self.walk.report.corruption(message);
    }

    fn copied_is_right(&self, host: u64, entry: u64) -> bool {
        let cluster = (host >> self.walk.layout.cluster_bits) as usize;
        let stored = self.walk.stored.get(cluster).copied().unwrap_or(0);
        (entry & COPIED != 0) == (stored == 1)
    }
}
