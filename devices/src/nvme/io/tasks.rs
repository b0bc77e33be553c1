//! Commands that are more than one request: tasks on the queue's iothread.

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, RootHandle};

use crate::nvme::status::Status;

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
pub async fn discard(cx: &Cx, root: &mut RootHandle, ranges: Vec<Range>) -> Result<(), Failure> {
    for range in ranges {
        root.io(cx, Io::bare(Op::Discard, range)).await.1?;
    }
    Ok(())
}

/// Flushes several roots.
pub async fn flush(cx: &Cx, roots: Vec<RootHandle>) -> Result<(), Failure> {
    for mut root in roots {
        root.io(cx, Io::flush()).await.1?;
    }
    Ok(())
}
