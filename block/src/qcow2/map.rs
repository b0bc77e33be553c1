//! The fast path: translation from cached entries.

use super::{
    Qcow2,
    layout::{Entry, Raw},
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx, Extent, ExtentKind, Lane, Map, OpKind, Pin, Range};

/// What a stretch of the disk is, as far as its slices are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// In the file at this offset.
    Host { at: u64, owned: bool },
    /// Reads as zeros: an entry says so (and may keep a host cluster), or there is nothing at all.
    Zero { at: Option<u64>, said: bool },
    /// The backing file decides.
    Backing,
    /// Compressed data in this range of the file: one cluster.
    Compressed(Range),
    /// An entry that means nothing: one cluster.
    Bad,
}

/// A stretch with its length in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub stretch: Stretch,
    pub len: u64,
    /// The mapping is durable.
    pub settled: bool,
    /// Nothing may be written here.
    pub tainted: bool,
}

impl Stretch {
    /// Whether `next`, a whole unit, continues this stretch of `len` bytes.
    fn continues(self, len: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Host { at, owned }, Self::Host { at: next, owned: next_owned }) => {
                at.checked_add(len) == Some(next) && owned == next_owned
            }
            (Self::Zero { at, said }, Self::Zero { at: next, said: next_said }) => {
                said == next_said && at.and_then(|at| at.checked_add(len)) == next
            }
            (Self::Backing, Self::Backing) => true,
            _ => false,
        }
    }
}

impl Qcow2 {
    /// What the byte `in_cluster` of a cluster is.
    pub(super) fn stretch_of(&self, raw: Raw, in_cluster: u64) -> Stretch {
        match self.layout.at(raw, in_cluster) {
            Entry::Data { host, owned } => Stretch::Host { at: host + in_cluster, owned },
            Entry::Zero { host, .. } => {
                Stretch::Zero { at: host.map(|host| host + in_cluster), said: true }
            }
            Entry::Unallocated if self.backing.is_some() => Stretch::Backing,
            // A subcluster may have a place without being in it.
            Entry::Unallocated => {
                let host = self.layout.extended.then(|| self.layout.host_of(raw.word)).flatten();
                Stretch::Zero { at: host.map(|host| host + in_cluster), said: false }
            }
            Entry::Compressed(range) => Stretch::Compressed(range),
            Entry::Bad => Stretch::Bad,
        }
    }

    /// What the start of `range` (not empty) is, merged over as many clusters as belong together.
    /// `None` where the first slice is not in memory. Takes no lock.
    ///
    /// The caller holds a pin that it took **before**: entries are loaded after that, so that a
    /// change made meanwhile is either seen here or waits for the pin.
    pub(super) fn look_up(&self, range: Range) -> Option<Found> {
        let layout = self.layout;
        let mut cluster = layout.guest_cluster(range.offset);
        let mut at = range.offset;
        let mut found: Option<Found> = None;
        while at < range.end() {
            let slice = layout.slice_of(cluster);
            let Some(view) = self.cache.find(slice) else { break };
            let before = found;
            let mut whole = true;
            while at < range.end() && layout.slice_of(cluster) == slice {
                let in_cluster = at & (layout.cluster() - 1);
                let here = self.stretch_of(view.load(layout.index_in_slice(cluster)), in_cluster);
                let unit = match here {
                    Stretch::Compressed(_) | Stretch::Bad => layout.cluster(),
                    _ => layout.unit(),
                };
                let len = (unit - (at & (unit - 1))).min(range.end() - at);
                match &mut found {
                    None => {
                        found = Some(Found { stretch: here, len, settled: true, tainted: false });
                    }
                    Some(f) if f.stretch.continues(f.len, here) => f.len += len,
                    Some(_) => {
                        whole = false;
                        break;
                    }
                }
                at += len;
                cluster = layout.guest_cluster(at);
            }
            if !view.holds() {
                return before;
            }
            if let Some(found) = &mut found {
                found.settled &= view.settled();
                found.tainted |= view.tainted();
            }
            if !whole {
                break;
            }
        }
        found
    }

