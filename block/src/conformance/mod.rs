//! The suite that every [`Node`] passes, over every engine: random requests of several iothreads at
//! once against a model in memory, extents, resizing, closing and opening again.
//!
//! For tests, of this crate and of others (feature `testing`).

pub mod crash;
mod model;
mod seeds;
mod stage;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use model::Model;
pub use seeds::seeds;
pub use stage::{Job, Stage, job};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Io, IoBuf, LocalBoxFuture, Node, Range, Root,
    root::Policy,
    submit::{flush, node_io, read},
};

/// Opens the disk under test, on the iothread it is given.
pub type Open =
    Arc<dyn Fn(Cx) -> LocalBoxFuture<'static, Result<Arc<dyn Node>, String>> + Send + Sync>;

/// Closes what [`Open`] opened, with all that is below it.
///
/// # Errors
/// What the first node that could not be closed said.
pub fn close_all(cx: Cx, node: Arc<dyn Node>) -> LocalBoxFuture<'static, Result<(), BlockError>> {
    Box::pin(async move {
        Arc::clone(&node).close(Cx::clone(&cx)).await?;
        for (_, child) in node.children() {
            close_all(Cx::clone(&cx), child).await?;
        }
        Ok(())
    })
}

/// How the size of a disk can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Not at all.
    Never,
    /// It can grow.
    Grow,
    /// It can grow and shrink.
    Any,
}

/// A disk under test.
#[derive(Clone)]
pub struct Subject {
    /// Opens it; called again after each close.
    pub open: Open,
    /// What it holds at first. Its length is the disk's.
    pub contents: Vec<u8>,
    /// How its size can be changed.
    pub resize: Resize,
    /// Whether [`ExtentKind::Unallocated`] reads as zeros: there is no backing file.
    pub alone: bool,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Decides every request.
    pub seed: u64,
    /// Tasks that send requests, over all iothreads.
    pub tasks: usize,
    /// Requests of each task in each phase.
    pub requests: u32,
}

impl Effort {
    /// A few thousand requests.
    #[must_use]
    pub fn sample(seed: u64) -> Self {
        Self { seed, tasks: 6, requests: 60 }
    }
}

type Shared = Arc<Mutex<Model>>;

fn lock(model: &Shared) -> MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the whole suite.
///
/// # Errors
/// A sentence about the first thing that was wrong.
pub fn check(stage: &Stage, subject: &Subject, effort: Effort) -> Result<(), String> {
    run_phases(stage, subject, effort)
        .map_err(|e| format!("on {} with seed {:#x}: {e}", stage.name(), effort.seed))
}

fn run_phases(stage: &Stage, subject: &Subject, effort: Effort) -> Result<(), String> {
    let model = Arc::new(Mutex::new(Model::new(subject.contents.clone())));
    let alone = subject.alone;
    for phase in 0..2 {
        let open = Arc::clone(&subject.open);
        let node = stage.run(move |cx| open(cx))??;
        check_info(&node, lock(&model).len())?;
        check_all(stage, &node, &model, alone).map_err(|e| format!("as opened: {e}"))?;
        load(stage, &node, &model, effort, phase)?;
        check_all(stage, &node, &model, alone).map_err(|e| format!("after requests: {e}"))?;
        if subject.resize != Resize::Never {
            let shrinks = subject.resize == Resize::Any;
            resize(stage, &node, &model, alone, shrinks, effort.seed ^ phase)?;
            load(stage, &node, &model, effort, phase + 100)?;
        }
        stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))?;
    }
    let open = Arc::clone(&subject.open);
    let node = stage.run(move |cx| open(cx))??;
    check_all(stage, &node, &model, alone).map_err(|e| format!("after the last close: {e}"))?;
    stage.run(move |cx| close_all(cx, node))?.map_err(|e| format!("close: {e}"))
}

fn check_info(node: &Arc<dyn Node>, size: u64) -> Result<(), String> {
    let info = node.info();
    let power = |n: u32| n.is_power_of_two();
    let good = info.size == size
        && power(info.request_alignment)
        && power(info.memory_alignment)
        && power(info.preferred_write)
        && (info.discard_granularity == 0 || power(info.discard_granularity))
        && info.max_transfer >= u64::from(info.request_alignment)
        && info.max_segments > 0;
    if good { Ok(()) } else { Err(format!("a disk of {size} bytes says {info:?}")) }
}

