//! The admin queue: commands that describe and change the controller.

mod bytes;
mod features;
mod format;
mod identify;
mod logs;
mod queue;
mod queues;

pub use logs::{ErrorEntry, ErrorLog};
pub use queue::AdminQueue;
