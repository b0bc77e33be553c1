//! Counting references.

use std::collections::HashMap;

use super::{
    super::{
        be,
        header::Header,
        host::Host,
        layout::{
            COMPRESSED, COPIED, Entry, L1_BYTES_MAX, L1_RESERVED, L2_RESERVED, Layout, OFFSET,
            REFTABLE_RESERVED, Raw,
        },
        snapshot::{Snapshot, TABLE_MAX, read_snapshots},
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

/// What is wrong with where a snapshot's L1 table is said to be.
fn impossible_l1(snapshot: &Snapshot, aligned: bool) -> Option<String> {
    if !aligned {
        let at = snapshot.l1_offset;
        return Some(format!("l1_offset={at:#x}: L1 table is not cluster aligned"));
    }
    (u64::from(snapshot.l1_size) * 8 > L1_BYTES_MAX)
        .then(|| format!("l1_size={:#x}: L1 table is too large", snapshot.l1_size))
}

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
    /// Snapshots that do not say all that they must; of the corruptions, so many.
    pub incomplete_snapshots: u64,
    /// Messages of the report that are not about flags.
    pub messages_before_flags: usize,
    /// Corruptions that are not about flags.
    pub corruptions_before_flags: u64,
}

/// The refcount block that was last looked at for clusters beyond the end of the file.
#[derive(Default)]
pub(in super::super) struct Beyond {
    block: Option<u64>,
    bytes: Vec<u8>,
}

struct Walker<'a> {
    cx: &'a Cx,
    host: &'a Host,
    walk: Walk,
    /// L2 tables by offset: references from the active L1 table, and from those of snapshots.
    tables: HashMap<u64, (u32, u32)>,
    /// Their offsets, in the order in which they were found.
    found: Vec<u64>,
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
            incomplete_snapshots: 0,
            messages_before_flags: 0,
            corruptions_before_flags: 0,
        };
        let mut walker = Walker { cx, host, walk, tables: HashMap::new(), found: Vec::new() };
        walker.all(header).await?;
        Ok(walker.walk)
    }

    /// Whether the refcounts need a new place: blocks are broken or missing or, where `anew` says so,
    /// something in use is not counted at all.
    pub fn must_rebuild(&self, anew: bool) -> bool {
        let per_block = self.layout.refs_per_block();
        let covered = |cluster: usize| {
            let block = cluster as u64 / per_block;
            self.reftable.get(block as usize).is_some_and(|e| *e != 0)
        };
        let missing = |cluster: usize| {
            self.references(cluster) > 0
                && ((anew && self.stored[cluster] == 0) || !covered(cluster))
        };
        self.structure_broken || (0..self.counted.len()).any(missing)
    }

    /// What the image says of the cluster at `offset`, which may be beyond the end of the file: one that
    /// was cut off still has its count.
    pub async fn stored_at(&self, cx: &Cx, host: &Host, beyond: &mut Beyond, offset: u64) -> u32 {
        let cluster = offset >> self.layout.cluster_bits;
        if let Some(count) = self.stored.get(cluster as usize) {
            return *count;
        }
        let per_block = self.layout.refs_per_block();
        let index = cluster / per_block;
        if beyond.block != Some(index) {
            let entry = self.reftable.get(index as usize).copied().unwrap_or(0);
            let block = self.layout.block_of(entry).unwrap_or(0);
            let inside = block >> self.layout.cluster_bits < self.counted.len() as u64;
            beyond.bytes.clear();
            if block != 0 && inside {
                let bytes = host.read(cx, block, self.layout.cluster() as usize).await;
                // What cannot be read was said before.
                beyond.bytes = bytes.unwrap_or_default();
            }
            beyond.block = Some(index);
        }
        if beyond.bytes.is_empty() {
            return 0;
        }
        let count = self.layout.refs.get(&beyond.bytes, cluster % per_block);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// References by host cluster.
    pub fn references(&self, cluster: usize) -> u32 {
        self.counted[cluster].saturating_add(self.structure[cluster])
    }
}

