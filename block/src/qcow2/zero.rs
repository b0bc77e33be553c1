//! Discards and write-zeroes: whole clusters by their entries, parts by writing zeros.

use super::{
    Qcow2,
    layout::{COPIED, Entry, Raw, ZERO},
    map::Stretch,
};
use crate::{BlockError, Cx, IoBuf, Range};

/// Zeros for a part of a cluster are written in pieces of this many bytes.
const ZERO_PIECE: u64 = 256 << 10;

/// What becomes of a whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Nobody needs the data.
    Discard,
    /// It reads as zeros, and its space is given back.
    Unmap,
    /// It reads as zeros and keeps its place.
    Keep,
    /// The backing file decides.
    Forget,
}

/// What to do with one cluster to reach an aim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It is so already.
    Nothing,
    /// A new entry.
    Entry(Raw),
    /// Only writing zeros helps.
    Write,
}

impl Qcow2 {
    pub(super) async fn discard(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let unit = self.layout.unit();
        let start = range.offset.next_multiple_of(unit);
        // The last unit of the disk may be cut short by its end.
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let end = if range.end() == size {
            size.next_multiple_of(unit)
        } else {
            range.end() / unit * unit
        };
        if start < end {
            self.change_units(cx, Range::new(start, end - start), Aim::Discard).await?;
        }
        self.relieve_limbo(cx).await
    }

    pub(super) async fn write_zeroes(
        &self,
        cx: &Cx,
        range: Range,
        unmap: bool,
    ) -> Result<(), BlockError> {
        let unit = self.layout.unit();
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let start = range.offset.next_multiple_of(unit).min(range.end());
        let whole_end = if range.end() >= size {
            range.end().next_multiple_of(unit)
        } else {
            range.end() / unit * unit
        };
        let end = whole_end.max(start);
        for (from, to) in [(range.offset, start), (end, range.end())] {
            if from < to {
                self.write_zeros(cx, Range::new(from, to - from)).await?;
            }
        }
        let start = range.offset.next_multiple_of(unit);
        if start < end {
            let aim = if unmap { Aim::Unmap } else { Aim::Keep };
            self.change_units(cx, Range::new(start, end - start), aim).await?;
        }
        self.relieve_limbo(cx).await
    }

    /// Whole units: clusters by their entries, single subclusters by their bits. What reaches to the end
    /// of the disk counts as reaching to the end of its cluster.
    async fn change_units(&self, cx: &Cx, range: Range, aim: Aim) -> Result<(), BlockError> {
        let cluster = self.layout.cluster();
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        let range_end =
            if range.end() >= size { range.end().next_multiple_of(cluster) } else { range.end() };
        let start = range.offset.next_multiple_of(cluster).min(range_end);
        let end = (range_end / cluster * cluster).max(start);
        // Without subclusters both are empty.
        for (from, to) in [(range.offset, start), (end, range_end)] {
            if from < to {
                let part = Range::new(from, to - from);
                self.zero_subclusters(cx, part, aim != Aim::Keep).await?;
            }
        }
        if start < end {
            self.change_clusters(cx, Range::new(start, end - start), aim).await?;
        }
        Ok(())
    }

    /// Empties the image: the disk reads as the backing file does, and all space is given back. Every
    /// request is drained.
    ///
    /// # Errors
    /// As for any write; a part may be empty then.
    pub async fn make_empty(&self, cx: &Cx) -> Result<(), BlockError> {
        /// Freed clusters wait for a flush; this bounds how many.
        const STEP: u64 = 1 << 30;
        self.check_writable()?;
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        self.record(cx, Range::new(0, size)).await?;
        let end = size.next_multiple_of(self.layout.cluster());
        let mut at = 0;
        while at < end {
            let len = STEP.min(end - at);
            self.change_clusters(cx, Range::new(at, len), Aim::Forget).await?;
            self.relieve_limbo(cx).await?;
            at += len;
        }
        self.flush(cx).await
    }

    /// Whole clusters have no entry from now on: the backing file decides, or they are zeros.
    pub(super) async fn forget(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        self.change_clusters(cx, range, Aim::Forget).await?;
        self.relieve_limbo(cx).await
    }

