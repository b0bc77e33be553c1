//! Misaligned, oversized and over-segmented requests, made fit in one place, and counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use crate::{BlockError, Cx, Info, Io, IoBuf, Node, Op, Range, root::Root, submit::node_io};

static BOUNCED: AtomicU64 = AtomicU64::new(0);

/// Requests that were copied because of their alignment, since the process began.
#[must_use]
pub fn count() -> u64 {
    BOUNCED.load(Ordering::Relaxed)
}

/// The longest piece of a bounced request, in bytes.
const PIECE_MAX: u64 = 1 << 20;

/// A lock that tasks wait for: misaligned writes read, change and write whole blocks, and two of
/// them in one block must not interleave.
#[derive(Debug, Default)]
pub struct Serial {
    state: Mutex<(bool, Vec<Waker>)>,
}

impl Serial {
    /// Waits for the lock.
    pub async fn lock(&self) -> Held<'_> {
        std::future::poll_fn(|task| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 {
                state.1.push(task.waker().clone());
                return Poll::Pending;
            }
            state.0 = true;
            Poll::Ready(())
        })
        .await;
        Held(self)
    }
}

/// Holds a [`Serial`] until it is dropped.
pub struct Held<'a>(&'a Serial);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = false;
            std::mem::take(&mut state.1)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Does a request that the node would not take as it is.
pub(crate) async fn io(
    cx: &Cx,
    root: &Root,
    node: &Arc<dyn Node>,
    mut io: Io,
) -> (Io, Result<(), BlockError>) {
    let info = node.info();
    let result = match io.op {
        Op::Read | Op::Write { .. } => data(cx, root, node, &info, &mut io).await,
        Op::WriteZeroes { .. } => zeroes(cx, root, node, &info, &io).await,
        Op::Discard => discard(cx, node, &info, io.range).await,
        Op::Flush => Ok(()),
    };
    (io, result)
}

/// `range` widened to whole blocks of `align` bytes, within the node.
fn widen(range: Range, align: u64, size: u64) -> Range {
    let start = range.offset / align * align;
    let end = range.end().next_multiple_of(align).min(size.max(range.end()));
    Range::new(start, end - start)
}

async fn data(
    cx: &Cx,
    root: &Root,
    node: &Arc<dyn Node>,
    info: &Info,
    io: &mut Io,
) -> Result<(), BlockError> {
    BOUNCED.fetch_add(1, Ordering::Relaxed);
    let align = u64::from(info.request_alignment);
    let step = PIECE_MAX.min(info.max_transfer).max(align) / align * align;
    let end = io.range.end();
    let mut at = io.range.offset;
    while at < end {
        // Pieces end at block boundaries, so that only the first and the last are partial.
        let piece_end = (at / align * align).saturating_add(step).min(end);
        let piece = Range::new(at, piece_end - at);
        let in_buf = at - io.range.offset;
        let block = widen(piece, align, info.size);
        if io.op == Op::Read {
            let got = crate::submit::read(cx, node, block.offset, block.len as usize).await?;
            io.buf.copy_from(in_buf, &got, piece.offset - block.offset, piece.len);
        } else {
            let guard = if block == piece { None } else { Some(root.bounce_lock.lock().await) };
            let mut block_buf = if block == piece {
                IoBuf::zeroed(block.len as usize)
            } else {
                crate::submit::read(cx, node, block.offset, block.len as usize).await?
            };
            block_buf.copy_from(piece.offset - block.offset, &io.buf, in_buf, piece.len);
            let part = Io { op: io.op, range: block, buf: block_buf };
            node_io(cx, node, part).await.1?;
            drop(guard);
        }
        at = piece_end;
    }
    Ok(())
}

/// Whole blocks as write-zeroes, the ragged ends as writes.
async fn zeroes(
    cx: &Cx,
    root: &Root,
    node: &Arc<dyn Node>,
    info: &Info,
    io: &Io,
) -> Result<(), BlockError> {
    let align = u64::from(info.request_alignment);
    let Op::WriteZeroes { fua, .. } = io.op else { return Ok(()) };
    let whole_start = io.range.offset.next_multiple_of(align).min(io.range.end());
    let whole_end = (io.range.end() / align * align).max(whole_start);
    for (start, end) in [(io.range.offset, whole_start), (whole_end, io.range.end())] {
        if start < end {
            let buf = IoBuf::zeroed((end - start) as usize);
            let mut part = Io { op: Op::Write { fua }, range: Range::new(start, end - start), buf };
            data(cx, root, node, info, &mut part).await?;
        }
    }
    let mut at = whole_start;
    while at < whole_end {
        let len = (whole_end - at).min(info.max_transfer / align * align);
        node_io(cx, node, Io::bare(io.op, Range::new(at, len))).await.1?;
        at += len;
    }
    Ok(())
}

/// Only whole blocks: a discard is advice.
async fn discard(
    cx: &Cx,
    node: &Arc<dyn Node>,
    info: &Info,
    range: Range,
) -> Result<(), BlockError> {
    let align = u64::from(info.request_alignment);
    let end = range.end() / align * align;
    let mut at = range.offset.next_multiple_of(align);
    while at < end {
        let len = (end - at).min(info.max_transfer / align * align);
        node_io(cx, node, Io::bare(Op::Discard, Range::new(at, len))).await.1?;
        at += len;
    }
    Ok(())
}
