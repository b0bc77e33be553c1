//! What a disk does about requests that fail below it, whatever its controller.

use std::sync::Arc;

use spindle_block::{BlockError, Op};

/// What a device does when a request of its guest fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// Tell the guest.
    Report,
    /// Tell the guest it went well.
    Ignore,
    /// Park the request and ask the machine to stop; it is tried again when the machine goes on.
    Stop,
    /// [`ErrorPolicy::Stop`] when there is no space left, [`ErrorPolicy::Report`] otherwise.
    Enospc,
}

impl ErrorPolicy {
    /// What is done about `error`.
    #[must_use]
    pub fn action(self, error: BlockError) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc if error == BlockError::NoSpace => ErrorAction::Stop,
            Self::Enospc => ErrorAction::Report,
        }
    }
}

/// What was done about one failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// The guest got the error.
    Report,
    /// The guest was told that it went well.
    Ignore,
    /// The request is parked and the machine is to stop.
    Stop,
}

/// The two operations that BLOCK_IO_ERROR knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOperation {
    /// A read.
    Read,
    /// Everything else.
    Write,
}

/// A request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoErrorEvent {
    /// The device's id.
    pub device: String,
    /// The name of the block graph's root.
    pub node: String,
    /// What was asked for.
    pub operation: IoOperation,
    /// What was done about it.
    pub action: ErrorAction,
    /// There was no space left.
    pub nospace: bool,
    /// Why it failed.
    pub reason: BlockError,
}

/// Who hears of failed requests. Called on iothreads; it may not wait.
pub trait BlockEvents: Send + Sync {
    /// A request failed. With [`ErrorAction::Stop`] the machine is to stop: pause every device,
    /// and resume them when the user says so.
    fn io_error(&self, event: IoErrorEvent);
}

/// Whether an error is the driver's own mistake: such a request is answered, whatever the error
/// policy, because trying it again cannot help.
#[must_use]
pub fn is_drivers_fault(error: BlockError) -> bool {
    match error {
        BlockError::OutOfRange
        | BlockError::Misaligned
        | BlockError::ReadOnly
        | BlockError::Unsupported => true,
        BlockError::NoSpace
        | BlockError::Medium
        | BlockError::Corrupt
        | BlockError::Aborted
        | BlockError::TimedOut
        | BlockError::NoMemory
        | BlockError::Permission
        | BlockError::Gone => false,
    }
}

/// The policies of one queue's disk, and who hears of its failed requests.
#[derive(Clone)]
pub struct Failures {
    /// The device's id.
    pub device: String,
    /// What a failed write, flush, discard or write-zeroes does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Who hears of it.
    pub events: Arc<dyn BlockEvents>,
}

impl Failures {
    /// A request of `op` on the graph under the root named `node` has failed: what is to be done.
    /// Whoever is to hear of it has heard.
    #[must_use]
    pub fn decide(&self, op: Op, node: &str, error: BlockError) -> ErrorAction {
        if is_drivers_fault(error) {
            return ErrorAction::Report;
        }
        let read = op == Op::Read;
        let action = if read { self.rerror } else { self.werror }.action(error);
        self.events.io_error(IoErrorEvent {
            device: self.device.clone(),
            node: node.to_owned(),
            operation: if read { IoOperation::Read } else { IoOperation::Write },
            action,
            nospace: error == BlockError::NoSpace,
            reason: error,
        });
        action
    }
}