impl Walker<'_> {
    async fn all(&mut self, header: &Header) -> Result<(), CheckError> {
        self.add(Range::new(0, self.walk.layout.cluster()));
        match header.encryption_header() {
            Ok(None) => {}
            Ok(Some(place)) => drop(self.add(place)),
            Err(error) => self.walk.report.corruption(error.to_string()),
        }
        let snapshots = self.l1_tables(header).await?;
        self.l2_tables().await?;
        if let Some(place) = snapshots {
            self.add(place);
        }
        self.bitmaps(header).await?;
        self.refcounts(header).await?;
        self.compare();
        self.walk.messages_before_flags = self.walk.report.messages.len();
        self.walk.corruptions_before_flags = self.walk.report.corruptions;
        self.copied_flags().await
    }

    /// Counts a reference to each cluster of `range`.
    fn add(&mut self, range: Range) -> bool {
        self.add_to(range, 1, false)
    }

    fn add_to(&mut self, range: Range, times: u32, structure: bool) -> bool {
        let walk = &mut self.walk;
        let clusters = walk.layout.clusters_of(range);
        if clusters.end > walk.counted.len() as u64 {
            walk.report.exceeds(range);
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

    /// Also says where the snapshot table is.
    async fn l1_tables(&mut self, header: &Header) -> Result<Option<Range>, CheckError> {
        let bytes = u64::from(header.l1_size) * 8;
        self.add(Range::new(header.l1_offset, bytes));
        let doing = io("reading the L1 table");
        self.walk.l1 = self.read_table(header.l1_offset, bytes).await.map_err(doing)?;
        for entry in self.walk.l1.clone() {
            self.l1_entry(entry, true);
        }
        if header.snapshots == 0 {
            return Ok(None);
        }
        let (snapshots, bytes) = read_snapshots(self.cx, self.host, header)
            .await
            .map_err(io("reading the snapshot table"))?;
        for (index, snapshot) in snapshots.iter().enumerate() {
            // Version 3 says how large the disk was.
            if header.version >= 3 && snapshot.disk_size.is_none() {
                self.walk.incomplete_snapshots += 1;
                let message = format!("snapshot table entry {index} is incomplete");
                self.walk.report.corruption(message);
            }
        }
        let place = Range::new(header.snapshots_offset, bytes.min(TABLE_MAX));
        for snapshot in snapshots {
            let bytes = u64::from(snapshot.l1_size) * 8;
            let aligned = self.walk.layout.is_cluster_offset(snapshot.l1_offset);
            if let Some(what) = impossible_l1(&snapshot, aligned) {
                let (id, name) = (&snapshot.id, &snapshot.name);
                let message =
                    format!("snapshot {id} ({name}) {what}; snapshot table entry corrupted");
                self.walk.report.corruption(message);
                continue;
            }
            if !self.add(Range::new(snapshot.l1_offset, bytes)) {
                continue;
            }
            let doing = io("reading the L1 table of a snapshot");
            let entries = self.read_table(snapshot.l1_offset, bytes).await.map_err(doing)?;
            for entry in entries {
                self.l1_entry(entry, false);
            }
        }
        Ok(Some(place))
    }

    fn l1_entry(&mut self, entry: u64, active: bool) {
        let layout = self.walk.layout;
        let host = entry & OFFSET;
        if entry == 0 {
            return;
        }
        if entry & L1_RESERVED != 0 {
            let message = format!("found L1 entry with reserved bits set: {entry:x}");
            self.walk.report.corruption(message);
        }
        if !layout.is_cluster_offset(host) {
            let message =
                format!("l2_offset={host:x}: Table is not cluster aligned; L1 entry corrupted");
            self.walk.report.corruption(message);
        }
        let found = &mut self.found;
        let uses = self.tables.entry(host).or_insert_with(|| {
            found.push(host);
            (0, 0)
        });
        let uses = if active { &mut uses.0 } else { &mut uses.1 };
        *uses = uses.saturating_add(1);
    }

    async fn l2_tables(&mut self) -> Result<(), CheckError> {
        let cluster = self.walk.layout.cluster();
        for host in std::mem::take(&mut self.found) {
            let (active, snapshots) = self.tables.get(&host).copied().unwrap_or_default();
            let times = active.saturating_add(snapshots);
            if !self.add_to(Range::new(host, cluster), times, false) {
                continue;
            }
            match self.read_table(host, cluster).await {
                Ok(words) => self.l2_entries(&words, (active, times)),
                Err(error) => {
                    self.walk.report.check_errors += 1;
                    self.walk.report.say(format!("L2 table at {host:#x} cannot be read: {error}"));
                }
            }
        }
        Ok(())
    }

    fn l2_entries(&mut self, words: &[u64], (active, times): (u32, u32)) {
        let layout = self.walk.layout;
        let mut expected = None;
        for (index, raw) in layout.entries(words).enumerate() {
            if raw.word & L2_RESERVED != 0 && raw.word & COMPRESSED == 0 {
                let message = format!("found l2 entry with reserved bits set: {:x}", raw.word);
                self.walk.report.corruptions_of(times, message);
            }
            if raw.word & COMPRESSED != 0 {
                self.compressed_entry(index, raw, (active, times));
                continue;
            }
            let host = raw.word & OFFSET;
            let placed = host != 0 || (layout.external && raw.word & COPIED != 0);
            if let Some(what) = layout.bad_bitmaps(raw) {
                let place = if placed { format!(" offset={host:x}") } else { String::new() };
                self.walk.report.corruptions_said(times, format!("ERROR{place}: {what}"));
            }
            if !placed {
                continue;
            }
            if active > 0 {
                self.walk.report.allocated_clusters += 1;
                if expected.is_some_and(|e| e != host) {
                    self.walk.report.fragmented_clusters += 1;
                }
                expected = Some(host + layout.cluster());
            }
            if !layout.is_cluster_offset(host) {
                let kind = if layout.holds_data(raw) { "Data" } else { "Preallocated" };
                let message = format!(
                    "offset={host:x}: {kind} cluster is not properly aligned; L2 entry corrupted."
                );
                self.walk.report.corruptions_of(times, message);
            }
            if layout.external {
                continue;
            }
            // There may be millions of these.
            match self.walk.counted.get_mut((host >> layout.cluster_bits) as usize) {
                Some(count) if layout.is_cluster_offset(host) => {
                    *count = count.saturating_add(times);
                }
                _ => {
                    self.add_to(Range::new(host, layout.cluster()), times, false);
                }
            }
        }
    }

    fn compressed_entry(&mut self, index: usize, raw: Raw, (active, times): (u32, u32)) {
        let layout = self.walk.layout;
        let compressed =
            |why: &str| format!("compressed cluster {index} with {why}, entry={:#x}", raw.word);
        if raw.word & COPIED != 0 {
            let message = "copied flag must never be set for compressed clusters";
            let at = layout.compressed_at(raw.word);
            self.walk.report.corruptions_said(times, format!("ERROR: coffset={at:#x}: {message}"));
        }
        if layout.external {
            self.walk.report.corruptions_of(times, compressed("data file"));
            return;
        }
        if raw.subs != 0 {
            let message = compressed("non-zero subcluster allocation bitmap");
            self.walk.report.corruptions_of(times, message);
            return;
        }
        let range = layout.compressed_range(raw.word);
        if layout.entry(raw.word) == Entry::Bad {
            self.walk.report.exceeds(range);
        } else {
            // The last sector may reach beyond a file that ends with the data.
            let file = (self.walk.counted.len() as u64) << layout.cluster_bits;
            let len = range.len.min(file.saturating_sub(range.offset).max(1));
            self.add_to(Range::new(range.offset, len), times, false);
        }
        if active > 0 {
            self.walk.report.allocated_clusters += 1;
            self.walk.report.compressed_clusters += 1;
            self.walk.report.fragmented_clusters += 1;
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
        if !self.add(Range::new(offset, bytes)) {
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
        if !self.add(Range::new(table, bytes)) {
            return Ok(());
        }
        let doing = io("reading a bitmap table");
        for entry in self.read_table(table, bytes).await.map_err(doing)? {
            let host = entry & OFFSET;
            if host != 0 {
                self.add(Range::new(host, layout.cluster()));
            }
        }
        Ok(())
    }

    /// The refcount table and its blocks.
    async fn refcounts(&mut self, header: &Header) -> Result<(), CheckError> {
        let layout = self.walk.layout;
        let bytes = u64::from(header.reftable_clusters) << layout.cluster_bits;
        let range = Range::new(header.reftable_offset, bytes);
        let inside = self.add_to(range, 1, true);
        self.walk.structure_broken |= !inside;
        let doing = io("reading the refcount table");
        self.walk.reftable = self.read_table(range.offset, bytes).await.map_err(doing)?;
        for index in 0..self.walk.reftable.len() {
            let entry = self.walk.reftable[index];
            if entry == 0 {
                continue;
            }
            let wrong = match layout.block_of(entry) {
                Ok(host) => {
                    let cluster = (host >> layout.cluster_bits) as usize;
                    if cluster >= self.walk.counted.len() {
                        Some(format!("refcount block {index} is outside image"))
                    } else {
                        self.add_to(Range::new(host, layout.cluster()), 1, true);
                        let count = self.walk.references(cluster);
                        (count != 1).then(|| format!("refcount block {index} refcount={count}"))
                    }
                }
                Err(()) if entry & REFTABLE_RESERVED != 0 => {
                    // What it points to counts all the same.
                    let block = entry & !REFTABLE_RESERVED;
                    let inside = block >> layout.cluster_bits < self.walk.counted.len() as u64;
                    if layout.is_cluster_offset(block) && inside {
                        self.stored_counts(index as u64, block).await;
                    }
                    Some(format!("refcount table entry {index} has reserved bits set"))
                }
                Err(()) if layout.is_cluster_offset(entry) => {
                    Some(format!("refcount block {index} is outside image"))
                }
                Err(()) => Some(format!(
                    "refcount block {index} is not cluster aligned; refcount table entry corrupted"
                )),
            };
            if let Some(message) = wrong {
                self.walk.structure_broken = true;
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
        let Walk { counted, structure, stored, report, layout, .. } = &mut self.walk;
        let references = counted.iter().zip(&*structure).map(|(a, b)| a.saturating_add(*b));
        let both = stored.iter().copied().zip(references);
        let used = both.clone().rposition(|(stored, counted)| stored | counted != 0);
        report.image_end_offset = used.map_or(0, |last| (last as u64 + 1) << layout.cluster_bits);
        for (cluster, (stored, counted)) in both.enumerate() {
            if stored == counted {
                continue;
            }
            let message = format!("cluster {cluster} refcount={stored} reference={counted}");
            if stored < counted {
                report.corruption(message);
            } else {
                report.leak(message);
            }
        }
    }

    /// The flag that says "refcount 1" in the active tables.
    async fn copied_flags(&mut self) -> Result<(), CheckError> {
        let layout = self.walk.layout;
        let mut beyond = Beyond::default();
        for index in 0..self.walk.l1.len() {
            let entry = self.walk.l1[index];
            let host = entry & OFFSET;
            if host == 0 {
                continue;
            }
            let count = self.walk.stored_at(self.cx, self.host, &mut beyond, host).await;
            if (entry & COPIED != 0) != (count == 1) {
                let message = format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                );
                self.wrong_flag(host, entry, message);
            }
            if layout.table_of(entry).is_err() {
                continue;
            }
            let Ok(words) = self.read_table(host, layout.cluster()).await else { continue };
            for raw in layout.entries(&words).map(|raw| raw.word) {
                let data = raw & OFFSET;
                if raw & COMPRESSED != 0 || data == 0 {
                    continue;
                }
                let count = match layout.external {
                    true => 1,
                    false => self.walk.stored_at(self.cx, self.host, &mut beyond, data).await,
                };
                if (raw & COPIED != 0) != (count == 1) {
                    let message =
                        format!("OFLAG_COPIED data cluster: l2_entry={raw:x} refcount={count}");
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
}
