//! Commands that are more than one request: tasks on the queue's iothread.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, RootHandle};

use crate::nvme::{namespace::Namespace, status::Status};

/// Longest piece that is read to be looked at, in bytes.
const PIECE: u64 = 256 << 10;
/// Bytes that are compared at once.
const CHUNK: usize = 4096;

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The block layer said so: the error policies apply.
    Block(BlockError),
    /// The command ends with this.
    Status(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::Block(error)
    }
}

/// Reads `range` piece by piece and shows each piece to `look`.
async fn pieces(
    cx: &Cx,
    root: &mut RootHandle,
    range: Range,
    mut look: impl FnMut(u64, &IoBuf) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut done = 0;
    let mut buf = IoBuf::zeroed(range.len.min(PIECE) as usize);
    while done < range.len {
        let len = (range.len - done).min(PIECE);
        if buf.len() != len {
            buf = IoBuf::zeroed(len as usize);
        }
        let (back, result) = root.io(cx, Io::read(range.offset + done, buf)).await;
        buf = back;
        result?;
        look(done, &buf)?;
        done += len;
    }
    Ok(())
}

/// Verify (NVM 3.2.5): the data can be read.
pub async fn verify(cx: &Cx, root: &mut RootHandle, range: Range) -> Result<(), Failure> {
    pieces(cx, root, range, |_, _| Ok(())).await
}

/// Compare (NVM 3.2.1): the data is what the host has.
pub async fn compare(
    cx: &Cx,
    root: &mut RootHandle,
    range: Range,
    host: &IoBuf,
) -> Result<(), Failure> {
    pieces(cx, root, range, |at, read| {
        let (mut ours, mut theirs) = ([0; CHUNK], [0; CHUNK]);
        let mut done = 0;
        while done < read.len() {
            let n = (read.len() - done).min(CHUNK as u64) as usize;
            read.read_at(done, &mut ours[..n]);
            host.read_at(at + done, &mut theirs[..n]);
            if ours[..n] != theirs[..n] {
                return Err(Failure::Status(Status::COMPARE_FAILURE));
            }
            done += n as u64;
        }
        Ok(())
    })
    .await
}

/// Discards ranges, one after the other.
pub async fn discard(
    cx: &Cx,
    root: &mut RootHandle,
    namespace: &Namespace,
    ranges: Vec<Range>,
) -> Result<(), Failure> {
    for range in ranges {
        root.io(cx, Io::bare(Op::Discard, range)).await.1?;
        namespace.unmark(range).await?;
    }
    Ok(())
}

/// Writes over blocks that were made unreadable: they are readable again, durably, before the
/// command ends.
pub async fn write_over_marks(
    cx: &Cx,
    root: &mut RootHandle,
    namespace: &Namespace,
    io: Io,
) -> (IoBuf, Result<(), Failure>) {
    let range = io.range;
    let (buf, result) = root.io(cx, io).await;
    match result {
        Ok(()) => (buf, namespace.unmark(range).await.map_err(Failure::Status)),
        Err(error) => (buf, Err(error.into())),
    }
}

/// Write Uncorrectable (NVM 3.2.7).
pub async fn mark(namespace: &Namespace, range: Range) -> Result<(), Failure> {
    if !namespace.marks().add(range) {
        return Err(Failure::Status(Status::INTERNAL));
    }
    Ok(namespace.save_marks().await?)
}

/// Copy (NVM 3.2.2): source ranges, one behind the other, to one destination. `copied` gets how
/// many were copied as a whole.
pub async fn copy(
    cx: &Cx,
    root: &mut RootHandle,
    namespace: &Namespace,
    sources: Vec<Range>,
    (mut to, fua): (u64, bool),
    copied: &AtomicU32,
) -> Result<(), Failure> {
    let mut buf = IoBuf::empty();
    for source in sources {
        if namespace.marks().overlap(source) {
            return Err(Failure::Status(Status::READ_ERROR));
        }
        let mut done = 0;
        while done < source.len {
            let len = (source.len - done).min(PIECE);
            if buf.len() != len {
                buf = IoBuf::zeroed(len as usize);
            }
            let (read, result) = root.io(cx, Io::read(source.offset + done, buf)).await;
            result?;
            let write = Io { op: Op::Write { fua }, range: Range::new(to, len), buf: read };
            let (back, result) = root.io(cx, write).await;
            buf = back;
            result?;
            namespace.unmark(Range::new(to, len)).await?;
            (to, done) = (to + len, done + len);
        }
        copied.fetch_add(1, SeqCst);
    }
    Ok(())
}

/// Compare and write, as one: nothing else of the namespace is under way meanwhile. Gives the
/// memory of both commands back, and says whether it was the write that failed.
pub async fn compare_and_write(
    cx: &Cx,
    root: &mut RootHandle,
    namespace: &Namespace,
    (range, fua): (Range, bool),
    (host, data): (IoBuf, IoBuf),
) -> (IoBuf, IoBuf, Result<(), Failure>, bool) {
    if let Err(failure) = compare(cx, root, range, &host).await {
        return (host, data, Err(failure), false);
    }
    let write = Io { op: Op::Write { fua }, range, buf: data };
    let (data, result) = write_over_marks(cx, root, namespace, write).await;
    (host, data, result, true)
}

/// Flushes several roots.
pub async fn flush(cx: &Cx, roots: Vec<RootHandle>) -> Result<(), Failure> {
    for mut root in roots {
        root.io(cx, Io::flush()).await.1?;
    }
    Ok(())
}