    /// Whether leaves may be handed out at all: clusters are units that the file takes, and what is
    /// in it is what was written.
    fn has_leaves(&self) -> bool {
        self.layout.unit() >= self.data.host.align() && self.crypt.is_none()
    }

    pub(super) fn map_read(&self, lane: Lane, range: Range) -> Map {
        let pin = self.pins.pin(lane);
        let Some(found) = self.look_up(range) else { return Map::Slow };
        match found.stretch {
            // In pieces: the task reads them all at once, where the caller would do it in turn.
            Stretch::Host { .. } if found.len < range.len => Map::Slow,
            Stretch::Host { at, .. } if self.has_leaves() => {
                self.leaf(lane, OpKind::Read, Range::new(at, found.len), pin)
            }
            Stretch::Zero { .. } => Map::Zero { len: found.len },
            // Our own mapping needs no pin: nothing that happens here changes the backing file.
            Stretch::Backing => self.map_backing(lane, Range::new(range.offset, found.len)),
            _ => Map::Slow,
        }
    }

    pub(super) fn map_write(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if self.check_writable().is_err() || !self.has_leaves() {
            return Map::Slow;
        }
        let pin = self.pins.pin(lane);
        match self.look_up(range) {
            Some(Found { stretch: Stretch::Host { at, owned }, len, settled, tainted: false })
                if (owned || !holds(Rule::CopyShared))
                    && (self.is_recorded(Range::new(range.offset, len))
                        || !holds(Rule::BitmapBeforeData))
                    && (settled || op == OpKind::Write || !holds(Rule::DurableLeaf)) =>
            {
                self.leaf(lane, op, Range::new(at, len), pin)
            }
            _ => Map::Slow,
        }
    }

    fn leaf(&self, lane: Lane, op: OpKind, host: Range, pin: Pin) -> Map {
        match self.data.host.node().map(lane, op, host) {
            Map::Leaf { file, offset, len, pin: below } if below.is_none() => {
                Map::Leaf { file, offset, len, pin }
            }
            // A node between us and the file wants to see the request, or has pins of its own.
            _ => Map::Slow,
        }
    }

    fn map_backing(&self, lane: Lane, range: Range) -> Map {
        let Some(backing) = &self.backing else { return Map::Zero { len: range.len } };
        let info = backing.info();
        if range.offset >= info.size {
            return Map::Zero { len: range.len };
        }
        let len = range.len.min(info.size - range.offset);
        if !len.is_multiple_of(u64::from(info.request_alignment)) {
            return Map::Slow;
        }
        backing.map(lane, OpKind::Read, Range::new(range.offset, len))
    }

    /// While no metadata waits to be written, a flush is a sync of the file.
    pub(super) fn map_flush(&self, lane: Lane, range: Range) -> Map {
        if !self.cache.is_settled() && holds(Rule::DurableLeaf) {
            return Map::Slow;
        }
        self.data.host.node().map(lane, OpKind::Flush, range)
    }

    /// See [`Node::extent`].
    pub(super) async fn first_extent(&self, cx: &Cx, range: Range) -> Result<Extent, BlockError> {
        loop {
            let pin = self.pins.pin(cx.lane());
            let found = self.look_up(range);
            drop(pin);
            let Some(found) = found else {
                self.load_for(cx, range.offset).await?;
                continue;
            };
            let (kind, host_offset) = match found.stretch {
                Stretch::Host { at, .. } => (ExtentKind::Data, Some(at)),
                Stretch::Zero { at, said: true } => {
                    (ExtentKind::Zero { allocated: at.is_some() }, at)
                }
                Stretch::Zero { at, said: false } => (ExtentKind::Unallocated, at),
                Stretch::Backing => (ExtentKind::Unallocated, None),
                Stretch::Compressed(_) => (ExtentKind::Data, None),
                Stretch::Bad => return Err(BlockError::Corrupt),
            };
            // The bytes there are not those of the disk.
            let host_offset = host_offset.filter(|_| self.crypt.is_none());
            return Ok(Extent { len: found.len, kind, host_offset });
        }
    }
}
