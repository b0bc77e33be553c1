//! The copying of `convert` and `dd`: looks at what the sources are made of, reads what has data,
//! finds zeros in it, and writes the rest. Several requests are in flight; space in the target is
//! taken in the order of the disk.
use super::ImgError;
use super::image::{Image, errno_text};
use super::pool::{Packed, Pool};
use super::progress::Progress;
use super::readers::{Piece as Source, Readers, Runs};
use super::status::Status;
use super::tasks::{Turns, all};
use spindle_block::qcow2::PackedCluster;
use spindle_block::ring::Aio;
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one request (qemu-img, IO_BUF_SIZE).
pub(super) const BUFFER: u64 = 2 << 20;
/// Bytes of one request that is only copied: what is read is still in the cache when it is written.
const SMALL: u64 = 512 << 10;
/// Bytes of one request that is packed: there are copies of it on its way.
const PACKED: u64 = 1 << 20;
/// How far the block status is asked for at once.
const LOOK_AHEAD: u64 = 1 << 30;

/// What is copied, and how.
pub(super) struct Copy {
    /// The sources, one behind the other.
    pub sources: Vec<Image>,
    /// Where to.
    pub target: Image,
    /// The target reads as zeros where nothing is written.
    pub zeroed: bool,
    /// The target has a backing file of this size, which has what the sources' uppermost image has
    /// not.
    pub on_backing: Option<u64>,
    /// What no image of a source's chain says anything about is left as it is in the target.
    pub skip_absent: bool,
    /// So many bytes at the beginning are zeros until all else is there; rounded up to a cluster.
    pub head: u64,
    /// Zeros are not looked for in what has data.
    pub whole: bool,
    /// Most bytes in a second.
    pub rate: Option<u64>,
    /// Zeros of at least so many bytes are not written; 0 writes everything.
    pub sparse: u64,
    /// Requests in flight.
    pub width: usize,
    /// Space is taken in whatever order requests come.
    pub out_of_order: bool,
    /// Packs the clusters.
    pub pool: Option<Pool>,
    /// Unreadable parts of the sources are zeros, and said.
    pub salvage: bool,
    /// Nothing is said.
    pub quiet: bool,
    /// Every write is durable before the next.
    pub write_through: bool,
    /// How the threads that read do their requests.
    pub aio: Aio,
    /// How far it is.
    pub progress: Progress,
}

/// A part of the disk that is handled at once.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    range: Range,
    zero: bool,
    number: u64,
}

/// What the tasks share.
struct Job {
    copy: Copy,
    readers: Option<Readers>,
    total: u64,
    /// Where each source begins.
    starts: Vec<u64>,
    next: Cell<u64>,
    /// Where to stop.
    end: Cell<u64>,
    numbers: Cell<u64>,
    /// What is known to follow `next`.
    known: Cell<Option<(u64, Kind)>>,
    tickets: Cell<u64>,
    /// Since when bytes are counted for the rate, and how many they are.
    paced: Cell<Option<(Instant, u64)>>,
    looking: Turns,
    writing: Turns,
    failed: RefCell<Option<ImgError>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    Backing,
}

/// Copies everything. The images come back, to be closed.
pub(super) async fn run(cx: &Cx, copy: Copy) -> (Vec<Image>, Image, Result<(), ImgError>) {
    let mut total = 0;
    let mut starts = Vec::new();
    for source in &copy.sources {
        starts.push(total);
        total += source.size();
    }
    let width = copy.width.max(1);
    let readers = if total > BUFFER && !copy.salvage { Readers::new(copy.aio) } else { None };
    let job = Rc::new(Job {
        copy,
        readers,
        total,
        starts,
        next: Cell::new(0),
        end: Cell::new(total),
        numbers: Cell::new(0),
        known: Cell::new(None),
        tickets: Cell::new(0),
        paced: Cell::new(None),
        looking: Turns::default(),
        writing: Turns::default(),
        failed: RefCell::new(None),
    });
    if let Err(error) = Rc::clone(&job).begin(cx).await {
        job.fail(error);
    }
    let head = job.next.get();
    Rc::clone(&job).work_side_by_side(cx, width).await;
    if head > 0 && job.failed.borrow().is_none() {
        let flushed = node_io(cx, &job.copy.target.node, Io::flush()).await.1;
        if let Err(error) = flushed {
            job.fail(writing(Range::new(0, head), error));
        } else {
            job.next.set(0);
            job.end.set(head);
        }
        Rc::clone(&job).work_side_by_side(cx, width).await;
    }
    // A task drops its share before it counts as ended, so this is the last one.
    let Ok(job) = Rc::try_unwrap(job) else { unreachable!("every task has ended") };
    let result = job.failed.into_inner().map_or(Ok(()), Err);
    if result.is_ok() {
        job.copy.progress.finish();
    }
    (job.copy.sources, job.copy.target, result)
}

