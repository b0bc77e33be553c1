//! Nodes that are no image formats: files, windows of files, nothing at all, and filters.

pub mod fault;
pub mod file;
pub mod nbd;
pub mod null;
pub mod raw;
pub mod rehearsal;

#[cfg(test)]
pub(crate) mod testing;
