//! Reads that are more than one leaf.

use super::{
    Qcow2,
    join::{self, Work},
    map::Stretch,
};
use crate::{BlockError, Cx, Io, IoBuf, Op, Pin, Range, submit::node_io};

/// Pieces of one request that are read at once.
const WIDTH: usize = 16;

impl Qcow2 {
    /// Reads `range` into `buf`: pieces from wherever they are, several at once.
    pub(super) async fn read(
        &self,
        cx: &Cx,
        range: Range,
        buf: &mut IoBuf,
    ) -> Result<(), BlockError> {
        let mut at = range.offset;
        let mut work: Vec<Work<'_>> = Vec::new();
        while at < range.end() {
            let rest = Range::new(at, range.end() - at);
            let pin = self.pins.pin(cx.lane());
            let Some(found) = self.look_up(rest) else {
                drop(pin);
                self.load_for(cx, at).await?;
                continue;
            };
            let in_buf = at - range.offset;
            let piece = Range::new(at, found.len);
            match found.stretch {
                Stretch::Zero { .. } => buf.zero(in_buf, found.len),
                Stretch::Host { at: host, .. } => {
                    let view = buf.view(in_buf, found.len);
                    work.push(Box::pin(self.read_data(cx, (at, host), view, pin)));
                }
                Stretch::Backing => {
                    let view = buf.view(in_buf, found.len);
                    work.push(Box::pin(self.read_backing(cx, piece, view)));
                }
                Stretch::Compressed(place) => {
                    let view = buf.view(in_buf, found.len);
                    work.push(Box::pin(self.read_compressed(cx, piece, place, view, pin)));
                }
                Stretch::Bad => return Err(BlockError::Corrupt),
            }
            at += found.len;
            if work.len() >= WIDTH {
                join::all(std::mem::take(&mut work).into_iter(), WIDTH).await?;
            }
        }
        join::all(work.into_iter(), WIDTH).await
    }

    /// Reads from the backing file. What lies beyond it reads as zeros. That the backing file is
    /// damaged does not make this image so.
    pub(super) async fn read_backing(
        &self,
        cx: &Cx,
        range: Range,
        buf: IoBuf,
    ) -> Result<(), BlockError> {
        match self.read_below(cx, range, buf).await {
            Err(BlockError::Corrupt) => Err(BlockError::Medium),
            result => result,
        }
    }

    async fn read_below(&self, cx: &Cx, range: Range, mut buf: IoBuf) -> Result<(), BlockError> {
        let Some(backing) = &self.backing else {
            buf.zero(0, range.len);
            return Ok(());
        };
        let info = backing.info();
        let inside = range.len.min(info.size.saturating_sub(range.offset));
        buf.zero(inside, range.len - inside);
        if inside == 0 {
            return Ok(());
        }
        let align = u64::from(info.request_alignment.max(1));
        let start = range.offset / align * align;
        let end = (range.offset + inside).next_multiple_of(align);
        let wide = Range::new(start, end - start);
        if wide == Range::new(range.offset, inside) {
            let io = Io { op: Op::Read, range: wide, buf: buf.view(0, inside) };
            return node_io(cx, backing, io).await.1;
        }
        let block = IoBuf::zeroed(wide.len as usize);
        let (io, result) = node_io(cx, backing, Io::read(wide.offset, block)).await;
        result?;
        buf.copy_from(0, &io.buf, range.offset - start, inside);
        Ok(())
    }

    async fn read_compressed(
        &self,
        cx: &Cx,
        range: Range,
        place: Range,
        mut buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let bytes = self.unpacked(cx, place).await?;
        drop(pin);
        let from = (range.offset & (self.layout.cluster() - 1)) as usize;
        let wanted = bytes.get(from..from + range.len as usize).ok_or(BlockError::Corrupt)?;
        buf.write_at(0, wanted);
        Ok(())
    }
}
