//! Closing an image: everything written, marks cleared, the file cut to what is used.

use super::{
    Qcow2,
    header::incompatible,
    mutation::{Rule, holds},
};
use crate::{BlockError, Cx};

impl Qcow2 {
    /// See [`crate::Node::close`]. No request is in flight and none will come.
    pub(super) async fn shut(&self, cx: &Cx) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.abandon_tail(cx).await;
        self.flush(cx).await?;
        let _order = self.order.take(1).await;
        // Nothing is pinned any more, so the limbo empties; the lowered refcounts are then written.
        self.reap(cx).await;
        self.write_all_refcounts(cx).await?;
        if self.is_marked_dirty() && !self.corrupt.load(std::sync::atomic::Ordering::SeqCst) {
            self.set_incompatible(cx, 0, incompatible::DIRTY).await?;
        }
        if let Some(end) = self.alloc.surplus() {
            // The surplus holds nothing: losing this loses nothing.
            match self.host.set_len(cx, end).await {
                Ok(()) => self.alloc.trimmed(),
                Err(error) => {
                    log::debug!("the image file could not be cut to its used part: {error}");
                }
            }
        }
        self.host.sync(cx).await
    }

    /// Every refcount is in the file, durably. The caller holds `order`.
    pub(super) async fn write_all_refcounts(&self, cx: &Cx) -> Result<(), BlockError> {
        let chunk = self.host.align().clamp(512, self.layout.cluster());
        let refs = loop {
            self.move_table(cx).await?;
            if let Some(refs) = self.alloc.begin_write(chunk)? {
                break refs;
            }
        };
        let written = if holds(Rule::RefcountsBeforeL2) {
            self.write_refcounts(cx, &refs).await
        } else {
            Ok(())
        };
        self.alloc.end_write(&refs, written.is_ok());
        written
    }
}
