//! The kernel image: what kind it is, whether it can be booted, and how it gets into guest memory.
//!
//! Everything in the file is checked before anything of it is used; the copying itself is
//! linux-loader's, from the file straight into guest memory.

mod bzimage;
mod elf;
mod foreign;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::GuestMemoryBackend;

use crate::cpu_state::Protocol;
use crate::error::BootError;
use crate::image::{BootProtocol, RamState};
use crate::memory_map::AddressRange;
use crate::source::Source;

pub(crate) use bzimage::BzImage;
pub(crate) use elf::ElfKernel;
#[cfg(test)]
pub(crate) use elf::{FileHeader as ElfHeader, ProgramHeader as ElfProgramHeader};

/// Linux's own limit on x86, for a kernel that does not announce one: bytes without the final NUL.
const COMMAND_LINE_SIZE: usize = 2047;
/// How much of the start of a file decides what it is.
const HEAD: usize = 0x400;

/// A kernel whose headers were read and checked.
#[derive(Debug)]
pub(crate) enum Kernel {
    /// A compressed kernel with a setup header.
    BzImage(BzImage),
    /// An uncompressed one.
    Elf(ElfKernel),
}

/// How a loaded kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Guest-physical address of the first instruction.
    pub(crate) entry: u64,
    /// By which protocol.
    pub(crate) protocol: Protocol,
}

/// The error for a file whose second reading does not agree with the first.
fn changed(source: &Source) -> BootError {
    BootError::Malformed { path: source.path(), why: "it changed while it was being read".into() }
}

impl Kernel {
    /// Reads and checks the headers of `source`.
    pub(crate) fn inspect(source: &Source) -> Result<Self, BootError> {
        let mut head = [0; HEAD];
        let got = source.read_at(&mut head, 0)?;
        let head = &head[..got];
        if elf::is_elf(head) {
            ElfKernel::inspect(source, head).map(Self::Elf)
        } else if bzimage::has_setup_header(head) {
            BzImage::inspect(source, head).map(Self::BzImage)
        } else {
            Err(BootError::NotAKernel { path: source.path(), saw: foreign::describe(head) })
        }
    }

    /// The memory that the kernel takes, its work space included, in a machine whose RAM below 4 GiB
    /// ends at `low_ram_end`; refused if it does not fit.
    pub(crate) fn range(
        &self,
        source: &Source,
        low_ram_end: u64,
    ) -> Result<AddressRange, BootError> {
        let range = match self {
            Self::BzImage(kernel) => kernel.range(source)?,
            Self::Elf(kernel) => kernel.range(),
        };
        if range.end > low_ram_end {
            return Err(BootError::KernelDoesNotFit {
                path: source.path(),
                needed: range.end,
                have: low_ram_end,
            });
        }
        Ok(range)
    }

    /// Copies the kernel into guest memory at `range`; says how it is entered.
    pub(crate) fn load<M: GuestMemoryBackend>(
        &self,
        source: &Source,
        memory: &M,
        range: AddressRange,
        wanted: BootProtocol,
        ram: RamState,
    ) -> Result<Start, BootError> {
        match self {
            Self::BzImage(_) => BzImage::load(source, memory, range, wanted),
            Self::Elf(kernel) => kernel.load(source, memory, wanted, ram),
        }
    }

    /// The longest command line it takes, in bytes without the final NUL.
    pub(crate) fn command_line_max(&self) -> usize {
        match self {
            Self::BzImage(kernel) => kernel.command_line_max(),
            Self::Elf(_) => COMMAND_LINE_SIZE,
        }
    }

    /// Its setup header, or one made up for a kernel without.
    pub(crate) fn header(&self) -> setup_header {
        match self {
            Self::BzImage(kernel) => kernel.header(),
            Self::Elf(_) => crate::parameters::default_header(),
        }
    }

    /// The highest address that its initrd may end at, if it says so.
    pub(crate) fn initrd_end_max(&self) -> Option<u64> {
        match self {
            Self::BzImage(kernel) => Some(kernel.initrd_end_max()),
            Self::Elf(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
