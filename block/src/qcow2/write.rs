//! Writes that allocate, copy, or are more than one leaf.
//!
//! A task holds the guest clusters that it changes, so that their entries stay as it saw them. The
//! order within one write: take host clusters (their refcounts rise in memory), write data, publish
//! the entries, hand what they replaced to the limbo. An entry in the cache therefore always points
//! to data that was written, and write-back may take it at any time.

use super::{
    Qcow2,
    alloc::Run,
    join::{self, Work},
    layout::{Entry, Raw},
    map::Stretch,
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, IoBuf, Pin, Range};

/// Freed clusters in limbo before a write-back is run for their sake, in bytes.
const LIMBO_MAX: u64 = 32 << 20;

/// Pieces of one request that are written in place at once.
const WIDTH: usize = 16;

/// What is to be done with the first of some clusters, and how many go the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Write in place, from this host offset.
    InPlace(u64),
    /// Write to new clusters.
    Fresh,
    /// The cluster has its own place in the file, but other contents: fill that.
    Refill(u64),
    /// Write some of the subclusters of one cluster.
    Subclusters,
}

impl Plan {
    /// Whether a cluster for which `next` is to be done, `ahead` bytes on, goes the same way.
    fn goes_on(self, next: Self, ahead: u64) -> bool {
        match (self, next) {
            (Self::InPlace(a), Self::InPlace(b)) | (Self::Refill(a), Self::Refill(b)) => {
                a.checked_add(ahead) == Some(b)
            }
            (Self::Fresh, Self::Fresh) => true,
            _ => false,
        }
    }
}

/// Clusters that a write fills: guest cluster, host run, the old entries.
struct Target<'a> {
    first: u64,
    run: Run,
    old: &'a [Raw],
}

