//! Having a namespace alone: its gate is closed on every queue of every controller, and what was in
//! the block layer has ended.

use std::sync::Arc;

use spindle_block::{BlockError, Cx, Io, Op, Range, RootHandle};

use super::{
    controller::Ctl,
    namespace::{Gate, Namespace},
    oneshot::channel,
    status::Status,
    subsystem::Subsystem,
};
use crate::device::Countdown;

/// Longest piece of a namespace that is zeroed at once, in bytes.
const PIECE: u64 = 256 << 20;

/// A namespace whose gate is closed; dropping it opens the gate.
pub struct Alone {
    subsystem: Arc<Subsystem>,
    namespace: Arc<Namespace>,
    /// How the gate is left.
    after: Gate,
}

impl Alone {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Leaves the gate like this afterwards, instead of open.
    pub fn leave(&mut self, gate: Gate) {
        self.after = gate;
    }

    /// Closes the gate of a namespace and waits until nothing of it is in the block layer.
    ///
    /// # Errors
    /// When it is closed already: the status of commands that meet it.
    pub async fn new(
        subsystem: &Arc<Subsystem>,
        namespace: &Arc<Namespace>,
        gate: Gate,
    ) -> Result<Self, Status> {
        namespace.close(gate).map_err(|now| now.status().unwrap_or(Status::INTERRUPTED))?;
        let alone = Self::adopt(Arc::clone(subsystem), Arc::clone(namespace));
        alone.quiet().await;
        Ok(alone)
    }

    /// A namespace whose gate the caller has closed; [`Alone::quiet`] is still to come.
    #[must_use]
    pub fn adopt(subsystem: Arc<Subsystem>, namespace: Arc<Namespace>) -> Self {
        Self { subsystem, namespace, after: Gate::Open }
    }

    /// Waits until nothing of the namespace is in the block layer.
    pub async fn quiet(&self) {
        let (quiet, wait) = channel();
        let countdown = Countdown::new(Box::new(move || quiet.send(())));
        for controller in self.subsystem.controllers() {
            controller.quiesce(Some(self.namespace.nsid()), &countdown);
        }
        drop(countdown);
        wait.await;
    }

    /// Replaces everything in the namespace by zeros that need no space, durably. Gives up between
    /// two pieces when the controller is reset.
    ///
    /// # Errors
    /// What the block layer said; a part may have been done then.
    pub async fn erase(&self, ctl: &Ctl, cx: &Cx) -> Result<(), Status> {
        let mut root = self.namespace.root().handle();
        let size = root.info().size;
        let mut done = 0;
        while done < size {
            if ctl.is_resetting() {
                return Err(Status::ABORT_REQUESTED);
            }
            let range = Range::new(done, (size - done).min(PIECE));
            let op = Op::WriteZeroes { unmap: true, fua: false };
            bare(&mut root, cx, op, range).await?;
            done += range.len;
        }
        bare(&mut root, cx, Op::Flush, Range::default()).await
    }
}

async fn bare(root: &mut RootHandle, cx: &Cx, op: Op, range: Range) -> Result<(), Status> {
    let (_, result) = root.io(cx, Io::bare(op, range)).await;
    result.map_err(|error: BlockError| Status::of(error, op))
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.namespace.leave(self.after);
        for controller in self.subsystem.controllers() {
            controller.reopen();
        }
    }
}
