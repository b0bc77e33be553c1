//! Images that are written or read from front to back, as through a pipe.
//!
//! An image can be written so if it is known beforehand which clusters have data: then header,
//! refcounts, L1 table and all L2 tables come first, and the data behind them in the order of the
//! disk. It can be read so if every table lies before what it points to.

mod read;
mod write;

pub use read::{Piece, StreamReader};
pub use write::StreamPlan;

use std::io;

use super::header::HeaderError;

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Reading failed.
    #[error("reading the stream")]
    Io(#[from] io::Error),
    /// It has no header that can be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is over too early.
    #[error("the stream ends before the image does")]
    Short,
    /// It is an image, but not one that can be read in this way.
    #[error("{0}; only an image whose tables lie before its data can be read from a pipe")]
    Order(&'static str),
    /// It contradicts itself.
    #[error("the image is corrupt: {0}")]
    Corrupt(&'static str),
}

#[cfg(test)]
mod tests;
