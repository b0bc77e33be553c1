//! The lock-free parts of the block layer, compiled from their own sources, with the models in them
//! that loom runs: every order of what their threads do. A crate of its own, because `--cfg loom` is
//! for all crates of a build, and only loom is needed here.
//!
//! ```sh
//! RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test -p spindle-loom --lib
//! ```
#![cfg(loom)]

#[path = "../../../block/src/iothread/inbox.rs"]
pub mod inbox;
#[path = "../../../block/src/pin.rs"]
pub mod pin;

/// What the modules below need of their crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Range {
    /// A range.
    pub fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// The first byte beyond it.
    pub fn end(self) -> u64 {
        self.offset + self.len
    }
}

#[expect(dead_code, reason = "the rest of their crate uses it")]
pub mod qcow2;
