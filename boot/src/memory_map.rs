//! The guest's physical address space: where RAM, the PCI windows and the fixed devices are.
//!
//! The map is that of QEMU's `q35` machine: RAM from 0 up to 2816 MiB, then the enhanced
//! configuration space and the PCI window, the interrupt controllers, and from 4 GiB the rest of
//! the RAM and a PCI window for 64-bit BARs above it.

use vm_memory::GuestAddress;

/// One KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;

/// The smallest memory a machine can have, in bytes.
pub const MEMORY_MIN: u64 = 64 * MIB;
/// The largest memory a machine can have, in bytes.
pub const MEMORY_MAX: u64 = 1024 * GIB;

/// First byte of the extended BIOS data area, the end of the conventional memory.
pub const EBDA_START: u64 = 0x9_FC00;
/// End of conventional memory (640 KiB): from here to [`HIGH_MEMORY_START`] nothing is listed as RAM.
pub const CONVENTIONAL_MEMORY_END: u64 = 0xA_0000;
/// Where the ACPI tables of a directly booted machine lie; the first page holds the FACS alone,
/// because it is non-volatile storage in the memory map and the rest is not.
pub const ACPI_AREA: AddressRange = AddressRange::new(0xE_0000, 0x10_0000);
/// Where memory goes on after the hole below 1 MiB.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// RAM below 4 GiB never reaches beyond this address (2816 MiB).
pub const LOW_RAM_MAX: u64 = 0xB000_0000;
/// The PCI Express enhanced configuration space: buses 0 to 255, 1 MiB each.
pub const ECAM: AddressRange = AddressRange::new(0xB000_0000, 0xC000_0000);
/// PCI buses that the ACPI tables tell of: there are no bridges. Linux asks for every device of every bus of the MCFG
/// that it has not found by itself (`pcibios_fixup_peer_bridges`), so 255 empty ones would cost 8160 accesses a boot.
pub const PCI_BUSES: u8 = 1;
/// The window for 32-bit BARs.
pub const PCI_WINDOW_32: AddressRange = AddressRange::new(0xC000_0000, 0xFEC0_0000);
/// The registers of the I/O APIC.
pub const IOAPIC: AddressRange = AddressRange::new(0xFEC0_0000, 0xFEC0_1000);
/// The registers of the local APIC, at every CPU; also where MSIs are written to (1 MiB).
pub const LAPIC: AddressRange = AddressRange::new(0xFEE0_0000, 0xFEF0_0000);
/// Pages that the hypervisor may take for itself in guest-physical space: on Intel hosts an identity
/// page table (the first page) and a task state segment (the three after it).
pub const HYPERVISOR_PAGES: AddressRange = AddressRange::new(0xFEFF_C000, 0xFF00_0000);
/// Where RAM goes on above 4 GiB.
pub const HIGH_RAM_START: u64 = 4 * GIB;
/// The window for 64-bit BARs is at most this large, in bytes.
pub const PCI_WINDOW_64_MAX: u64 = 512 * GIB;

/// A half-open range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The first address of the range.
    pub start: u64,
    /// The first address after the range.
    pub end: u64,
}

impl AddressRange {
    /// The range from `start` up to, and without, `end`; an `end` below `start` gives an empty one.
    pub const fn new(start: u64, end: u64) -> Self {
        let end = if end < start { start } else { end };
        Self { start, end }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no address in it.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether `address` lies in it.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether all of `other` lies in it.
    pub const fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two have an address in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_empty() && !other.is_empty()
    }
}

/// What a memory-map entry describes, with the number that both e820 (ACPI 6.5, table 15.5) and
/// PVH use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram = 1,
    /// In use by the machine, not to be touched.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
    /// ACPI non-volatile storage.
    AcpiNvs = 4,
}

/// One entry of the memory map that the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// The addresses it is about.
    pub range: AddressRange,
    /// What is there.
    pub kind: MemoryKind,
}

/// A memory size or CPU that no memory map can be made for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MemoryMapError {
    /// Less than [`MEMORY_MIN`] or more than [`MEMORY_MAX`].
    #[error("a machine has {} MiB to {} GiB of memory, not {}",
        MEMORY_MIN / MIB, MEMORY_MAX / GIB, bytes(*.0))]
    Size(u64),
    /// Not a whole number of MiB.
    #[error("the memory size must be a whole number of MiB, and {0} bytes is not")]
    Unaligned(u64),
    /// The CPU cannot address so much.
    #[error(
        "{} of memory end at address {end:#x}, beyond the {bits} bits of physical address \
         that this CPU has: give the machine less memory",
        bytes(*.size)
    )]
    BeyondCpu {
        /// The memory size in bytes.
        size: u64,
        /// Where its last region ends.
        end: u64,
        /// The CPU's number of physical address bits.
        bits: u8,
    },
}

