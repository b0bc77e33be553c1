//! Everything a directly booted guest starts from, opened once and placed at every start.

use std::path::PathBuf;

use vm_memory::GuestMemoryBackend;

use crate::acpi::{AcpiConfig, AcpiTables};
use crate::command_line;
use crate::cpu_state::{self, EntryPoint, Protocol};
use crate::error::{BootError, FileRole};
use crate::initrd::{self, Bounds};
use crate::kernel::Kernel;
use crate::memory_map::MemoryMap;
use crate::parameters::{self, Parameters};
use crate::source::Source;

/// Which boot protocol to enter the kernel by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootProtocol {
    /// A bzImage by the 64-bit boot protocol; an ELF file by PVH if it has an entry for that, else by the
    /// 64-bit boot protocol.
    #[default]
    Auto,
    /// PVH, or not at all.
    Pvh,
    /// The Linux 64-bit boot protocol.
    Linux64,
}

/// What guest memory holds before a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamState {
    /// Zeros: it was just made. What must be zero is left alone and takes no host memory.
    Fresh,
    /// Anything: a guest ran in it.
    Used,
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// The kernel: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel command line, without a final NUL.
    pub command_line: String,
    /// How to enter the kernel.
    pub protocol: BootProtocol,
    /// What the ACPI tables describe.
    pub acpi: AcpiConfig,
}

/// The opened files and settings of a directly booted machine. A reset of the machine calls
/// [`BootImage::place`] again.
#[derive(Debug)]
pub struct BootImage {
    kernel: Source,
    initrd: Option<Source>,
    command_line: String,
    protocol: BootProtocol,
    acpi: AcpiConfig,
}

impl BootImage {
    /// Opens the files and checks what can be checked without guest memory.
    ///
    /// # Errors
    /// If a file cannot be opened, is no regular file or empty, if the kernel is not one that this
    /// machine can boot, or if the command line has a NUL in it or is too long for the kernel.
    pub fn open(config: &BootConfig) -> Result<Self, BootError> {
        command_line::check(&config.command_line)?;
        let kernel = Source::open(FileRole::Kernel, &config.kernel)?;
        let initrd =
            config.initrd.as_ref().map(|path| Source::open(FileRole::Initrd, path)).transpose()?;
        let max = Kernel::inspect(&kernel)?.command_line_max();
        command_line::check_length(&config.command_line, &kernel, max)?;
        Ok(Self {
            kernel,
            initrd,
            command_line: config.command_line.clone(),
            protocol: config.protocol,
            acpi: config.acpi.clone(),
        })
    }

    /// Writes kernel, initrd, command line, tables and boot parameters into guest memory and says how
    /// the boot CPU starts. The files are read anew, and checked anew.
    ///
    /// # Errors
    /// As [`BootImage::open`]; also if something does not fit, or `memory` has no RAM where `map` says.
    pub fn place<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        map: &MemoryMap,
        ram: RamState,
    ) -> Result<EntryPoint, BootError> {
        check_memory(memory, map)?;
        let kernel = Kernel::inspect(&self.kernel)?;
        let low_ram_end = map.low_ram().end;
        let range = kernel.range(&self.kernel, low_ram_end)?;
        let max = kernel.command_line_max();
        command_line::place(memory, &self.command_line, &self.kernel, max)?;
        let bounds =
            Bounds { kernel_end: range.end, low_ram_end, kernel_limit: kernel.initrd_end_max() };
        let initrd = self.initrd.as_ref().map(|s| initrd::load(s, memory, bounds)).transpose()?;
        let start = kernel.load(&self.kernel, memory, range, self.protocol, ram)?;
        let rsdp = AcpiTables::new(&self.acpi, map)?.place(memory)?;

        let entries = map.entries();
        let told = Parameters { initrd, rsdp, memory_map: &entries };
        match start.protocol {
            Protocol::Pvh => parameters::write_pvh(memory, &told)?,
            Protocol::Linux64 => parameters::write_linux(memory, kernel.header(), &told)?,
        }
        let (registers, system) = cpu_state::prepare(memory, start.protocol, start.entry)?;
        log::debug!(
            "kernel at {:#x}..{:#x}, entered at {:#x} by {:?}; initrd {initrd:x?}; RSDP {rsdp:#x}",
            range.start,
            range.end,
            start.entry,
            start.protocol
        );
        Ok(EntryPoint { protocol: start.protocol, registers, system, kernel: range, initrd, rsdp })
    }
}

/// Opens and places in one step, into fresh guest memory.
///
/// # Errors
/// As [`BootImage::open`] and [`BootImage::place`].
pub fn load<M: GuestMemoryBackend>(
    memory: &M,
    map: &MemoryMap,
    config: &BootConfig,
) -> Result<EntryPoint, BootError> {
    BootImage::open(config)?.place(memory, map, RamState::Fresh)
}

fn check_memory<M: GuestMemoryBackend>(memory: &M, map: &MemoryMap) -> Result<(), BootError> {
    for (start, len) in map.ram_regions() {
        if !memory.check_range(start, len) {
            let hole = memory.last_addr().0.saturating_add(1).clamp(start.0, start.0 + len as u64);
            return Err(BootError::MemoryMismatch(hole));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
