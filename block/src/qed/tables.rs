//! The two levels of tables.

use std::sync::Mutex;

use super::spec::{self, Header};
use crate::{
    BlockError, Cx,
    mapped::{Change, PIECE, Place, Space, Tables, Work, le},
    qcow2::{host::Host, sync::lock},
};

/// How much larger than it is the disk may become while it is open, and how large in any case.
const GROWTH: u64 = 8;
const GROWTH_BYTES: u64 = 1 << 40;

/// L1 in memory, and L2 tables in the file.
pub(super) struct Levels {
    header: Header,
    l1: Mutex<Vec<u64>>,
}

impl Levels {
    pub fn new(header: Header, l1: Vec<u64>) -> Self {
        Self { header, l1: Mutex::new(l1) }
    }

    /// L2 tables that there are.
    pub fn tables(&self) -> u64 {
        lock(&self.l1).iter().filter(|entry| **entry != 0).count() as u64
    }

    /// Where the entry of a block is in the file, if its table is there.
    pub fn entry_at(&self, block: u64) -> Option<u64> {
        let entries = self.header.entries();
        let table = *lock(&self.l1).get(usize::try_from(block / entries).ok()?)?;
        (table != 0).then(|| table + block % entries * 8)
    }

    fn l1_index(&self, block: u64) -> usize {
        (block / self.header.entries()) as usize
    }

    /// Makes an L2 table, all zeros, that nothing points to yet.
    async fn make_table(&self, cx: &Cx, host: &Host, space: &Space) -> Result<u64, BlockError> {
        let taken = space.take(cx, host, self.header.table()).await?;
        if !taken.zeroed {
            host.write_bytes(cx, taken.at, &vec![0; self.header.table() as usize]).await?;
        }
        Ok(taken.at)
    }
}

impl Tables for Levels {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            // Tables hold a multiple of PIECE entries, so a piece is in one.
            let Some(at) = self.entry_at(piece * PIECE) else {
                return Ok(vec![Place::Unallocated; PIECE as usize]);
            };
            let bytes = host.read(cx, at, PIECE as usize * 8).await?;
            let place = |entry: u64| match entry {
                0 => Place::Unallocated,
                1 => Place::Zero,
                at if at.is_multiple_of(self.header.cluster) => Place::Data(at),
                _ => Place::Bad,
            };
            Ok(le::table64(&bytes).map(place).collect())
        })
    }

    fn store<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        space: &'a Space,
        changes: &'a [Change],
    ) -> Work<'a, ()> {
        Box::pin(async move {
            let mut made: Vec<(usize, u64)> = Vec::new();
            for change in changes {
                let index = self.l1_index(change.first);
                let known = lock(&self.l1).get(index).copied().unwrap_or(0);
                let fresh = made.iter().find(|(i, _)| *i == index).map(|(_, at)| *at);
                let table = match (known, fresh) {
                    (0, Some(at)) => at,
                    (0, None) => {
                        let at = self.make_table(cx, host, space).await?;
                        made.push((index, at));
                        at
                    }
                    (at, _) => at,
                };
                for run in crate::mapped::runs(change) {
                    let entry = |place: &Place| match *place {
                        Place::Data(at) => at,
                        Place::Zero => 1,
                        _ => 0,
                    };
                    let places = change.entries[run.clone()].iter();
                    let bytes: Vec<u8> = places.flat_map(|p| entry(p).to_le_bytes()).collect();
                    let block = change.first + run.start as u64;
                    let at = table + block % self.header.entries() * 8;
                    host.write_bytes(cx, at, &bytes).await?;
                }
            }
            if made.is_empty() {
                return Ok(());
            }
            // New tables are whole before the first level points to them.
            host.sync(cx).await?;
            for (index, at) in made {
                let entry = self.header.l1_at + index as u64 * 8;
                host.write_bytes(cx, entry, &at.to_le_bytes()).await?;
                if let Some(known) = lock(&self.l1).get_mut(index) {
                    *known = at;
                }
            }
            Ok(())
        })
    }

    fn begin<'a>(&'a self, cx: &'a Cx, host: &'a Host) -> Work<'a, ()> {
        Box::pin(async move {
            if self.header.autoclear != 0 {
                // Features that we do not keep up are void before anything changes.
                host.write_bytes(cx, spec::AUTOCLEAR_AT, &[0; 8]).await?;
                host.sync(cx).await?;
            }
            Ok(())
        })
    }

    fn grow<'a>(&'a self, cx: &'a Cx, host: &'a Host, size: u64) -> Work<'a, ()> {
        Box::pin(async move {
            host.write_bytes(cx, spec::SIZE_AT, &size.to_le_bytes()).await?;
            host.sync(cx).await
        })
    }

    fn size_max(&self) -> u64 {
        let reach = self.header.size.saturating_mul(GROWTH).max(GROWTH_BYTES);
        reach.min(self.header.size_max())
    }
}
