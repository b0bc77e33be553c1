//! `bench`: a simple measurement of requests to an image.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{Cache, Image, OpenMode, driver_called, errno_text, warn_of_probing};
use super::tasks::all;
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Node};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest request, in bytes.
const BUFFER_MAX: u64 = 64 << 20;
/// Most requests in flight.
const DEPTH_MAX: u64 = 1024;

/// What the command line of `bench` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// `-c`.
    pub count: u64,
    /// `-d`.
    pub depth: u64,
    /// `-s`, in bytes.
    pub length: u64,
    /// `-S`, in bytes; 0: as `length`.
    pub step: u64,
    /// `-o`, in bytes.
    pub offset: u64,
    /// `-w`.
    pub write: bool,
    /// `--pattern`.
    pub pattern: u8,
    /// `--flush-interval`; 0: never.
    pub flush_interval: u64,
    /// `--no-drain`: flushes do not wait for the requests before them.
    pub no_drain: bool,
    /// `-t`.
    pub cache: Option<String>,
    /// `-U`.
    pub force_share: bool,
}

impl BenchRequest {
    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    ///
    /// Values that contradict each other.
    pub fn check(&self) -> Result<(), ImgError> {
        let wrong = if !self.write && self.flush_interval > 0 {
            "--flush-interval is only available in write tests"
        } else if self.flush_interval > 0 && self.flush_interval < self.depth {
            "Flush interval can't be smaller than depth"
        } else if !(1..=DEPTH_MAX).contains(&self.depth) {
            "Invalid queue depth specified"
        } else if !(1..=BUFFER_MAX).contains(&self.length) {
            "Invalid buffer size specified"
        } else {
            return Ok(());
        };
        Err(ImgError::said(wrong))
    }

    /// The lines that say what is going to be measured.
    #[must_use]
    pub fn announce(&self) -> String {
        let step = if self.step == 0 { self.length } else { self.step };
        let mut out = format!(
            "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step \
             size {step})\n",
            self.count,
            if self.write { "write" } else { "read" },
            self.length,
            self.depth,
            self.offset
        );
        if self.flush_interval > 0 {
            out += &format!("Sending flush every {} requests\n", self.flush_interval);
        }
        out
    }
}

/// Measures: returns how long the requests took. Before the first, `announce` is told what is sent.
///
/// # Errors
///
/// An image that cannot be opened, a request that fails.
pub fn run(
    request: BenchRequest,
    announce: impl FnOnce(&str) + 'static,
) -> Result<Duration, ImgError> {
    request.check()?;
    let format = driver_called(&request.path, request.format.as_deref())?;
    let name = request.cache.as_deref().unwrap_or("writeback");
    let Some(cache) = Cache::parse(name) else {
        return Err(ImgError::said("Invalid cache mode"));
    };
    on_block_layer(|cx| async move {
        let mode =
            OpenMode { format, writable: request.write, force_share: request.force_share, cache };
        let image = Image::open(&cx, &request.path, mode).await?;
        if request.write {
            warn_of_probing(&image, format);
        }
        announce(&request.announce());
        let result = requests(&cx, &image, request).await;
        let closed = image.close(&cx).await;
        let elapsed = result?;
        closed.map_err(|e| ImgError::said(format!("Failed to flush: {}", errno_text(e))))?;
        Ok(elapsed)
    })
}

/// What the tasks share.
struct Job {
    request: BenchRequest,
    node: Arc<dyn Node>,
    size: u64,
    sent: Cell<u64>,
    offset: Cell<u64>,
    failed: Cell<Option<BlockError>>,
}

async fn requests(cx: &Cx, image: &Image, request: BenchRequest) -> Result<Duration, ImgError> {
    let size = image.size();
    // Batches that end with a flush which waits for them; one batch without.
    let waits = request.flush_interval > 0 && !request.no_drain;
    let batch = if waits { request.flush_interval } else { request.count.max(1) };
    let (count, depth) = (request.count, request.depth);
    let job = Rc::new(Job {
        offset: Cell::new(request.offset),
        request,
        node: Arc::clone(&image.node),
        size,
        sent: Cell::new(0),
        failed: Cell::new(None),
    });
    let began = Instant::now();
    let mut end = 0;
    while end < count && job.failed.get().is_none() {
        end = (end + batch).min(count);
        let tasks = (0..depth.min(batch)).map(|_| Rc::clone(&job).work(Cx::clone(cx), end));
        all(cx, tasks.collect()).await;
        if waits && end.is_multiple_of(batch) {
            job.flush(cx).await;
        }
    }
    match job.failed.get() {
        None => Ok(began.elapsed()),
        Some(error) => Err(ImgError::said(format!("Failed request: {}", errno_text(error)))),
    }
}

impl Job {
    async fn work(self: Rc<Self>, cx: Cx, end: u64) {
        let length = usize::try_from(self.request.length).unwrap_or(0);
        let mut buf = IoBuf::from_slice(&vec![self.request.pattern; length]);
        loop {
            let number = self.sent.get();
            if number >= end || self.failed.get().is_some() {
                return;
            }
            self.sent.set(number + 1);
            let at = self.next_offset();
            if at.saturating_add(self.request.length) > self.size {
                self.failed.set(Some(BlockError::OutOfRange));
                return;
            }
            let io = if self.request.write { Io::write(at, buf) } else { Io::read(at, buf) };
            let (io, result) = node_io(&cx, &self.node, io).await;
            buf = io.buf;
            if let Err(error) = result {
                self.failed.set(Some(error));
            }
            let interval = self.request.flush_interval;
            if self.request.no_drain && interval > 0 && (number + 1).is_multiple_of(interval) {
                self.flush(&cx).await;
            }
        }
    }

    /// Where the next request goes: around and around. One that goes beyond the end fails, as with qemu-img.
    fn next_offset(&self) -> u64 {
        let step = if self.request.step == 0 { self.request.length } else { self.request.step };
        let at = self.offset.get();
        self.offset.set(at.saturating_add(step).checked_rem(self.size).unwrap_or(0));
        at
    }

    async fn flush(&self, cx: &Cx) {
        if let Err(error) = node_io(cx, &self.node, Io::flush()).await.1 {
            self.failed.set(Some(error));
        }
    }
}
