//! I/O queues: from submission queue entries to the block layer, and back to completion queues.

mod queue;
mod reserve;
mod table;
mod tasks;

use super::{doors::ShadowPages, oneshot::Sender, rings::Submission};
use crate::device::Countdown;

pub use queue::IoQueue;

/// What is told to the queue half of a completion queue.
pub enum Mail {
    /// A submission queue that posts to it. The host may use it once `done` is let go of.
    Add(Submission, Countdown),
    /// No more commands of this submission queue; the answer comes when none is under way.
    Delete {
        /// The submission queue.
        id: u16,
        /// Where the answer goes.
        reply: Sender<()>,
    },
    /// Aborts a command, if it only waits for something.
    Abort {
        /// Its submission queue.
        sq: u16,
        /// Its identifier.
        cid: u16,
        /// Whether it was aborted.
        reply: Sender<bool>,
    },
    /// Doorbells are in guest memory from now on. The host may write them there once `done` is let go
    /// of: before that, what it writes would be taken for stale.
    Shadows(ShadowPages, Countdown),
    /// Lets go of `done` when nothing of a namespace is in the block layer.
    Quiesce {
        /// The namespace; `None`: all.
        nsid: Option<u32>,
        /// Who waits.
        done: Countdown,
    },
    /// Ends the commands of a namespace: at once what only waits, and what is in the block layer once
    /// it comes back. Lets go of `done` when all have ended.
    Preempt {
        /// The namespace.
        nsid: u32,
        /// Who waits.
        done: Countdown,
    },
    /// Commands that waited for a gate go on.
    Reopen,
    /// The time for which an interrupt may be held back is over.
    Time,
}
