//! What a channel's halves hand each other.

use crate::ata::{Cdb, ResetKind, Taskfile};

/// What the register half wants of the queue half, for one drive.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A command was written.
    Command(Taskfile),
    /// A PACKET command, with its packet.
    Packet(Taskfile, Cdb),
    /// The host has read all there was, and the command has more.
    More,
    /// The host has written a block.
    Block,
}

/// A reset that is under way. The drives are busy until the queue half has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// SRST of DEVICE CONTROL; it ends when the bit is cleared.
    Software,
    /// EXECUTE DEVICE DIAGNOSTIC.
    Diagnostic,
    /// DEVICE RESET of one drive.
    Device(usize),
    /// The function's: as after power-on.
    Hardware,
}

impl Reset {
    /// What it is to the command set.
    pub fn kind(self) -> ResetKind {
        match self {
            Self::Software | Self::Diagnostic => ResetKind::Software,
            Self::Device(_) => ResetKind::Device,
            Self::Hardware => ResetKind::PowerOn,
        }
    }

    /// Whether it is drive `index` that is reset.
    pub fn reaches(self, index: usize) -> bool {
        match self {
            Self::Device(one) => one == index,
            Self::Software | Self::Diagnostic | Self::Hardware => true,
        }
    }
}
