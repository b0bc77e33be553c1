//! The SCSI target: what a logical unit answers (SPC-5, SBC-4, MMC-6), whoever carries its
//! commands.
//!
//! A transport gives a command descriptor block and memory to [`UnitHandle::begin`]. Reads and
//! writes come back as one request for the block layer over that memory: nothing is copied. What
//! answers from the unit's own state is answered at once, and what takes several requests comes
//! back as a [`Job`] that the transport's iothread runs.
//!
//! [`LogicalUnit`] is what all queues of all controllers share; [`cmd`] parses, without side
//! effects.

mod background;
pub mod cmd;
mod elsewhere;
mod exec;
mod format;
mod inquiry;
mod job;
mod log;
mod mmc;
mod mode;
mod opcodes;
mod order;
mod provisioning;
mod reservation;
mod saving;
mod sense;
pub mod spec;
mod status;
mod tray;
mod unit;

#[cfg(test)]
mod tests;

pub use elsewhere::{Elsewhere, answer_elsewhere};
pub use exec::{Answer, Arrival, LunSelect, Step};
pub use job::{AbortFlag, Failure, Job, JobEnd, JobResult};
pub use order::Turn;
pub use sense::{Sense, SenseBytes, Specific};
pub use status::sense_of;
pub use tray::TrayError;
pub use unit::{Ended, Initiator, LogicalUnit, Nexus, UnitConfig, UnitHandle, UnitKind};
