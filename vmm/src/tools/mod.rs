//! Tools that handle images without running a guest. They use the block layer alone.
pub mod getopt;
pub mod img;
pub mod io;
pub mod nbd;
pub mod object;
pub mod tls;
