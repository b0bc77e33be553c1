//! What firmware finds at the firmware configuration device.

use spindle_boot::{
    MemoryMap,
    memory_map::{HYPERVISOR_PAGES, MemoryKind},
    ports,
};
use spindle_devices::ahci::spec::PCI_IDS;
use spindle_devices::nvme::config::DEFAULT_IDS;
use spindle_devices::platform::fw_cfg::{self, Item};

use super::board::Board;
use crate::spec::{
    DeviceSpec, MachineSpec,
    device::{IdePlace, Place, ScsiPlace, piix},
};

/// The file with the boot order.
const BOOT_ORDER: &str = "bootorder";
/// The file with the memory map.
const E820: &str = "etc/e820";

/// What is known before there are devices.
pub(super) fn items(spec: &MachineSpec, map: &MemoryMap) -> Vec<Item> {
    let cpus = u16::try_from(spec.cpus).unwrap_or(u16::MAX).to_le_bytes();
    vec![
        Item::key(fw_cfg::UUID, [0; 16]),
        Item::key(fw_cfg::RAM_SIZE, map.memory().to_le_bytes()),
        Item::key(fw_cfg::NO_GRAPHIC, 0_u16.to_le_bytes()),
        Item::key(fw_cfg::CPUS, cpus),
        Item::key(fw_cfg::BOOT_MENU, 0_u16.to_le_bytes()),
        Item::key(fw_cfg::CPUS_MAX, cpus),
        // The timer's interrupt comes in at I/O APIC input 2.
        Item::key(fw_cfg::IRQ0_OVERRIDE, 1_u32.to_le_bytes()),
        Item::file(BOOT_ORDER, Vec::new()),
        Item::file(E820, e820(map)),
    ]
}

/// How firmware talks to people: there is no display, so on the serial port; and where it finds nothing to
/// boot, it says so and waits for ever.
pub(super) fn console() -> [Item; 2] {
    [
        Item::file("etc/sercon-port", ports::COM1.to_le_bytes().to_vec()),
        Item::file("etc/boot-fail-wait", u32::MAX.to_le_bytes().to_vec()),
    ]
}

/// RAM, and what the hypervisor keeps for itself: address, length, kind.
fn e820(map: &MemoryMap) -> Vec<u8> {
    let ram = [Some(map.low_ram()), map.high_ram()].into_iter().flatten();
    let entries =
        ram.map(|range| (range, MemoryKind::Ram)).chain([(HYPERVISOR_PAGES, MemoryKind::Reserved)]);
    let mut bytes = Vec::new();
    for (range, kind) in entries {
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.len().to_le_bytes());
        bytes.extend((kind as u32).to_le_bytes());
    }
    bytes
}

/// The boot order, once devices have their places.
pub(super) fn set_boot_order(spec: &MachineSpec, board: &Board) {
    let functions = board.pci.functions();
    let mut order: Vec<(u32, String)> = Vec::new();
    for device in &spec.devices {
        let Some((index, node, unit)) = boot_entry(spec, device) else { continue };
        let on = match device.kind().place() {
            Place::Bus(controller) => controller,
            Place::Pci(_) | Place::Nowhere => device.id(),
        };
        let place = functions.iter().find(|(_, function)| function.id() == on);
        let Some((at, _)) = place else { continue };
        let function = if at.function == 0 { String::new() } else { format!(",{:x}", at.function) };
        order.push((index, format!("/pci@i0cf8/{node}@{:x}{function}{unit}", at.slot)));
    }
    order.sort();
    let paths: Vec<String> = order.into_iter().map(|(_, path)| path).collect();
    board.fw_cfg.set_file(BOOT_ORDER, boot_order(&paths));
}

/// Paths as Open Firmware writes them, one a line; the last ends with a NUL.
fn boot_order(paths: &[String]) -> Vec<u8> {
    if paths.is_empty() {
        return Vec::new();
    }
    let mut bytes = paths.join("\n").into_bytes();
    bytes.push(0);
    bytes
}

