//! Tools that handle images without running a guest. They use the block layer alone.
pub mod img;
