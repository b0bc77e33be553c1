//! What an L1 table holds: its L2 tables, and what their entries point to.

use super::{
    super::{
        Qcow2,
        alloc::Held,
        be,
        layout::{COPIED, OFFSET},
    },
    SnapshotError,
};
use crate::{BlockError, Cx};

/// Runs of host clusters; each lost or gained one reference.
pub(super) type Runs = Vec<(u64, u64)>;

fn add(runs: &mut Runs, (start, len): (u64, u64)) {
    match runs.last_mut() {
        Some((first, n)) if *first + *n == start => *n += len,
        _ => runs.push((start, len)),
    }
}

impl Qcow2 {
    /// The L2 tables of an L1 table, each as often as it is named.
    pub(super) fn tables_of(&self, l1: &[u64]) -> Result<Vec<u64>, BlockError> {
        let table = |entry: &u64| self.layout.table_of(*entry).map_err(|()| BlockError::Corrupt);
        let tables: Result<Vec<u64>, _> = l1.iter().map(table).collect();
        Ok(tables?.into_iter().filter(|host| *host != 0).collect())
    }

    async fn read_l2(&self, cx: &Cx, host: u64) -> Result<Vec<u64>, BlockError> {
        Ok(be::table(&self.host.read(cx, host, self.layout.cluster() as usize).await?))
    }

    /// Every reference that an L1 table and its L2 tables hold.
    pub(super) async fn references_of(&self, cx: &Cx, l1: &[u64]) -> Result<Runs, BlockError> {
        let mut runs = Runs::new();
        for host in self.tables_of(l1)? {
            for raw in self.read_l2(cx, host).await?.into_iter().step_by(self.layout.words()) {
                if let Some(run) = self.references(raw) {
                    add(&mut runs, run);
                }
            }
            add(&mut runs, (host >> self.layout.cluster_bits, 1));
        }
        Ok(runs)
    }

    /// Takes one reference more to every cluster of `runs`; all of them or none.
    pub(super) async fn raise_all(
        &self,
        cx: &Cx,
        runs: &[(u64, u64)],
    ) -> Result<(), SnapshotError> {
        let mut raised = Runs::new();
        for cluster in runs.iter().flat_map(|&(start, len)| start..start + len) {
            let result = match self.alloc.raise(cx, &self.host, cluster).await {
                Ok(true) => {
                    add(&mut raised, (cluster, 1));
                    continue;
                }
                Ok(false) => Err(SnapshotError::RefcountWidth),
                Err(error) => Err(error.into()),
            };
            // They are in use: none of them becomes free by this.
            self.alloc.lower(cx, &self.host, &raised).await?;
            return result;
        }
        Ok(())
    }

    /// Clears the flag that says "by nobody else" in the L2 tables of `l1`, in the file. Not durable
    /// before the next sync.
    pub(super) async fn clear_flags(&self, cx: &Cx, l1: &[u64]) -> Result<(), BlockError> {
        for host in self.tables_of(l1)? {
            let old = self.read_l2(cx, host).await?;
            let mut new = old.clone();
            for raw in new.iter_mut().step_by(self.layout.words()) {
                *raw &= !COPIED;
            }
            self.rewrite(cx, host, &old, &new).await?;
        }
        Ok(())
    }

    /// Sets the flag wherever a refcount is one, in an active L1 table and its L2 tables in the
    /// file. Returns the L1 table as it is then, which the caller writes. Not durable before the
    /// next sync.
    pub(super) async fn set_flags(&self, cx: &Cx, l1: &[u64]) -> Result<Vec<u64>, BlockError> {
        let mut new_l1 = l1.to_vec();
        for entry in &mut new_l1 {
            let host = *entry & OFFSET;
            if host == 0 || self.held(cx, host).await? != Held::Once {
                continue;
            }
            *entry |= COPIED;
            let old = self.read_l2(cx, host).await?;
            let mut new = old.clone();
            for raw in new.iter_mut().step_by(self.layout.words()) {
                if let Some(data) = self.layout.host_of(*raw)
                    && self.held(cx, data).await? == Held::Once
                {
                    *raw |= COPIED;
                }
            }
            self.rewrite(cx, host, &old, &new).await?;
        }
        Ok(new_l1)
    }

    async fn held(&self, cx: &Cx, host: u64) -> Result<Held, BlockError> {
        self.alloc.held(cx, &self.host, host >> self.layout.cluster_bits).await
    }

    async fn rewrite(&self, cx: &Cx, at: u64, old: &[u64], new: &[u64]) -> Result<(), BlockError> {
        if old == new {
            return Ok(());
        }
        self.host.write_bytes(cx, at, &table_bytes(new)).await
    }
}

/// The bytes of a table of 64-bit entries.
pub(super) fn table_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