/// The place of a device in the boot order, the name of its PCI node, and what follows it.
fn boot_entry(spec: &MachineSpec, device: &DeviceSpec) -> Option<(u32, String, String)> {
    let scsi = |index: u32, unit: String| Some((index, "scsi".to_owned(), unit));
    let lun = |place: &ScsiPlace| {
        let (target, lun) = place.address();
        format!("/channel@0/disk@{target:x},{lun:x}")
    };
    // A controller that has no name of its own is called by its PCI ID.
    let nvme = |index: u32, nsid: u32| {
        let (vendor, id) = DEFAULT_IDS;
        Some((index, format!("pci{vendor:04x},{id:x}"), format!("/namespace@{nsid:x},0")))
    };
    let ahci = |index: u32, place: &IdePlace| {
        let (vendor, id) = PCI_IDS;
        let unit = format!("/drive@{:x}/disk@0", place.port());
        Some((index, format!("pci{vendor:04x},{id:x}"), unit))
    };
    // QEMU's name for a drive on a cable.
    let cable = |index: u32, place: &IdePlace| {
        let unit = format!("/drive@{:x}/disk@{:x}", place.port(), place.unit);
        Some((index, "ide".to_owned(), unit))
    };
    let on_cable = |place: &IdePlace| {
        spec.device(place.controller().0).is_some_and(|device| piix(device).is_some())
    };
    let card = |index: u32| Some((index, "pci1b36,7".to_owned(), "/sd-card@0".to_owned()));
    match device {
        DeviceSpec::IdeHd(disk) if on_cable(&disk.place) => cable(disk.bootindex?, &disk.place),
        DeviceSpec::IdeCd(drive) if on_cable(&drive.place) => cable(drive.bootindex?, &drive.place),
        DeviceSpec::VirtioBlkPci(disk) => scsi(disk.bootindex?, "/disk@0,0".to_owned()),
        DeviceSpec::ScsiHd(disk) => scsi(disk.bootindex?, lun(&disk.place)),
        DeviceSpec::ScsiCd(drive) => scsi(drive.bootindex?, lun(&drive.place)),
        DeviceSpec::Nvme(disk) => nvme(disk.bootindex?, 1),
        DeviceSpec::NvmeNs(ns) => nvme(ns.bootindex?, ns.nsid),
        DeviceSpec::IdeHd(disk) => ahci(disk.bootindex?, &disk.place),
        DeviceSpec::IdeCd(drive) => ahci(drive.bootindex?, &drive.place),
        DeviceSpec::SdCard(sd) => card(sd.card.bootindex?),
        DeviceSpec::Emmc(emmc) => card(emmc.card.bootindex?),
        DeviceSpec::VirtioRngPci(_)
        | DeviceSpec::VirtioScsiPci(_)
        | DeviceSpec::Ich9Ahci(_)
        | DeviceSpec::Piix3Ide(_)
        | DeviceSpec::Piix4Ide(_)
        | DeviceSpec::SdhciPci(_)
        | DeviceSpec::NvmeSubsys(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_order_is_lines_that_end_with_a_nul() {
        assert!(boot_order(&[]).is_empty());
        assert_eq!(boot_order(&["/a".to_owned(), "/b".to_owned()]), b"/a\n/b\0");
    }

    #[test]
    fn the_memory_map_has_all_of_the_ram() {
        let map = MemoryMap::new(4 << 30, 40).unwrap();
        let bytes = e820(&map);
        let entries: Vec<(u64, u64, u32)> = bytes
            .chunks_exact(20)
            .map(|e| {
                let number = |at: usize| u64::from_le_bytes(e[at..at + 8].try_into().unwrap());
                (number(0), number(8), u32::from_le_bytes(e[16..].try_into().unwrap()))
            })
            .collect();
        let low = 0xB000_0000;
        assert_eq!(entries, [(0, low, 1), (4 << 30, (4 << 30) - low, 1), (0xFEFF_C000, 0x4000, 2)]);
    }
}