/// `size` in the largest unit that shows it exactly.
pub(crate) fn bytes(size: u64) -> String {
    match size {
        s if s >= GIB && s % GIB == 0 => format!("{} GiB", s / GIB),
        s if s >= MIB && s % MIB == 0 => format!("{} MiB", s / MIB),
        s if s >= KIB && s % KIB == 0 => format!("{} KiB", s / KIB),
        s => format!("{s} bytes"),
    }
}

/// Where everything is in a machine with a given amount of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    low_ram: AddressRange,
    high_ram: AddressRange,
    pci_window_64: AddressRange,
}

impl MemoryMap {
    /// The map for a machine with `memory` bytes of RAM on CPUs with `phys_addr_bits` bits of
    /// physical address (CPUID leaf 8000_0008h, EAX bits 7:0; 36 to 52, clamped).
    ///
    /// # Errors
    /// If the size is out of bounds, no whole number of MiB, or more than the CPU can address.
    pub fn new(memory: u64, phys_addr_bits: u8) -> Result<Self, MemoryMapError> {
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory) {
            return Err(MemoryMapError::Size(memory));
        }
        if !memory.is_multiple_of(MIB) {
            return Err(MemoryMapError::Unaligned(memory));
        }
        let bits = phys_addr_bits.clamp(36, 52);
        let top = 1u64 << bits;
        let low_ram = AddressRange::new(0, memory.min(LOW_RAM_MAX));
        let high_ram = AddressRange::new(HIGH_RAM_START, HIGH_RAM_START + (memory - low_ram.end));
        if high_ram.end > top {
            return Err(MemoryMapError::BeyondCpu { size: memory, end: high_ram.end, bits });
        }
        let window = high_ram.end.next_multiple_of(GIB);
        let pci_window_64 = AddressRange::new(window, top.min(window + PCI_WINDOW_64_MAX));
        Ok(Self { low_ram, high_ram, pci_window_64 })
    }

    /// The RAM in bytes.
    pub fn memory(&self) -> u64 {
        self.low_ram.len() + self.high_ram.len()
    }

    /// The RAM below 4 GiB; it starts at 0 and covers the hole below 1 MiB too.
    pub fn low_ram(&self) -> AddressRange {
        self.low_ram
    }

    /// The RAM above 4 GiB, if there is any.
    pub fn high_ram(&self) -> Option<AddressRange> {
        (!self.high_ram.is_empty()).then_some(self.high_ram)
    }

    /// The regions that guest memory is made of: address and length in bytes, in rising order.
    pub fn ram_regions(&self) -> Vec<(GuestAddress, usize)> {
        std::iter::once(self.low_ram)
            .chain(self.high_ram())
            .map(|r| (GuestAddress(r.start), r.len() as usize))
            .collect()
    }

    /// The window for 64-bit BARs: from the first GiB boundary above RAM, at most 512 GiB; none
    /// where the CPU's physical addresses end there.
    pub fn pci_window_64(&self) -> Option<AddressRange> {
        (!self.pci_window_64.is_empty()).then_some(self.pci_window_64)
    }

    /// The memory map that a directly booted guest is told (e820 or PVH), in rising order and
    /// without overlaps. What it does not name is free for PCI or not there.
    pub fn entries(&self) -> Vec<MemoryMapEntry> {
        use MemoryKind::{Acpi, AcpiNvs, Ram, Reserved};
        let nvs_end = ACPI_AREA.start + crate::acpi::FACS_PAGE_SIZE;
        let mut entries = vec![
            entry(0, EBDA_START, Ram),
            entry(EBDA_START, CONVENTIONAL_MEMORY_END, Reserved),
            entry(ACPI_AREA.start, nvs_end, AcpiNvs),
            entry(nvs_end, ACPI_AREA.end, Acpi),
            entry(HIGH_MEMORY_START, self.low_ram.end, Ram),
            entry(ECAM.start, ECAM.end, Reserved),
            entry(HYPERVISOR_PAGES.start, HYPERVISOR_PAGES.end, Reserved),
        ];
        if let Some(high) = self.high_ram() {
            entries.push(entry(high.start, high.end, Ram));
        }
        entries
    }
}

fn entry(start: u64, end: u64, kind: MemoryKind) -> MemoryMapEntry {
    MemoryMapEntry { range: AddressRange::new(start, end), kind }
}

#[cfg(test)]
mod tests;