impl Qcow2 {
    pub(super) async fn write(&self, cx: &Cx, range: Range, buf: &IoBuf) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let part = self.within_slice(Range::new(at, range.end() - at));
            self.write_part(cx, part, buf, at - range.offset).await?;
            at = part.end();
        }
        self.relieve_limbo(cx).await
    }

    /// The start of `range` that one slice maps.
    pub(super) fn within_slice(&self, range: Range) -> Range {
        let bits = self.layout.cluster_bits + self.layout.slice_bits();
        let slice_end = ((range.offset >> bits) + 1) << bits;
        Range::new(range.offset, range.len.min(slice_end - range.offset))
    }

    /// Freed space must not pile up where nobody flushes.
    pub(super) async fn relieve_limbo(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.limbo.clusters() > (LIMBO_MAX >> self.layout.cluster_bits).max(64) {
            self.flush(cx).await?;
        }
        Ok(())
    }

    /// A part of a write whose clusters are mapped by one slice.
    async fn write_part(
        &self,
        cx: &Cx,
        range: Range,
        buf: &IoBuf,
        buf_at: u64,
    ) -> Result<(), BlockError> {
        let layout = self.layout;
        let (first, last) =
            (layout.guest_cluster(range.offset), layout.guest_cluster(range.end() - 1));
        let _held = if holds(Rule::ClusterLock) {
            Some(self.clusters.lock(first, last).await)
        } else {
            None
        };
        let entries = self.entries(cx, first, last).await?;
        let mut at = range.offset;
        let mut in_place: Vec<Work<'_>> = Vec::new();
        while at < range.end() {
            let index = (layout.guest_cluster(at) - first) as usize;
            let rest = Range::new(at, range.end() - at);
            let (plan, count) = self.plan(&entries[index..], rest)?;
            let run_end = ((first + index as u64 + count) << layout.cluster_bits).min(range.end());
            let piece = Range::new(at, run_end - at);
            let view = buf.view(buf_at + at - range.offset, piece.len);
            let old = &entries[index..index + count as usize];
            at += match plan {
                Plan::InPlace(host) => {
                    let in_cluster = at & (layout.cluster() - 1);
                    // The guard keeps discards away; the pin does so even if this task is dropped.
                    let pin = self.pins.pin(cx.lane());
                    let place = (at, host + in_cluster);
                    in_place.push(Box::pin(self.write_data(cx, place, view, pin)));
                    piece.len
                }
                Plan::Fresh => self.write_fresh(cx, piece, old, view).await?,
                Plan::Refill(host) => {
                    let run = Run { start: host >> layout.cluster_bits, len: count, zeroed: false };
                    let target = Target { first: first + index as u64, run, old };
                    self.own_table(cx, target.first).await?;
                    self.fill(cx, piece, &target, view).await?;
                    self.publish_data(cx, &target).await?;
                    piece.len
                }
                Plan::Subclusters => {
                    self.write_subclusters(cx, piece, old[0], view).await?;
                    piece.len
                }
            };
        }
        join::all(in_place.into_iter(), WIDTH).await
    }

    /// Decides for the first of these entries, in which `range` begins, and for as many as go with it.
    fn plan(&self, entries: &[Raw], range: Range) -> Result<(Plan, u64), BlockError> {
        let cluster = self.layout.cluster();
        let start = range.offset & !(cluster - 1);
        let way = |n: usize, raw: &Raw| {
            let from = range.offset.saturating_sub(start + n as u64 * cluster);
            let to = (range.end() - start - n as u64 * cluster).min(cluster);
            self.way(*raw, from, to)
        };
        let first = way(0, entries.first().ok_or(BlockError::Corrupt)?)?;
        let goes_on = |(n, raw): &(usize, &Raw)| {
            way(*n, raw).is_ok_and(|next| first.goes_on(next, *n as u64 * cluster))
        };
        let more = entries.iter().enumerate().skip(1).take_while(goes_on).count();
        Ok((first, 1 + more as u64))
    }

    /// How bytes `from..to` of a cluster with this entry are written.
    fn way(&self, raw: Raw, from: u64, to: u64) -> Result<Plan, BlockError> {
        let entry = self.layout.entry(raw.word);
        if !self.layout.extended {
            return match entry {
                Entry::Bad => Err(BlockError::Corrupt),
                Entry::Data { host, owned } if owned || !holds(Rule::CopyShared) => {
                    Ok(Plan::InPlace(host))
                }
                Entry::Zero { host: Some(host), owned: true } => Ok(Plan::Refill(host)),
                _ => Ok(Plan::Fresh),
            };
        }
        if self.layout.at(raw, from) == Entry::Bad {
            return Err(BlockError::Corrupt);
        }
        let touched = self.layout.subs(from, to);
        let whole = (from, to) == (0, self.layout.cluster());
        Ok(match entry {
            Entry::Data { host, owned: true } if raw.placed() & touched == touched => {
                Plan::InPlace(host)
            }
            Entry::Data { host, owned: true } if whole => Plan::Refill(host),
            Entry::Data { owned: true, .. } => Plan::Subclusters,
            _ if whole => Plan::Fresh,
            _ => Plan::Subclusters,
        })
    }

    /// Writes to newly allocated clusters. Returns how many bytes of `range` that did.
    async fn write_fresh(
        &self,
        cx: &Cx,
        range: Range,
        old: &[Raw],
        view: IoBuf,
    ) -> Result<u64, BlockError> {
        let layout = self.layout;
        let first = layout.guest_cluster(range.offset);
        self.own_table(cx, first).await?;
        let run = self.take_data(cx, first, old.len() as u64).await?;
        let end = ((first + run.len) << layout.cluster_bits).min(range.end());
        let piece = Range::new(range.offset, end - range.offset);
        let view = if piece == range { view } else { view.view(0, piece.len) };
        let target = Target { first, run, old: &old[..run.len as usize] };
        if !holds(Rule::DataBeforeMapping) {
            self.publish_data(cx, &target).await?;
            self.fill(cx, piece, &target, view).await?;
            return Ok(piece.len);
        }
        let mut done = self.fill(cx, piece, &target, view).await;
        if done.is_ok() {
            done = self.publish_data(cx, &target).await;
        }
        if let Err(error) = done {
            self.give_back_data(cx, run).await;
            return Err(error);
        }
        Ok(piece.len)
    }

    /// Points the guest clusters to the run, and lets go of what they pointed to.
    async fn publish_data(&self, cx: &Cx, target: &Target<'_>) -> Result<(), BlockError> {
        let hosts = target.run.start..target.run.start + target.run.len;
        let bits = self.layout.cluster_bits;
        let entries: Vec<Raw> = hosts.clone().map(|host| self.layout.data(host << bits)).collect();
        let number = self.publish(cx, target.first, &entries).await?;
        for (host, old) in hosts.zip(target.old) {
            if let Some(freed) = self.references(old.word)
                && freed != (host, 1)
            {
                self.limbo.push(number, freed);
            }
        }
        Ok(())
    }

    /// Writes `view`, the data of `range`, to the target's clusters, and around it what belongs
    /// there: the old contents of partially written clusters, or zeros.
    async fn fill(
        &self,
        cx: &Cx,
        range: Range,
        target: &Target<'_>,
        view: IoBuf,
    ) -> Result<(), BlockError> {
        let layout = self.layout;
        let start = target.first << layout.cluster_bits;
        let end = (target.first + target.run.len) << layout.cluster_bits;
        let end = self.within_data(Range::new(start, end - start)).end().max(range.end());
        let host = target.run.start << layout.cluster_bits;
        let last = target.old.last().copied().unwrap_or_default();
        let fill_head = range.offset > start && self.must_fill(target.run, target.old[0]);
        let fill_tail = range.end() < end && self.must_fill(target.run, last);
        let in_run = range.offset - start;
        if !fill_head && !fill_tail {
            return self.write_data(cx, (range.offset, host + in_run), view, Pin::NONE).await;
        }
        let _memory = self.copies.take(layout.cluster()).await;
        let head = Range::new(start, range.offset - start);
        let tail = Range::new(range.end(), end - range.end());
        if target.run.len == 1 {
            let mut whole = IoBuf::zeroed((end - start) as usize);
            for edge in [head, tail] {
                let into = whole.view(edge.offset - start, edge.len);
                self.read_old(cx, edge, last, into).await?;
            }
            whole.copy_from(in_run, &view, 0, range.len);
            return self.write_data(cx, (start, host), whole, Pin::NONE).await;
        }
        let mut work: Vec<Work<'_>> =
            vec![Box::pin(self.write_data(cx, (range.offset, host + in_run), view, Pin::NONE))];
        for (edge, old, wanted) in [(head, target.old[0], fill_head), (tail, last, fill_tail)] {
            if wanted {
                let to = host + (edge.offset - start);
                work.push(Box::pin(self.copy_edge(cx, edge, old, to)));
            }
        }
        join::all(work.into_iter(), 3).await
    }

    /// Writes what an old entry says about `edge`, within one cluster, to its new place.
    pub(super) async fn copy_edge(
        &self,
        cx: &Cx,
        edge: Range,
        old: Raw,
        to: u64,
    ) -> Result<(), BlockError> {
        let buf = IoBuf::zeroed(edge.len as usize);
        self.read_old(cx, edge, old, buf.view(0, edge.len)).await?;
        self.write_data(cx, (edge.offset, to), buf, Pin::NONE).await
    }

    /// Whether the unwritten parts of a cluster that had the entry `old` must be written too.
    fn must_fill(&self, run: Run, old: Raw) -> bool {
        self.must_fill_at(run, old, 0)
    }

    /// The same for the part at `in_cluster`.
    pub(super) fn must_fill_at(&self, run: Run, old: Raw, in_cluster: u64) -> bool {
        let zeros = matches!(self.stretch_of(old, in_cluster), Stretch::Zero { .. });
        // What a hole decrypts to is no zeros.
        let blank = run.zeroed && self.crypt.is_none();
        !(zeros && (blank || !holds(Rule::FillRecycled)))
    }

    /// Reads what an old entry says about `range`, within one cluster and, if there are such, in
    /// subclusters that are alike, into zeroed memory. What lies beyond the end of the disk stays zero,
    /// whatever a longer backing file has there.
    pub(super) async fn read_old(
        &self,
        cx: &Cx,
        range: Range,
        old: Raw,
        buf: IoBuf,
    ) -> Result<(), BlockError> {
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        // Machine state is in clusters of its own.
        let of_disk = range.offset & !(self.layout.cluster() - 1) < size;
        let inside = if of_disk { size.saturating_sub(range.offset) } else { range.len };
        let len = range.len.min(inside);
        if len == 0 {
            return Ok(());
        }
        let range = Range::new(range.offset, len);
        let mut buf = buf.view(0, len);
        let in_cluster = range.offset & (self.layout.cluster() - 1);
        match self.stretch_of(old, in_cluster) {
            Stretch::Zero { .. } => Ok(()),
            Stretch::Backing => self.read_backing(cx, range, buf).await,
            Stretch::Host { at, .. } => {
                let pin = self.pins.pin(cx.lane());
                self.read_data(cx, (range.offset, at), buf, pin).await
            }
            Stretch::Compressed(place) => {
                let bytes = self.unpacked(cx, place).await?;
                let from = in_cluster as usize;
                let wanted = bytes.get(from..from + len as usize).ok_or(BlockError::Corrupt)?;
                buf.write_at(0, wanted);
                Ok(())
            }
            Stretch::Bad => Err(BlockError::Corrupt),
        }
    }
}
