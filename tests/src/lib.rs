//! What needs more than one crate: the lab, conformance and crash tests, and the benches.

pub mod bench;
pub mod counting_alloc;
pub mod coverage;
pub mod lab;
pub mod load;
