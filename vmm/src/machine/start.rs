//! What the machine starts with: a kernel, firmware, or nothing that it would run by itself.

use spindle_boot::{
    AcpiConfig, BootConfig, BootImage, BootProtocol, Entry, Firmware, MemoryMap, RamState,
    acpi::AcpiTables,
};
use spindle_devices::platform::fw_cfg::Item;
use vm_memory::GuestMemoryMmap;

use super::{BuildError, board::Board, firmware};
use crate::{
    accel::Accelerator,
    spec::{AccelSpec, MachineSpec},
};

/// See the module.
pub(super) enum Start {
    /// Whoever drives the machine does what firmware would.
    Nothing,
    /// A kernel, without firmware.
    Kernel(BootImage),
    /// Firmware, which looks for something to boot by itself.
    Firmware(Firmware),
}

impl Start {
    /// Opens what `spec` names.
    pub(super) fn open(spec: &MachineSpec) -> Result<Self, BuildError> {
        if let Some(path) = &spec.bios {
            return Ok(Self::Firmware(Firmware::open(path)?));
        }
        if let Some(kernel) = spec.kernel.clone() {
            let config = BootConfig {
                kernel,
                initrd: spec.initrd.clone(),
                command_line: spec.append.clone(),
                protocol: BootProtocol::Auto,
                acpi: AcpiConfig::new(spec.cpus),
            };
            return Ok(Self::Kernel(BootImage::open(&config)?));
        }
        if spec.accel == AccelSpec::Qtest { Ok(Self::Nothing) } else { Err(BuildError::NoKernel) }
    }

    /// What firmware finds at the firmware configuration device before there are devices.
    pub(super) fn items(
        &self,
        spec: &MachineSpec,
        map: &MemoryMap,
    ) -> Result<Vec<Item>, BuildError> {
        let mut items = firmware::items(spec, map);
        if matches!(self, Self::Firmware(_)) {
            let tables = AcpiTables::new(&AcpiConfig::new(spec.cpus), map)?;
            items.extend(tables.files().into_iter().map(|(name, data)| Item::file(name, data)));
            items.extend(firmware::console());
        }
        Ok(items)
    }

    /// Puts in place what stays there over a reset.
    pub(super) fn install(&self, accelerator: &mut dyn Accelerator) -> Result<(), BuildError> {
        let Self::Firmware(firmware) = self else { return Ok(()) };
        let (range, content) = firmware.rom();
        accelerator.add_rom(range.start, content)
    }

    /// Fills guest memory.
    pub(super) fn fill(
        &self,
        memory: &GuestMemoryMmap,
        map: &MemoryMap,
        ram: RamState,
    ) -> Result<Entry, BuildError> {
        match self {
            Self::Nothing => {}
            Self::Kernel(image) => {
                return Ok(Entry::Kernel(Box::new(image.place(memory, map, ram)?)));
            }
            Self::Firmware(firmware) => firmware.place(memory, ram)?,
        }
        Ok(Entry::ResetVector)
    }

    /// Gives out PCI addresses, where neither firmware nor whoever drives the machine does.
    pub(super) fn assign_addresses(&self, board: &Board) -> Result<(), BuildError> {
        if matches!(self, Self::Kernel(_)) { board.assign_addresses() } else { Ok(()) }
    }
}