    /// Writes zeros where there is anything else.
    async fn write_zeros(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let unit_end = (at | (self.layout.unit() - 1)) + 1;
            let end = range.end().min(unit_end).min(at + ZERO_PIECE);
            let cluster = self.layout.guest_cluster(at);
            let entry = self.entries(cx, cluster, cluster).await?;
            let in_cluster = at & (self.layout.cluster() - 1);
            let stretch = entry.first().map(|raw| self.stretch_of(*raw, in_cluster));
            let zero = matches!(stretch, Some(Stretch::Zero { .. }));
            if !zero {
                let buf = IoBuf::zeroed((end - at) as usize);
                self.write(cx, Range::new(at, end - at), &buf).await?;
            }
            at = end;
        }
        Ok(())
    }

    /// Whole clusters.
    async fn change_clusters(&self, cx: &Cx, range: Range, aim: Aim) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let part = self.within_slice(Range::new(at, range.end() - at));
            let first = self.layout.guest_cluster(at);
            let last = self.layout.guest_cluster(part.end() - 1);
            let to_write = self.change_entries(cx, first, last, aim).await?;
            for cluster in to_write {
                // Whole, even where the disk ends before the cluster does.
                let start = cluster << self.layout.cluster_bits;
                self.write_zeros(cx, Range::new(start, self.layout.cluster())).await?;
            }
            at = part.end();
        }
        Ok(())
    }

    /// Changes the entries of clusters in one slice. Returns those that must be written instead.
    async fn change_entries(
        &self,
        cx: &Cx,
        first: u64,
        last: u64,
        aim: Aim,
    ) -> Result<Vec<u64>, BlockError> {
        let _held = self.clusters.lock(first, last).await;
        let old = self.entries(cx, first, last).await?;
        let mut new = old.clone();
        let mut to_write = Vec::new();
        for ((cluster, raw), new) in (first..).zip(&old).zip(&mut new) {
            match self.change(*raw, aim)? {
                Change::Nothing => {}
                Change::Entry(entry) => *new = entry,
                Change::Write => to_write.push(cluster),
            }
        }
        if self.data.is_raw() && aim != Aim::Forget {
            self.zero_raw_data(cx, first, &old, aim != Aim::Keep).await?;
        }
        if new == old {
            return Ok(to_write);
        }
        self.own_table(cx, first).await?;
        let number = self.publish(cx, first, &new).await?;
        for (old, new) in old.iter().zip(&new) {
            if let Some(freed) = self.references(old.word)
                && Some(freed) != self.references(new.word)
            {
                self.limbo.push(number, freed);
            }
        }
        // What is forgotten must not be zeros before the entry is gone from the file.
        if self.data.is_external() && aim != Aim::Forget {
            self.punch_data(cx, first, &old, &new).await;
        }
        Ok(to_write)
    }

    /// The entry of a cluster as a whole, as far as that can be said in one word: subclusters that are
    /// not alike count as data.
    pub(super) fn whole(&self, raw: Raw) -> Entry {
        let entry = self.layout.entry(raw.word);
        if !self.layout.extended {
            return entry;
        }
        let all = |bitmap: u32| bitmap == u32::MAX;
        match entry {
            Entry::Unallocated if raw.placed() != 0 => Entry::Bad,
            Entry::Unallocated if all(raw.zeroed()) => Entry::Zero { host: None, owned: false },
            Entry::Data { .. } if raw.placed() & raw.zeroed() != 0 => Entry::Bad,
            Entry::Data { host, owned } if all(raw.zeroed()) => {
                Entry::Zero { host: Some(host), owned }
            }
            other => other,
        }
    }

    fn change(&self, raw: Raw, aim: Aim) -> Result<Change, BlockError> {
        let v3 = self.layout.version >= 3;
        let hides_backing = self.backing.is_some();
        let entry = self.whole(raw);
        let zeros = Change::Entry(self.layout.zeros());
        let nothing = Change::Entry(Raw::default());
        if self.data.is_raw() && matches!(entry, Entry::Data { .. }) && aim != Aim::Forget {
            // Its zeros are in the data file.
            let whole = !self.layout.extended || raw.placed() == u32::MAX;
            return Ok(if whole { Change::Nothing } else { Change::Entry(self.all_placed(raw)) });
        }
        Ok(match (entry, aim) {
            (Entry::Bad, _) => return Err(BlockError::Corrupt),
            (Entry::Unallocated, Aim::Discard | Aim::Forget) if raw == Raw::default() => {
                Change::Nothing
            }
            (_, Aim::Forget) => nothing,
            (Entry::Unallocated, _) if !hides_backing => Change::Nothing,
            (Entry::Unallocated, Aim::Discard) if !self.layout.extended => Change::Nothing,
            (Entry::Unallocated, _) if v3 => zeros,
            (Entry::Unallocated, _) => Change::Write,
            (Entry::Zero { .. }, Aim::Keep) => Change::Nothing,
            (Entry::Zero { host: None, .. }, _) => Change::Nothing,
            (Entry::Data { owned: true, .. }, Aim::Keep) if v3 => Change::Entry(self.kept(raw)),
            (Entry::Data { .. }, Aim::Keep) if !v3 => Change::Write,
            // The rest has a place in the file that it gives up. With a backing file, an empty
            // entry would bring its data back: zeros must be said, or the data kept.
            _ if !hides_backing => nothing,
            _ if v3 => zeros,
            (_, Aim::Discard) => Change::Nothing,
            _ => Change::Write,
        })
    }

    /// The entry of a cluster that keeps its place and reads as zeros.
    fn kept(&self, raw: Raw) -> Raw {
        if self.layout.extended {
            Raw { word: raw.word | COPIED, subs: Raw::bitmaps(0, u32::MAX) }
        } else {
            Raw::plain(raw.word | ZERO | COPIED)
        }
    }

    /// The entry of a cluster all of whose subclusters are data.
    fn all_placed(&self, raw: Raw) -> Raw {
        Raw { word: raw.word, subs: Raw::bitmaps(u32::MAX, 0) }
    }
}
