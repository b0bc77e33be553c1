//! The content id, which changes when the content first does: images above this one then know.

use std::sync::Arc;

use super::descriptor::Descriptor;
use crate::{
    BlockError, Cx, LocalBoxFuture, Node, Range, formats::extents::FirstWrite, qcow2::host::Host,
};

/// A content id as [`Facts::id`](crate::formats::Facts::id) has it.
pub(super) fn id(cid: u32) -> [u8; 16] {
    u128::from(cid).to_be_bytes()
}

/// Gives the image a new content id.
pub(super) struct Touch {
    host: Host,
    /// Where the digits are in the file, and how many.
    place: Option<(u64, usize)>,
}

impl Touch {
    pub fn new(file: Arc<dyn Node>, text: Range, descriptor: &Descriptor) -> Self {
        let place = descriptor.cid_at.map(|(at, len)| (text.offset + at as u64, len));
        Self { host: Host::new(file), place }
    }
}

impl FirstWrite for Touch {
    fn run<'a>(&'a self, cx: &'a Cx) -> LocalBoxFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let Some((at, len)) = self.place else { return Ok(()) };
            // As many digits as there were, so that nothing moves.
            let digits = format!("{:08x}", fastrand::u32(0..u32::MAX - 1));
            let digits = format!("{digits:0>len$}");
            let digits = digits.get(digits.len() - len..).unwrap_or_default();
            self.host.write_bytes(cx, at, digits.as_bytes()).await?;
            self.host.sync(cx).await
        })
    }
}
