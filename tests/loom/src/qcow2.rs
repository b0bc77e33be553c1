//! The cache of L2 entries, and what it needs.

#[path = "../../../block/src/qcow2/cache.rs"]
mod cache;
#[path = "../../../block/src/qcow2/counts.rs"]
mod counts;
#[path = "../../../block/src/qcow2/layout.rs"]
mod layout;
#[path = "../../../block/src/qcow2/sync.rs"]
mod sync;
