//! Bitmaps in the file: read, and written to new places before the header names them.

use super::{
    super::{
        Qcow2,
        alloc::Run,
        be,
        header::{AUTOCLEAR_BITMAPS, Header},
        layout::OFFSET,
        mutation::{Rule, holds},
        open::OpenError,
        replace::replace_header,
    },
    bits::DirtyBits,
    dir::{self, BITMAPS_MAX, DIRECTORY_MAX, Entry, TABLE_MAX},
};
use crate::{BlockError, Cx};

/// A table entry without a cluster: all bits are set.
const ALL_ONES: u64 = 1;

/// The directory that a header leads to, and where it is; `None` where there is none that can be
/// used.
pub(super) async fn read_directory(
    cx: &Cx,
    image: &Qcow2,
    header: &Header,
) -> Result<Option<Vec<Entry>>, BlockError> {
    let Some((count, bytes, offset)) = header.bitmaps() else { return Ok(None) };
    let sound = count <= BITMAPS_MAX
        && bytes <= DIRECTORY_MAX
        && image.layout.is_cluster_offset(offset)
        && offset.checked_add(bytes).is_some_and(|end| end <= image.host.node().info().size);
    if !sound {
        return Ok(None);
    }
    let directory = image.host.read(cx, offset, bytes as usize).await?;
    Ok(dir::parse(&directory, count))
}

impl Qcow2 {
    /// The table of a bitmap.
    pub(super) async fn bitmap_table(&self, cx: &Cx, one: &Entry) -> Result<Vec<u64>, BlockError> {
        let bytes = u64::from(one.entries) * 8;
        let end = one.table.checked_add(bytes).ok_or(BlockError::Corrupt)?;
        let file = self.host.node().info().size;
        if one.entries > TABLE_MAX || !self.layout.is_cluster_offset(one.table) || end > file {
            return Err(BlockError::Corrupt);
        }
        Ok(be::table(&self.host.read(cx, one.table, bytes as usize).await?))
    }

    /// The bits of a bitmap of a disk of `size` bytes, and its table.
    pub(super) async fn load_bits(
        &self,
        cx: &Cx,
        one: &Entry,
        size: u64,
    ) -> Result<(DirtyBits, Vec<u64>), BlockError> {
        let table = self.bitmap_table(cx, one).await?;
        let expected =
            size.div_ceil(1 << one.granularity_bits).div_ceil(8).div_ceil(self.layout.cluster());
        if table.len() as u64 != expected {
            return Err(BlockError::Corrupt);
        }
        let bits = DirtyBits::new(one.granularity_bits, size);
        let cluster = self.layout.cluster();
        for (index, entry) in (0..).zip(&table) {
            let at = index * cluster;
            let len = cluster.min(bits.stored_len() - at) as usize;
            match (entry & OFFSET, entry & ALL_ONES) {
                (0, 0) => {}
                (0, _) => bits.load(at, &vec![0xff; len]),
                (host, _) if self.layout.is_cluster_offset(host) => {
                    bits.load(at, &self.host.read(cx, host, len).await?);
                }
                _ => return Err(BlockError::Corrupt),
            }
        }
        Ok((bits, table))
    }

    /// Writes bits to new clusters, with a new table. Nothing names it yet. `taken` collects what
    /// was allocated.
    pub(super) async fn store_bits(
        &self,
        cx: &Cx,
        bits: &DirtyBits,
        taken: &mut Vec<Run>,
    ) -> Result<(u64, u32), BlockError> {
        let cluster = self.layout.cluster();
        let count = bits.stored_len().div_ceil(cluster);
        let entries = u32::try_from(count).map_err(|_| BlockError::OutOfRange)?;
        if entries > TABLE_MAX {
            return Err(BlockError::OutOfRange);
        }
        let mut table = vec![0u64; entries as usize];
        for (index, entry) in (0..).zip(&mut table) {
            let bytes = bits.stored(index * cluster, cluster as usize);
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let Some(place) = self.take_for(cx, cluster).await? else { continue };
            taken.push(place);
            *entry = place.start << self.layout.cluster_bits;
            self.host.write_bytes(cx, *entry, &bytes).await?;
        }
        let Some(place) = self.take_for(cx, table.len() as u64 * 8).await? else {
            return Ok((0, 0));
        };
        taken.push(place);
        self.write_whole(
            cx,
            place,
            &table.iter().flat_map(|e| e.to_be_bytes()).collect::<Vec<_>>(),
        )
        .await?;
        Ok((place.start << self.layout.cluster_bits, entries))
    }

    async fn write_whole(&self, cx: &Cx, place: Run, bytes: &[u8]) -> Result<(), BlockError> {
        let mut whole = bytes.to_vec();
        whole.resize((place.len << self.layout.cluster_bits) as usize, 0);
        self.host.write_bytes(cx, place.start << self.layout.cluster_bits, &whole).await
    }

    /// Writes a directory of these bitmaps and makes the header name it, with the size of the disk
    /// that they belong to. The caller holds `order`, and what the entries lead to has been written.
    ///
    /// Order: refcounts and everything new are durable before the header, which changes in one
    /// sector; the caller frees the old afterwards.
    pub(super) async fn name_bitmaps(
        &self,
        cx: &Cx,
        list: &[Entry],
        size: u64,
        taken: &mut Vec<Run>,
    ) -> Result<(), OpenError> {
        let io = |source: BlockError| OpenError::Io { doing: "writing bitmaps", source };
        let bytes = dir::to_bytes(list);
        let mut offset = 0;
        let place = self.take_for(cx, bytes.len() as u64).await.map_err(io)?;
        if let Some(place) = place {
            taken.push(place);
            offset = place.start << self.layout.cluster_bits;
        }
        if holds(Rule::BitmapRefsFirst) {
            self.write_all_refcounts(cx).await.map_err(io)?;
        }
        if let Some(place) = place.filter(|_| holds(Rule::BitmapTablesFirst)) {
            self.write_whole(cx, place, &bytes).await.map_err(io)?;
        }
        let (mut header, _) = super::super::open::read_first_cluster(cx, &self.host).await?;
        header.size = size;
        header.set_bitmaps((!list.is_empty()).then_some((
            list.len() as u32,
            bytes.len() as u64,
            offset,
        )));
        header.autoclear &= !AUTOCLEAR_BITMAPS;
        header.autoclear |= if list.is_empty() { 0 } else { AUTOCLEAR_BITMAPS };
        replace_header(cx, &self.host, &header).await?;
        if let Some(place) = place.filter(|_| !holds(Rule::BitmapTablesFirst)) {
            self.write_whole(cx, place, &bytes).await.map_err(io)?;
        }
        let sector = self.host.read(cx, 0, 512).await.map_err(io)?;
        self.header_is(sector);
        Ok(())
    }
}
