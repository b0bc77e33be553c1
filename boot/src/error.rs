//! What can go wrong on the way to a machine that is ready to run.

use std::io;
use std::path::PathBuf;

use crate::memory_map::{MIB, bytes};

/// Which of the files a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// The kernel image.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// A BIOS.
    Firmware,
}

impl std::fmt::Display for FileRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Firmware => "firmware",
        })
    }
}

/// Why a guest could not be made ready to boot. Every message about a file names it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be opened.
    #[error("cannot open {role} '{path}'", path = .path.display())]
    Open {
        /// Which file.
        role: FileRole,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{role} '{path}' is not a regular file", path = .path.display())]
    NotAFile {
        /// Which file.
        role: FileRole,
        /// Its path.
        path: PathBuf,
    },
    /// A file of no bytes.
    #[error("{role} '{path}' is empty", path = .path.display())]
    Empty {
        /// Which file.
        role: FileRole,
        /// Its path.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("cannot read {role} '{path}'", path = .path.display())]
    Read {
        /// Which file.
        role: FileRole,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No length that firmware can have.
    #[error("'{path}' is not a firmware image: it has {size}, and one has a whole number of {} up to \
         {}", bytes(*.unit), bytes(*.max), path = .path.display())]
    FirmwareSize {
        /// Its path.
        path: PathBuf,
        /// Its length, in words.
        size: String,
        /// What lengths are multiples of, in bytes.
        unit: u64,
        /// The largest length, in bytes.
        max: u64,
    },
    /// The file ends before what its own header announces.
    #[error("kernel '{path}' is truncated: {part} ends at byte {needed}, the file at {have}",
        path = .path.display())]
    Truncated {
        /// Its path.
        path: PathBuf,
        /// What is cut off.
        part: &'static str,
        /// The length the file must have at least, in bytes.
        needed: u64,
        /// The length it has.
        have: u64,
    },
    /// Something else than a Linux kernel.
    #[error("'{path}' is not a kernel that can be booted: it {saw}; \
         give a bzImage (vmlinuz) or an x86-64 ELF vmlinux", path = .path.display())]
    NotAKernel {
        /// Its path.
        path: PathBuf,
        /// What it is instead.
        saw: String,
    },
    /// A kernel, but none that this machine can start.
    #[error("kernel '{path}' cannot be booted: {why}", path = .path.display())]
    Unsupported {
        /// Its path.
        path: PathBuf,
        /// What it lacks and what to do.
        why: String,
    },
    /// A header that contradicts itself.
    #[error("kernel '{path}' is damaged: {why}", path = .path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// Copying the kernel into guest memory failed.
    #[error("cannot load kernel '{path}'", path = .path.display())]
    LoadKernel {
        /// Its path.
        path: PathBuf,
        /// What the loader said.
        source: linux_loader::loader::Error,
    },
    /// Clearing the memory that the kernel wants zeroed failed.
    #[error("cannot clear memory at {address:#x} for kernel '{path}'", path = .path.display())]
    ClearKernel {
        /// Its path.
        path: PathBuf,
        /// Where.
        address: u64,
        /// What failed.
        source: vm_memory::GuestMemoryError,
    },
    /// Copying the initrd into guest memory failed.
    #[error("cannot load initrd '{path}'", path = .path.display())]
    LoadInitrd {
        /// Its path.
        path: PathBuf,
        /// What failed.
        source: vm_memory::GuestMemoryError,
    },
    /// The kernel needs more RAM below the PCI hole than there is.
    #[error("kernel '{path}' does not fit: it needs memory up to {}, the machine's low memory \
         ends at {}; give the machine more memory", mib(*.needed), mib(*.have), path = .path.display())]
    KernelDoesNotFit {
        /// Its path.
        path: PathBuf,
        /// The address that its image and work space end at.
        needed: u64,
        /// The address that RAM below 4 GiB ends at.
        have: u64,
    },
    /// No room for the initrd between kernel and end of memory.
    #[error("initrd '{path}' ({}) does not fit: between the kernel's end at {} and the \
         {limit} at {} are {}; give the machine more memory",
        mib(*.size), mib(*.floor), mib(*.ceiling), mib(.ceiling.saturating_sub(*.floor)),
        path = .path.display())]
    InitrdDoesNotFit {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Where the kernel's image and work space end.
        floor: u64,
        /// What sets the upper bound.
        limit: &'static str,
        /// The upper bound.
        ceiling: u64,
    },
    /// More characters than the kernel takes.
    #[error("the kernel command line has {len} bytes, kernel '{path}' takes at most {max}",
        path = .path.display())]
    CommandLineTooLong {
        /// The kernel.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The most the kernel takes, in bytes without the final NUL.
        max: usize,
    },
    /// A NUL would end it early.
    #[error("the kernel command line contains a NUL byte at offset {0}")]
    CommandLineNul(usize),
    /// Guest memory is not what the memory map says.
    #[error("guest memory does not match the memory map: no RAM at {0:#x}")]
    MemoryMismatch(u64),
    /// More CPUs than processor devices can be named.
    #[error("a machine has at most {max} CPUs, not {cpus}")]
    TooManyCpus {
        /// The number of CPUs asked for.
        cpus: usize,
        /// The most there can be.
        max: usize,
    },
    /// The tables outgrow the area kept for them.
    #[error("the ACPI tables for {cpus} CPUs take {}, more than the {} kept for them: \
         give the machine fewer CPUs", bytes(*.size), bytes(*.room))]
    AcpiTooLarge {
        /// The number of CPUs.
        cpus: usize,
        /// What the tables take, in bytes.
        size: u64,
        /// What there is room for, in bytes.
        room: u64,
    },
    /// Writing one of the boot structures failed.
    #[error("cannot write {what} to guest memory at {address:#x}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Its guest-physical address.
        address: u64,
        /// What failed.
        source: vm_memory::GuestMemoryError,
    },
    /// Writing the boot parameters failed.
    #[error("cannot write the boot parameters to guest memory")]
    Parameters(#[source] linux_loader::configurator::Error),
}

/// An amount or address in MiB, rounded up to a tenth where it is no whole number.
fn mib(value: u64) -> String {
    if value.is_multiple_of(MIB) {
        return format!("{} MiB", value / MIB);
    }
    let tenths = (u128::from(value) * 10).div_ceil(u128::from(MIB));
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
