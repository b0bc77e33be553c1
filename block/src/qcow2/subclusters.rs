//! Clusters that are made of subclusters: only those that a request touches get a place or lose their
//! contents. The entry has a bit for each that says "it has a place", and one that says "it reads as
//! zeros"; neither means that the backing file decides.
//!
//! The order is that of every write: the contents of a subcluster are in its place before the bit that
//! says so is published. The task holds the cluster.
//!
//! Source: QEMU `docs/interop/qcow2.txt`, "Extended L2 Entries".

use super::{
    Qcow2,
    alloc::Run,
    join::{self, Work},
    layout::{COPIED, Entry, Raw},
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, IoBuf, Pin, Range};

/// Pieces of a cluster that are written at once.
const WIDTH: usize = 8;

/// What becomes of a cluster of which some subclusters are written.
struct Change {
    run: Run,
    old: Raw,
    /// Subclusters that get a place by this, and what else is to be in it first.
    filled: u32,
    /// Subclusters that move with the cluster.
    moved: u32,
}

/// Runs of set bits: first, and number.
fn runs(bits: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut rest = bits;
    let mut at = 0;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros();
        rest >>= skip;
        let len = rest.trailing_ones();
        let first = at + skip;
        at = first + len;
        rest = rest.checked_shr(len).unwrap_or(0);
        Some((first, len))
    })
}

impl Qcow2 {
    /// Writes `range`, a part of one cluster whose entry is `old`.
    pub(super) async fn write_subclusters(
        &self,
        cx: &Cx,
        range: Range,
        old: Raw,
        view: IoBuf,
    ) -> Result<(), BlockError> {
        let layout = self.layout;
        let cluster = layout.guest_cluster(range.offset);
        self.own_table(cx, cluster).await?;
        let in_cluster = range.offset & (layout.cluster() - 1);
        let touched = layout.subs(in_cluster, in_cluster + range.len);
        let change = match layout.entry(old.word) {
            Entry::Data { host, owned: true } => Change {
                run: Run { start: host >> layout.cluster_bits, len: 1, zeroed: false },
                old,
                filled: touched & !old.placed(),
                moved: 0,
            },
            entry => {
                let moved = match entry {
                    Entry::Data { .. } => old.placed() & !touched,
                    Entry::Compressed(_) => !touched,
                    _ => 0,
                };
                let run = self.take_data(cx, cluster, 1).await?;
                Change { run, old, filled: touched, moved }
            }
        };
        let host = change.run.start << layout.cluster_bits;
        let is_new = layout.host_of(old.word) != Some(host);
        let kept = if is_new { 0 } else { old.placed() };
        let placed = kept | change.filled | change.moved;
        let zeroed = old.zeroed() & !placed;
        let new = Raw { word: host | COPIED, subs: Raw::bitmaps(placed, zeroed) };
        let done = if holds(Rule::FillSubclusters) {
            match self.fill_subclusters(cx, range, &change, view).await {
                Ok(()) => self.publish(cx, cluster, &[new]).await,
                Err(error) => Err(error),
            }
        } else {
            let number = self.publish(cx, cluster, &[new]).await;
            self.fill_subclusters(cx, range, &change, view).await.and(number)
        };
        match done {
            Ok(number) => {
                if let Some(freed) = self.references(old.word).filter(|_| is_new) {
                    self.limbo.push(number, freed);
                }
                Ok(())
            }
            Err(error) => {
                if is_new {
                    self.give_back_data(cx, change.run).await;
                }
                Err(error)
            }
        }
    }

