//! The machine on the main thread.

mod mailbox;

pub use mailbox::{Letter, Mailbox};