/// Random requests of all tasks at once.
fn load(
    stage: &Stage,
    node: &Arc<dyn Node>,
    model: &Shared,
    effort: Effort,
    phase: u64,
) -> Result<(), String> {
    let root = Root::new("conformance", Arc::clone(node), Policy::default());
    let jobs = (0..effort.tasks as u64)
        .map(|n| {
            let rng = fastrand::Rng::with_seed(effort.seed ^ (phase << 32) ^ (n << 48));
            let worker = worker::Worker::new(n as u8, Arc::clone(&root), Arc::clone(model), rng);
            job(move |cx| worker.run(cx, effort.requests))
        })
        .collect();
    stage.run_all(jobs)?.into_iter().collect()
}

/// The whole disk reads as the model says, and its extents cover it and tell the truth.
fn check_all(
    stage: &Stage,
    node: &Arc<dyn Node>,
    model: &Shared,
    alone: bool,
) -> Result<(), String> {
    let (node, model) = (Arc::clone(node), Arc::clone(model));
    stage.run(move |cx| async move {
        let size = lock(&model).len();
        let mut at = 0;
        while at < size {
            let range = Range::new(at, (size - at).min(1 << 18));
            let buf = IoBuf::from_slice(&vec![0xa5; range.len as usize]);
            let (io, result) = node_io(&cx, &node, Io::read(at, buf)).await;
            result.map_err(|e| format!("reading {range:?}: {e}"))?;
            lock(&model).compare(range, &io.buf)?;
            at = range.end();
        }
        flush(&cx, &node).await.map_err(|e| format!("flush: {e}"))?;
        let mut at = 0;
        while at < size {
            let asked = Range::new(at, size - at);
            let extent = Arc::clone(&node).extent(Cx::clone(&cx), asked).await;
            let extent = extent.map_err(|e| format!("extent of {asked:?}: {e}"))?;
            if extent.len == 0 || extent.len > asked.len {
                return Err(format!("asked for {asked:?}: {extent:?}"));
            }
            check_extent(&cx, &node, &model, at, extent, alone).await?;
            at += extent.len;
        }
        Ok(())
    })?
}

async fn check_extent(
    cx: &Cx,
    node: &Arc<dyn Node>,
    model: &Shared,
    at: u64,
    extent: Extent,
    alone: bool,
) -> Result<(), String> {
    let range = Range::new(at, extent.len);
    let zeros = match extent.kind {
        ExtentKind::Zero { .. } => true,
        ExtentKind::Unallocated => alone,
        ExtentKind::Data => false,
    };
    if zeros && lock(model).slice(range).iter().any(|b| *b != 0) {
        return Err(format!("{range:?} is {:?} and has data", extent.kind));
    }
    let children = node.children();
    let data = children.iter().find(|c| c.0 == "data-file");
    let file = data.or_else(|| children.iter().find(|c| c.0 == "file")).map(|c| Arc::clone(&c.1));
    if let (ExtentKind::Data, Some(host), Some(file)) = (extent.kind, extent.host_offset, file) {
        let len = range.len.min(1 << 20);
        let bytes = read(cx, &file, host, len as usize).await;
        let bytes = bytes.map_err(|e| format!("reading the file at {host}: {e}"))?;
        lock(model)
            .compare(Range::new(at, len), &bytes)
            .map_err(|e| format!("{range:?} is said to be at {host} of the file: {e}"))?;
    }
    Ok(())
}

/// Grows, and shrinks and grows again: what is new is zeros, what was there stays.
fn resize(
    stage: &Stage,
    node: &Arc<dyn Node>,
    model: &Shared,
    alone: bool,
    shrinks: bool,
    seed: u64,
) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let start = lock(model).len();
    let block = u64::from(node.info().request_alignment).max(512);
    let grown = start + block * rng.u64(1..400);
    let sizes = if shrinks {
        [grown, start / 2 / block * block + block, start + block * rng.u64(1..100), start]
    } else {
        [start, grown, grown + block, grown + block * rng.u64(1..1000)]
    };
    for size in sizes {
        let resized = Arc::clone(node);
        stage
            .run(move |cx| resized.resize(cx, size))?
            .map_err(|e| format!("resize to {size}: {e}"))?;
        lock(model).resize(size);
        check_info(node, size)?;
        check_all(stage, node, model, alone).map_err(|e| format!("resized to {size}: {e}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