    /// Writes `view`, around it the rest of the subclusters that it fills in part, and those that
    /// move.
    async fn fill_subclusters(
        &self,
        cx: &Cx,
        range: Range,
        change: &Change,
        view: IoBuf,
    ) -> Result<(), BlockError> {
        let layout = self.layout;
        let bits = layout.unit_bits();
        let start = range.offset & !(layout.cluster() - 1);
        let host = change.run.start << layout.cluster_bits;
        let filled = |at: u64| {
            let sub = (at - start) >> bits;
            change.filled >> sub & 1 == 1 && self.must_fill_at(change.run, change.old, at - start)
        };
        let first = range.offset & !(layout.unit() - 1);
        let last = (range.end() - 1) & !(layout.unit() - 1);
        let from = if filled(range.offset) { first } else { range.offset };
        let to = if filled(range.end() - 1) { last + layout.unit() } else { range.end() };
        // A data file ends where the disk does.
        let to = self.within_data(Range::new(from, to - from)).end().max(range.end());
        let _memory = self.copies.take(layout.cluster()).await;
        let mut work: Vec<Work<'_>> = Vec::new();
        for (first, len) in runs(change.moved) {
            let part = Range::new(start + (u64::from(first) << bits), u64::from(len) << bits);
            work.push(Box::pin(self.copy_edge(cx, part, change.old, host + (part.offset - start))));
        }
        let write = async {
            if (from, to) == (range.offset, range.end()) {
                let at = host + (range.offset - start);
                return self.write_data(cx, (range.offset, at), view, Pin::NONE).await;
            }
            let mut whole = IoBuf::zeroed((to - from) as usize);
            for (from_edge, to_edge) in [(from, range.offset), (range.end(), to)] {
                let edge = Range::new(from_edge, to_edge - from_edge);
                let into = whole.view(from_edge - from, edge.len);
                self.read_old(cx, edge, change.old, into).await?;
            }
            whole.copy_from(range.offset - from, &view, 0, range.len);
            self.write_data(cx, (from, host + (from - start)), whole, Pin::NONE).await
        };
        work.push(Box::pin(write));
        join::all(work.into_iter(), WIDTH).await
    }

    /// The subclusters of one cluster that hold `range`, which begins and ends with one (or with the
    /// disk), read as zeros; where `unmap` says so, they give their space back.
    pub(super) async fn zero_subclusters(
        &self,
        cx: &Cx,
        range: Range,
        unmap: bool,
    ) -> Result<(), BlockError> {
        let layout = self.layout;
        let cluster = layout.guest_cluster(range.offset);
        let _held = self.clusters.lock(cluster, cluster).await;
        let entries = self.entries(cx, cluster, cluster).await?;
        let old = entries.first().copied().unwrap_or_default();
        let in_cluster = range.offset & (layout.cluster() - 1);
        let touched = layout.subs(in_cluster, in_cluster + range.len);
        if self.layout.at(old, in_cluster) == Entry::Bad {
            return Err(BlockError::Corrupt);
        }
        if self.data.is_raw() {
            self.data.host.zero(cx, self.within_data(range), unmap).await?;
        }
        match layout.entry(old.word) {
            // It has no bits of its own: what is left of it becomes a cluster.
            Entry::Compressed(_) => {
                let zeros = IoBuf::zeroed(range.len as usize);
                return self.write_subclusters(cx, range, old, zeros).await;
            }
            Entry::Data { .. } if self.data.is_raw() && old.placed() & touched == touched => {
                return Ok(());
            }
            Entry::Unallocated if self.backing.is_none() => return Ok(()),
            _ => {}
        }
        let (placed, zeroed) = (old.placed() & !touched, old.zeroed() | touched);
        let new = Raw { word: old.word, subs: Raw::bitmaps(placed, zeroed) };
        if new == old {
            return Ok(());
        }
        self.own_table(cx, cluster).await?;
        self.publish(cx, cluster, &[new]).await?;
        // Nobody needs what is there, whatever a crash brings back; nobody else has it either.
        if unmap
            && !self.data.is_raw()
            && let Entry::Data { host, owned: true } = layout.entry(old.word)
        {
            for (first, len) in runs(touched & old.placed()) {
                let bits = layout.unit_bits();
                let at = host + (u64::from(first) << bits);
                self.data.host.punch(cx, Range::new(at, u64::from(len) << bits)).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn runs_of_bits() {
        let of = |bits| runs(bits).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(u32::MAX), [(0, 32)]);
        assert_eq!(of(0b1011_0001), [(0, 1), (4, 2), (7, 1)]);
        assert_eq!(of(1 << 31), [(31, 1)]);
        assert_eq!(of(0xc000_0001), [(0, 1), (30, 2)]);
    }
}
