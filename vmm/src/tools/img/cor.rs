//! Copy-on-read: what came from a backing file is kept in the image.
use super::image::Image;
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, ExtentKind, Io, IoBuf, Range};
use std::sync::Arc;

/// Copies the clusters of `range` that the image has not into it.
pub(crate) async fn keep(cx: &Cx, image: &Image, range: Range) -> Result<(), BlockError> {
    let (Some(qcow2), Some(_)) = (&image.qcow2, &image.backing) else { return Ok(()) };
    let cluster = qcow2.cluster_size();
    let end = range.end().next_multiple_of(cluster).min(image.size());
    let mut at = range.offset / cluster * cluster;
    while at < end {
        let rest = Range::new(at, (end - at).min(cluster));
        let extent = Arc::clone(&image.node).extent(Cx::clone(cx), rest).await?;
        if extent.kind == ExtentKind::Unallocated {
            let buf = IoBuf::zeroed(usize::try_from(rest.len).map_err(|_| BlockError::NoMemory)?);
            let (io, result) = node_io(cx, &image.node, Io::read(at, buf)).await;
            result?;
            node_io(cx, &image.node, Io::write(at, io.buf)).await.1?;
        }
        at += rest.len;
    }
    Ok(())
}
