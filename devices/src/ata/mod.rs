//! The ATA command set (ACS-3), and the PACKET feature set over the [SCSI target](crate::scsi):
//! what a drive answers, whichever controller carries its commands.
//!
//! A controller's queue half owns one [`Drive`] and drives it so:
//!
//! 1. [`Drive::accept`] takes a [`Taskfile`] and answers with a [`Command`], or with the [`Ending`]
//!    of one that is refused: the registers as the host then sees them.
//! 2. [`Command::transfer`] says how the data go ([`Protocol`]) and how much memory they need. The
//!    controller gathers it: from a PRD table, or as a buffer of its own for PIO. For
//!    [`Protocol::Packet`] it first gets the command packet; [`Drive::packet`] then tells the rest.
//! 3. [`Drive::begin`] is given the memory, filled where the host sends data, and answers with a
//!    [`Step`]: one request for the block layer, data for the host, a [`Job`], or the end.
//!    A command for which [`Command::is_medium`] holds may be begun piece by piece
//!    ([`Command::piece`]), as PIO wants it.
//! 4. What the block layer or a job ended with goes to [`Drive::finish`] (or, for a packet,
//!    [`Drive::finish_packet`]), which has the [`Ending`].
//!
//! Beside commands the controller does what [`Drive::begin_background`] gives it, a step at a time,
//! whenever [`Drive::has_background`] says so: self-tests and sanitize operations.
//!
//! Nothing here waits, and reads and writes allocate nothing. Error policies (`werror`, `rerror`)
//! are the controller's to apply, between 3 and 4. [`cmd`] and [`identify`] are pure.

pub mod cmd;
mod config;
mod drive;
mod features;
mod geometry;
pub mod identify;
pub mod initiator;
mod job;
mod kept;
mod log;
mod packet;
mod rare;
mod rarely;
mod settings;
pub mod spec;
mod status;
mod trim;

#[cfg(test)]
mod tests;

pub use cmd::{Access, Command, Protocol, Refused, Transfer};
pub use config::{DriveConfig, Transport};
pub use drive::{Drive, Ending, ResetKind, Step};
pub use geometry::Geometry;
pub use job::{Failure, Job, JobEnd};
pub use packet::{Cdb, PACKET_LEN, PacketStep};
pub use rare::Rare;
pub use rarely::BackgroundStep;
pub use settings::{Settings, TransferMode};
pub use spec::Taskfile;
pub use status::error_of;
