//! The admin queue: commands that describe and change the controller.

mod bytes;
mod features;
pub mod firmware;
mod format;
mod identify;
mod keep_alive;
mod logs;
mod namespaces;
mod queue;
mod queues;

pub use firmware::Firmware;
pub use logs::{ErrorEntry, ErrorLog};
pub use queue::AdminQueue;
