//! Random requests of many tasks on a disk whose sectors are followed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::sectors::{SECTOR, Sectors, Value, encode};
use crate::{
    Cx, Io, IoBuf, Node, Op, Range,
    conformance::stage::{Job, Stage, job},
    submit::node_io,
};

/// The sectors of a disk, shared by the tasks that change it and those that check it.
pub type SharedSectors = Arc<Mutex<Sectors>>;

/// Locks the sectors. Never held across a wait.
pub fn lock(sectors: &SharedSectors) -> MutexGuard<'_, Sectors> {
    sectors.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a disk grows: some requests have been made then, and others follow.
const GROW_AFTER: Duration = Duration::from_millis(2);

/// What a history is like.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Decides every request.
    pub seed: u64,
    /// Tasks, over all iothreads.
    pub tasks: usize,
    /// Requests of each.
    pub requests: u32,
    /// Clusters that most requests go to.
    pub hot: u64,
    /// How likely each request is.
    pub mix: Mix,
    /// The disk grows to this many bytes meanwhile.
    pub grow_to: Option<u64>,
}

/// Weights of the requests of a history.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Writes.
    pub write: u32,
    /// Write-zeroes.
    pub zeroes: u32,
    /// Discards.
    pub discard: u32,
    /// Flushes.
    pub flush: u32,
    /// Of writes and write-zeroes, one in so many is FUA; 0 for none.
    pub fua: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { read: 15, write: 50, zeroes: 10, discard: 15, flush: 10, fua: 8 }
    }
}

struct Task {
    node: Arc<dyn Node>,
    sectors: SharedSectors,
    history: History,
    rng: fastrand::Rng,
}

/// Runs a history to its end.
///
/// # Errors
/// A sentence about the first request that failed or read what it must not.
pub fn run(
    stage: &Stage,
    node: &Arc<dyn Node>,
    sectors: &SharedSectors,
    history: History,
) -> Result<(), String> {
    let mut jobs: Vec<Job<Result<(), String>>> = (0..history.tasks as u64)
        .map(|n| {
            let rng = fastrand::Rng::with_seed(history.seed ^ (n << 40));
            let task = Task { node: Arc::clone(node), sectors: Arc::clone(sectors), history, rng };
            job(move |cx| task.run(cx))
        })
        .collect();
    if let Some(size) = history.grow_to {
        let node = Arc::clone(node);
        jobs.push(job(move |cx| async move {
            cx.sleep(GROW_AFTER).await;
            node.resize(cx, size).await.map_err(|e| format!("resize to {size}: {e}"))
        }));
    }
    stage.run_all(jobs)?.into_iter().collect()
}

impl Task {
    async fn run(mut self, cx: Cx) -> Result<(), String> {
        for _ in 0..self.history.requests {
            let op = self.choose();
            self.request(&cx, op).await?;
        }
        Ok(())
    }

    fn choose(&mut self) -> Op {
        let mix = self.history.mix;
        let fua = mix.fua > 0 && self.rng.u32(0..mix.fua) == 0;
        let unmap = self.rng.bool();
        let choices = [
            (mix.read, Op::Read),
            (mix.write, Op::Write { fua }),
            (mix.zeroes, Op::WriteZeroes { unmap, fua }),
            (mix.discard, Op::Discard),
            (mix.flush, Op::Flush),
        ];
        let mut dice = self.rng.u32(0..choices.iter().map(|c| c.0).sum::<u32>().max(1));
        for (weight, op) in choices {
            match dice.checked_sub(weight) {
                Some(rest) => dice = rest,
                None => return op,
            }
        }
        Op::Flush
    }

    /// Whole blocks: a few of them in one cluster, a whole cluster, or across several.
    fn range(&mut self) -> Range {
        let info = self.node.info();
        // The sectors are those of the disk at its largest.
        let size = info.size.min(lock(&self.sectors).size());
        let block = u64::from(info.request_alignment).max(SECTOR);
        let cluster = u64::from(info.preferred_write).max(block);
        let clusters = size.div_ceil(cluster);
        let hot = if self.rng.u8(0..4) > 0 { self.history.hot.min(clusters) } else { clusters };
        let start = self.rng.u64(0..hot) * cluster;
        let inside = self.rng.u64(0..cluster / block) * block;
        let (from, len) = match self.rng.u8(0..8) {
            0 => (start, cluster),
            1 => (start, cluster * self.rng.u64(1..=3)),
            2 => (start + inside, cluster),
            3 => (start + inside, cluster - inside),
            _ => (start + inside, block * self.rng.u64(1..=4)),
        };
        let from = from.min(size - block);
        Range::new(from, len.min(size - from))
    }

    async fn request(&mut self, cx: &Cx, op: Op) -> Result<(), String> {
        match op {
            Op::Flush => {
                let start = lock(&self.sectors).tick();
                let (_, result) = node_io(cx, &self.node, Io::flush()).await;
                result.map_err(|e| format!("flush: {e}"))?;
                lock(&self.sectors).flushed(start);
            }
            Op::Read => {
                let range = self.range();
                let start = lock(&self.sectors).start_read();
                let buf = IoBuf::from_slice(&vec![0xee; range.len as usize]);
                let (io, result) = node_io(cx, &self.node, Io { op, range, buf }).await;
                result.map_err(|e| format!("read of {range:?}: {e}"))?;
                lock(&self.sectors).check_read(range, start, &io.buf.to_vec())?;
            }
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => self.change(cx, op, fua).await?,
            Op::Discard => self.change(cx, op, false).await?,
        }
        Ok(())
    }

    async fn change(&mut self, cx: &Cx, op: Op, fua: bool) -> Result<(), String> {
        let range = self.range();
        let writes = matches!(op, Op::Write { .. });
        let change = lock(&self.sectors).start(range, writes, op == Op::Discard);
        let mut io = Io::bare(op, range);
        if writes {
            let value = Value::Written(change.request);
            let first = range.offset / SECTOR;
            let bytes: Vec<u8> =
                (first..first + range.len / SECTOR).flat_map(|lba| encode(lba, value)).collect();
            io.buf = IoBuf::from_slice(&bytes);
        }
        let (_, result) = node_io(cx, &self.node, io).await;
        result.map_err(|e| format!("{op:?} of {range:?}: {e}"))?;
        lock(&self.sectors).end(change, fua);
        Ok(())
    }
}

/// Reads the whole disk and checks every sector.
///
/// # Errors
/// A sentence about the first sector that is wrong or cannot be read.
pub async fn check_disk(
    cx: Cx,
    node: Arc<dyn Node>,
    mut check: impl FnMut(Range, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let size = node.info().size;
    let mut at = 0;
    while at < size {
        let range = Range::new(at, (size - at).min(1 << 18));
        let buf = IoBuf::from_slice(&vec![0xee; range.len as usize]);
        let (io, result) = node_io(&cx, &node, Io::read(at, buf)).await;
        result.map_err(|e| format!("reading {range:?}: {e}"))?;
        check(range, &io.buf.to_vec())?;
        at = range.end();
    }
    Ok(())
}
