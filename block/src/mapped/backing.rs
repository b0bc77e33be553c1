//! Reading what is not in the image.

use std::sync::Arc;

use crate::{BlockError, Cx, Io, IoBuf, Node, Op, Range, submit::node_io};

/// Reads from the backing file, or zeros where there is none or it has ended. That the backing file
/// is damaged does not make the image above it so.
pub(crate) async fn read_below(
    cx: &Cx,
    backing: Option<&Arc<dyn Node>>,
    range: Range,
    mut buf: IoBuf,
) -> Result<(), BlockError> {
    let Some(backing) = backing else {
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
    let as_medium = |error| if error == BlockError::Corrupt { BlockError::Medium } else { error };
    if wide == Range::new(range.offset, inside) {
        let io = Io { op: Op::Read, range: wide, buf: buf.view(0, inside) };
        return node_io(cx, backing, io).await.1.map_err(as_medium);
    }
    let block = IoBuf::zeroed(wide.len as usize);
    let (io, result) = node_io(cx, backing, Io::read(wide.offset, block)).await;
    result.map_err(as_medium)?;
    buf.copy_from(0, &io.buf, range.offset - start, inside);
    Ok(())
}
