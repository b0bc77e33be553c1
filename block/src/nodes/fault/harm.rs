//! Requests that are done, but not as they were asked for: torn, corrupted, or cut into parts.

use super::FaultNode;
use crate::{BlockError, Cx, Io, IoBuf, Op, Range, submit::node_io};

/// What is still to be done to a request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    None,
    Torn { bytes: Option<u64>, error: Option<BlockError>, luck: u64 },
    Corrupt { luck: u64 },
}

impl FaultNode {
    /// Sends a request on, with what was decided to be done to it.
    pub(super) async fn harm(&self, cx: &Cx, io: Io, harm: Harm) -> (Io, Result<(), BlockError>) {
        match harm {
            Harm::None => self.pass(cx, io).await,
            Harm::Torn { bytes, error, luck } => {
                let align = u64::from(self.child.info().request_alignment).max(SECTOR);
                let units = io.range.len.div_ceil(align);
                let left = bytes.map_or(luck % units.max(1), |bytes| bytes / align);
                let len = left.saturating_mul(align).min(io.range.len);
                if len > 0 {
                    let range = Range::new(io.range.offset, len);
                    let part = Io { op: io.op, range, buf: io.buf.view(0, len) };
                    if let (_, Err(e)) = node_io(cx, &self.child, part).await {
                        return (io, Err(e));
                    }
                }
                (io, error.map_or(Ok(()), Err))
            }
            Harm::Corrupt { luck } if io.op == Op::Read => {
                let (mut io, result) = self.pass(cx, io).await;
                if result.is_ok() {
                    corrupt(&mut io.buf, luck);
                }
                (io, result)
            }
            Harm::Corrupt { luck } => {
                let mut copy = IoBuf::from_slice(&io.buf.to_vec());
                corrupt(&mut copy, luck);
                let changed = Io { op: io.op, range: io.range, buf: copy };
                let (_, result) = self.pass(cx, changed).await;
                (io, result)
            }
        }
    }

    /// Sends a request on to the child, in parts where a limit says so.
    async fn pass(&self, cx: &Cx, io: Io) -> (Io, Result<(), BlockError>) {
        let limit = self.debug.as_ref().and_then(|(_, limits)| limits.of(io.op));
        let Some(limit) = limit.filter(|limit| *limit < io.range.len) else {
            return node_io(cx, &self.child, io).await;
        };
        let mut done = 0;
        while done < io.range.len {
            let len = limit.min(io.range.len - done);
            let part = Io::bare(io.op, Range::new(io.range.offset + done, len));
            if let (_, Err(e)) = node_io(cx, &self.child, part).await {
                return (io, Err(e));
            }
            done += len;
        }
        (io, Ok(()))
    }
}

/// Data on a medium is torn at multiples of this, in bytes.
const SECTOR: u64 = 512;

/// Changes one byte.
fn corrupt(buf: &mut IoBuf, luck: u64) {
    if buf.is_empty() {
        return;
    }
    let at = (luck >> 8) % buf.len();
    let mut byte = [0];
    buf.read_at(at, &mut byte);
    buf.write_at(at, &[byte[0] ^ (luck as u8).max(1)]);
}