impl Job {
    /// Blanks the beginning where it comes last, and starts behind it.
    async fn begin(self: Rc<Self>, cx: &Cx) -> Result<(), ImgError> {
        let cluster = self.copy.target.qcow2.as_ref().map_or(1, |image| image.cluster_size());
        let head = self.copy.head.next_multiple_of(cluster);
        if head == 0 || head >= self.total {
            return Ok(());
        }
        let range = Range::new(0, head);
        if !self.copy.zeroed && self.copy.on_backing.is_none() {
            self.zeros(cx, range).await.map_err(|e| writing(range, e))?;
            // What is only in a cache would be lost with us.
            let flushed = node_io(cx, &self.copy.target.node, Io::flush()).await.1;
            flushed.map_err(|e| writing(range, e))?;
        }
        self.next.set(head);
        Ok(())
    }

    async fn work_side_by_side(self: Rc<Self>, cx: &Cx, width: usize) {
        let tasks = (0..width).map(|_| Rc::clone(&self).work(Cx::clone(cx))).collect();
        all(cx, tasks).await;
    }

    async fn work(self: Rc<Self>, cx: Cx) {
        let mut buffer = IoBuf::empty();
        loop {
            let ticket = self.tickets.replace(self.tickets.get() + 1);
            self.looking.wait_for(ticket).await;
            let chunk = self.next_chunk(&cx).await;
            self.looking.pass();
            if let (Some(rate), Ok(Some(chunk))) = (self.copy.rate, &chunk) {
                self.pace(&cx, rate, chunk.range.len).await;
            }
            let result = match chunk {
                Ok(None) => return,
                Ok(Some(chunk)) => {
                    if !chunk.zero && buffer.is_empty() {
                        buffer = IoBuf::zeroed(usize::try_from(self.step()).unwrap_or(0));
                    }
                    self.handle(&cx, chunk, &buffer).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.fail(error);
            }
        }
    }

    /// Waits until so many bytes may be copied.
    async fn pace(&self, cx: &Cx, rate: u64, len: u64) {
        let (began, before) = self.paced.get().unwrap_or((cx.now(), 0));
        self.paced.set(Some((began, before + len)));
        cx.sleep_until(began + Duration::from_secs_f64(before as f64 / rate as f64)).await;
    }

    fn fail(&self, error: ImgError) {
        self.failed.borrow_mut().get_or_insert(error);
        self.next.set(self.end.get());
    }

    /// Bytes that go together in the target, where that matters.
    fn unit(&self) -> u64 {
        match (&self.copy.target.qcow2, &self.copy.pool) {
            (Some(image), Some(_)) => image.cluster_size(),
            _ => 1,
        }
    }

    /// Bytes of one request.
    fn step(&self) -> u64 {
        match (&self.copy.pool, &self.copy.target.qcow2) {
            (Some(_), _) => PACKED.max(self.unit()),
            // Of a cluster that is written, all is written.
            (None, Some(image)) => SMALL.max(image.cluster_size()),
            (None, None) => SMALL,
        }
    }

    /// The next part to be written. Who asks has the turn.
    async fn next_chunk(&self, cx: &Cx) -> Result<Option<Chunk>, ImgError> {
        loop {
            let at = self.next.get();
            if at >= self.end.get() {
                return Ok(None);
            }
            let (len, kind) = match self.known.take() {
                Some(known) => known,
                None => self.look(cx, at).await?,
            };
            if self.next.get() != at {
                return Ok(None);
            }
            let skip = match kind {
                Kind::Backing => true,
                Kind::Zero => self.copy.sparse > 0 && self.copy.zeroed,
                Kind::Data => false,
            };
            let zero = kind == Kind::Zero && self.copy.sparse > 0;
            // Clusters are packed whole, whatever else is in them.
            let unit = self.unit();
            let end = if kind == Kind::Data {
                (at + len).next_multiple_of(unit).min(self.end.get())
            } else {
                (at + len).min(self.end.get())
            };
            let step = if skip || zero { end - at } else { (end - at).min(self.step()) };
            self.next.set(at + step);
            if end > at + step {
                self.known.set(Some((end - at - step, kind)));
            }
            if skip {
                self.copy.progress.advance(step);
                continue;
            }
            let number = self.numbers.replace(self.numbers.get() + 1);
            return Ok(Some(Chunk { range: Range::new(at, step), zero, number }));
        }
    }

    /// The source that has byte `at`, and where that is in it.
    fn source(&self, at: u64) -> (&Image, u64) {
        let index = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        (&self.copy.sources[index], at - self.starts[index])
    }

    async fn look(&self, cx: &Cx, at: u64) -> Result<(u64, Kind), ImgError> {
        let (image, offset) = self.source(at);
        let range = Range::new(offset, LOOK_AHEAD.min(image.size().saturating_sub(offset)));
        let layers = if self.copy.on_backing.is_some() { 1 } else { usize::MAX };
        let status = match image.status(cx, range, layers).await {
            Ok(status) if status.len > 0 => status,
            // What cannot be asked about is read.
            _ if self.copy.salvage => {
                Status { len: range.len.min(BUFFER), data: true, ..Status::default() }
            }
            Ok(_) => return Err(looking(at, BlockError::OutOfRange)),
            Err(error) => return Err(looking(at, error)),
        };
        // Behind the end of the target's backing file, nothing and zeros are one.
        let beyond = self.copy.on_backing.is_some_and(|end| at >= end);
        let kind = match (status.zero, status.data) {
            _ if self.copy.skip_absent && !status.present => Kind::Backing,
            (true, _) if beyond => Kind::Backing,
            (true, _) => Kind::Zero,
            (false, true) => Kind::Data,
            (false, false) if self.copy.on_backing.is_some() => Kind::Backing,
            (false, false) => Kind::Data,
        };
        let mut len = status.len;
        if let Some(end) = self.copy.on_backing.filter(|end| at < *end) {
            len = len.min(end - at);
        }
        let unit = self.unit();
        if kind != Kind::Data && unit > 1 {
            // Parts of clusters go with their neighbours.
            let whole = (at + len) / unit * unit;
            if whole <= at && at + len < self.total {
                return Ok((unit.min(self.total - at), Kind::Data));
            }
            if at + len < self.total {
                len = whole - at;
            }
        }
        Ok((len, kind))
    }

    async fn handle(&self, cx: &Cx, chunk: Chunk, buffer: &IoBuf) -> Result<(), ImgError> {
        if let Some(readers) = self.readers.as_ref().filter(|_| !chunk.zero && self.shares_all())
            && !readers.is_own_turn()
        {
            self.hand_over(readers, chunk.range, buffer).await?;
            self.copy.progress.advance(chunk.range.len);
            return Ok(());
        }
        let mut ready =
            if chunk.zero { Ok(Runs::new()) } else { self.read(cx, chunk.range, buffer).await };
        let mut packed = Vec::new();
        if let (Some(pool), Some(image), false, true) =
            (&self.copy.pool, &self.copy.target.qcow2, chunk.zero, ready.is_ok())
        {
            match self.pack(pool, image.cluster_size(), chunk.range, buffer).await {
                Ok(clusters) => packed = clusters,
                Err(error) => ready = Err(error),
            }
        }
        let work = async {
            let runs = ready?;
            let written = if chunk.zero {
                self.zeros(cx, chunk.range).await
            } else if self.copy.pool.is_some() {
                self.write_clusters(cx, packed).await
            } else {
                self.write(cx, chunk.range, runs, buffer).await
            };
            written.map_err(|e| writing(chunk.range, e))
        };
        let result = if self.copy.out_of_order || self.copy.target.qcow2.is_none() {
            work.await
        } else {
            // Whatever became of it, those behind it wait for this turn to pass.
            self.writing.wait_for(chunk.number).await;
            self.writing.begin(work).await
        };
        if result.is_ok() {
            self.copy.progress.advance(chunk.range.len);
        }
        result
    }

    /// Whether the threads do all of the work: where it does not matter who is first, and where they
    /// do not stand in each other's way. File systems let one thread at a time write to the page
    /// cache of a file: there, one writes what others read.
    fn shares_all(&self) -> bool {
        self.copy.aio != Aio::Blocking
            && self.copy.target.qcow2.is_none()
            && self.copy.pool.is_none()
    }

    /// Where a part is in the sources.
    fn pieces(&self, range: Range, buffer: &IoBuf) -> Vec<Source> {
        let mut pieces = Vec::new();
        let mut at = range.offset;
        while at < range.end() {
            let (image, offset) = self.source(at);
            let len = (range.end() - at).min(image.size().saturating_sub(offset)).max(1);
            let buffer = buffer.view(at - range.offset, len);
            pieces.push(Source { node: Arc::clone(&image.node), offset, at, buffer });
            at += len;
        }
        pieces
    }

    /// Copies a part on another thread.
    async fn hand_over(
        &self,
        readers: &Readers,
        range: Range,
        buffer: &IoBuf,
    ) -> Result<(), ImgError> {
        let whole = buffer.view(0, range.len);
        let (step, zeroed) = (self.sparse_step(), self.copy.zeroed);
        let (target, fua) = (Arc::clone(&self.copy.target.node), self.copy.write_through);
        let write = move |cx: Cx| async move {
            for (at, len, zero) in runs(range, &whole, step) {
                let place = Range::new(range.offset + at, len);
                let io = match zero {
                    true if zeroed => continue,
                    true => Io::bare(Op::WriteZeroes { unmap: true, fua }, place),
                    false => Io { op: Op::Write { fua }, range: place, buf: whole.view(at, len) },
                };
                node_io(&cx, &target, io).await.1?;
            }
            Ok(())
        };
        let read = readers.read(self.pieces(range, buffer), write).await;
        let written = read.map_err(|(at, error)| reading(at, error))?;
        written.map_err(|error| writing(range, error))
    }

    /// Reads a part, and finds what of it is zeros.
    async fn read(&self, cx: &Cx, range: Range, buffer: &IoBuf) -> Result<Runs, ImgError> {
        let step = self.sparse_step();
        if let Some(readers) = self.readers.as_ref().filter(|_| !self.shares_all()) {
            let whole = buffer.view(0, range.len);
            let look = move |_| async move { runs(range, &whole, step) };
            let read = readers.read(self.pieces(range, buffer), look).await;
            return read.map_err(|(at, error)| reading(at, error));
        }
        let mut at = range.offset;
        while at < range.end() {
            let (image, offset) = self.source(at);
            let len = (range.end() - at).min(image.size().saturating_sub(offset)).max(1);
            let mut part = buffer.view(at - range.offset, len);
            let io = Io::read(offset, buffer.view(at - range.offset, len));
            if let Err(error) = node_io(cx, &image.node, io).await.1 {
                if !self.copy.salvage {
                    return Err(reading(at, error));
                }
                self.salvage(cx, image, offset, &mut part, at).await;
            }
            at += len;
        }
        Ok(runs(range, buffer, step))
    }

    /// Reads sector by sector what can be read; the rest is zeros.
    async fn salvage(&self, cx: &Cx, image: &Image, offset: u64, part: &mut IoBuf, at: u64) {
        const SECTOR: u64 = 512;
        let mut done = 0;
        while done < part.len() {
            let len = SECTOR.min(part.len() - done);
            let io = Io::read(offset + done, part.view(done, len));
            if let Err(error) = node_io(cx, &image.node, io).await.1 {
                if !self.copy.quiet {
                    eprintln!(
                        "warning: error while reading offset {}: {}",
                        at + done,
                        errno_text(error)
                    );
                }
                part.zero(done, len);
            }
            done += len;
        }
    }

    /// Writes a part, without the zeros in it.
    async fn write(
        &self,
        cx: &Cx,
        range: Range,
        runs: Runs,
        buffer: &IoBuf,
    ) -> Result<(), BlockError> {
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for (at, len, zero) in runs {
            let piece = Range::new(range.offset + at, len);
            if !zero {
                pieces.push(Box::pin(self.write_piece(cx, piece, buffer.view(at, len))));
            } else if !self.copy.zeroed {
                pieces.push(Box::pin(self.zeros(cx, piece)));
            }
        }
        join(pieces).await
    }

    async fn write_piece(&self, cx: &Cx, at: Range, buf: IoBuf) -> Result<(), BlockError> {
        let op = Op::Write { fua: self.copy.write_through };
        node_io(cx, &self.copy.target.node, Io { op, range: at, buf }).await.1
    }

    /// Zeros of so many bytes are looked for; 0: they are not, or elsewhere.
    fn sparse_step(&self) -> u64 {
        if self.copy.sparse == 0 || self.copy.whole || self.copy.pool.is_some() {
            return 0;
        }
        // Of a cluster that is written, all is written.
        let cluster = self.copy.target.qcow2.as_ref().map_or(0, |image| image.cluster_size());
        self.copy.sparse.max(cluster).next_power_of_two()
    }

    async fn zeros(&self, cx: &Cx, range: Range) -> Result<(), BlockError> {
        let op = Op::WriteZeroes { unmap: true, fua: self.copy.write_through };
        node_io(cx, &self.copy.target.node, Io::bare(op, range)).await.1
    }

    /// Packs the clusters of a buffer on all threads; `None` stands for zeros.
    async fn pack(
        &self,
        pool: &Pool,
        unit: u64,
        range: Range,
        buffer: &IoBuf,
    ) -> Result<Vec<(Range, Option<Packed>)>, ImgError> {
        let bytes = |len: u64| usize::try_from(len).unwrap_or(0);
        let mut jobs = Vec::new();
        for at in (0..range.len).step_by(bytes(unit)) {
            let len = unit.min(range.len - at);
            let zeros = self.copy.sparse > 0 && buffer.is_zero(at, len);
            let packing = (!zeros).then(|| {
                let mut cluster = vec![0; bytes(unit)];
                buffer.read_at(at, &mut cluster[..bytes(len)]);
                pool.pack(cluster)
            });
            jobs.push((Range::new(range.offset + at, len), packing));
        }
        let mut packed = Vec::with_capacity(jobs.len());
        for (place, packing) in jobs {
            packed.push(match packing {
                None => (place, None),
                Some(packing) => {
                    let broken = || writing(place, BlockError::NoMemory);
                    (place, Some(packing.await.ok_or_else(broken)?))
                }
            });
        }
        Ok(packed)
    }

    async fn write_clusters(
        &self,
        cx: &Cx,
        clusters: Vec<(Range, Option<Packed>)>,
    ) -> Result<(), BlockError> {
        let Some(image) = &self.copy.target.qcow2 else { return Ok(()) };
        let mut small = Vec::new();
        for (place, cluster) in clusters {
            match cluster {
                None if self.copy.zeroed => {}
                None => self.zeros(cx, place).await?,
                Some(Packed { packed: Some(bytes), .. }) => {
                    small.push(PackedCluster { offset: place.offset, bytes });
                }
                Some(Packed { mut cluster, packed: None }) => {
                    image.write_compressed(cx, &std::mem::take(&mut small)).await?;
                    cluster.truncate(usize::try_from(place.len).unwrap_or(0));
                    self.write_piece(cx, place, IoBuf::from_slice(&cluster)).await?;
                }
            }
        }
        image.write_compressed(cx, &small).await
    }
}

type Piece<'a> = Pin<Box<dyn Future<Output = Result<(), BlockError>> + 'a>>;

/// Runs pieces of one request side by side to the end; the first error is the answer.
async fn join(mut pieces: Vec<Piece<'_>>) -> Result<(), BlockError> {
    let mut result = Ok(());
    std::future::poll_fn(move |task| {
        pieces.retain_mut(|piece| match piece.as_mut().poll(task) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(done) => {
                result = result.and(done);
                false
            }
        });
        if pieces.is_empty() { std::task::Poll::Ready(result) } else { std::task::Poll::Pending }
    })
    .await
}

/// What of a buffer, which is `range` of the disk, is data and what is zeros, in whole steps.
pub(super) fn runs(range: Range, buffer: &IoBuf, step: u64) -> Runs {
    if step == 0 {
        return vec![(0, range.len, false)];
    }
    let mut runs = Runs::new();
    let mut at = 0;
    while at < range.len {
        let end = ((range.offset + at) / step + 1) * step - range.offset;
        let len = end.min(range.len) - at;
        let zero = buffer.is_zero(at, len);
        match runs.last_mut() {
            Some((_, run, of)) if *of == zero => *run += len,
            _ => runs.push((at, len, zero)),
        }
        at += len;
    }
    runs
}

fn reading(at: u64, error: BlockError) -> ImgError {
    ImgError::said(format!("error while reading at byte {at}: {}", errno_text(error)))
}

fn looking(at: u64, error: BlockError) -> ImgError {
    ImgError::said(format!(
        "error while reading block status at offset {at}: {}",
        errno_text(error)
    ))
}

fn writing(range: Range, error: BlockError) -> ImgError {
    ImgError::said(format!("error while writing at byte {}: {}", range.offset, errno_text(error)))
}
