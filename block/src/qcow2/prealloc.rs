//! Clusters get their place in the file before anything is written to them.

use super::{
    Qcow2,
    layout::{Entry, Raw},
};
use crate::{BlockError, Cx, IoBuf, Pin, Range};

/// Zeros for a place that may hold anything are written in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

impl Qcow2 {
    /// Gives the clusters of `range` that read as zeros and have no place in the file one
    /// (`preallocation=metadata`). They read as before; what a backing file says is left alone.
    ///
    /// # Errors
    /// As for any write; a part may have its place then.
    pub async fn preallocate(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        self.check_writable()?;
        let mut at = range.offset & !(self.layout.cluster() - 1);
        while at < range.end() {
            let part = self.within_slice(Range::new(at, range.end() - at));
            self.preallocate_part(cx, part).await?;
            at = part.end();
        }
        self.flush(cx).await
    }

    /// A part whose clusters are mapped by one slice.
    async fn preallocate_part(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let first = self.layout.guest_cluster(range.offset);
        let last = self.layout.guest_cluster(range.end() - 1);
        let _held = self.clusters.lock(first, last).await;
        let old = self.entries(cx, first, last).await?;
        let mut index = 0;
        while let Some(rest) = old.get(index..).filter(|rest| !rest.is_empty()) {
            let cluster = first + index as u64;
            let placeless =
                (cluster..).zip(rest).take_while(|(n, raw)| self.is_placeless(*n, **raw));
            let count = placeless.count() as u64;
            if count == 0 {
                index += 1;
                continue;
            }
            self.own_table(cx, cluster).await?;
            let run = self.take_data(cx, cluster, count).await?;
            let bits = self.layout.cluster_bits;
            let mut done = Ok(());
            if !run.zeroed || self.crypt.is_some() {
                let places = (cluster << bits, run.start << bits);
                done = self.write_blank(cx, places, run.len << bits).await;
            }
            if done.is_ok() {
                let hosts = run.start..run.start + run.len;
                let new: Vec<Raw> = hosts.map(|host| self.layout.data(host << bits)).collect();
                done = self.publish(cx, cluster, &new).await.map(drop);
            }
            if let Err(error) = done {
                self.give_back_data(cx, run).await;
                return Err(error);
            }
            index += run.len as usize;
        }
        Ok(())
    }

    /// Whether a cluster reads as zeros, all of it, without a place in the file.
    fn is_placeless(&self, cluster: u64, raw: Raw) -> bool {
        let backing_end = self.backing.as_ref().map_or(0, |backing| backing.info().size);
        match self.whole(raw) {
            // With subclusters, some of these may be zeros and others the backing file's.
            Entry::Unallocated => cluster << self.layout.cluster_bits >= backing_end,
            Entry::Zero { host, .. } => host.is_none(),
            _ => false,
        }
    }

    /// Writes zeros to clusters at a guest and a host offset.
    async fn write_blank(
        &self,
        cx: &Cx,
        (guest, host): (u64, u64),
        len: u64,
    ) -> Result<(), BlockError> {
        let len = self.within_data(Range::new(guest, len)).len;
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            let buf = IoBuf::zeroed(piece as usize);
            self.write_data(cx, (guest + done, host + done), buf, Pin::NONE).await?;
            done += piece;
        }
        Ok(())
    }
}
