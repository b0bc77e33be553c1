//! Fuzz targets: hostile input for whatever reads it. A target is a plain function of bytes that must
//! neither panic nor hang, and that checks what must hold whatever the bytes were.
//!
//! `cargo run -p spindle-fuzz -- --help` runs them: inputs are mutated from seeds, which are made here
//! or lie in `corpus/`. That needs nothing but stable Rust. Compiled as `tests/soak` does, with
//! counters at every branch, the runner also keeps what reaches new code and mutates that.
//!
//! Inputs are mostly right, with few errors: what begins with nonsense is refused at the first look
//! and shows nothing. So some targets read their bytes as a *program* (requests, and what is wrong
//! with them) rather than as the hostile bytes themselves.

mod corpus;
mod counters;
mod mutate;
pub mod runner;
mod targets;

pub use targets::{TARGETS, Target};
