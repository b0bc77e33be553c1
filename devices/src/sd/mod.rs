//! SD memory cards and eMMC devices: registers, commands, states. They know nothing of a host
//! controller, of guest memory or of the block layer's tasks.
//!
//! Sources: SD Specifications Part 1, Physical Layer Simplified Specification 6.00 (SD), and
//! JESD84-B51, Embedded MultiMediaCard 5.1 (eMMC).
//!
//! A [`Card`] is given commands and answers them: a response, and what follows on the data lines
//! ([`Then`]). What takes time (an erase, a flush, something to be kept) is a queue of [`Step`]s, which
//! whoever owns the card carries out one after the other; the card is busy until the last is done.
//! Blocks of the medium are a [`Stream`]: where the next block lies, and how many are left.

mod bits;
mod blocks;
mod card;
mod command;
mod config;
mod emmc;
mod erase;
mod ext_csd;
mod job;
mod lock;
mod protect;
mod queue;
mod registers;
mod rpmb;
mod sdcard;
mod settings;
mod size;
pub mod spec;
mod status;
mod stream;
mod switch;
mod table;
#[cfg(test)]
mod tests;

pub use card::{Card, Reply, Response, Then};
pub use config::{CardConfig, CardKind, CardLayoutError, SdVersion};
pub use job::Step;
pub use size::{SizeError, check_size};
pub use status::error_bits;
pub use stream::Stream;
