//! Firmware (a BIOS): an image that ends at 4 GiB, where CPUs have their reset vector, and whose last
//! part also lies below 1 MiB.
//!
//! On a PC the chipset decides whether reads of the part below 1 MiB go to the ROM or to RAM behind it.
//! Here it is always RAM, holding a copy at every start, as a chipset leaves it that has been told to
//! shadow the BIOS; firmware that shadows itself finds that it may.

use std::path::{Path, PathBuf};

use vm_memory::GuestMemoryBackend;

use crate::cpu_state::write;
use crate::error::{BootError, FileRole};
use crate::image::RamState;
use crate::memory_map::{AddressRange, HIGH_MEMORY_START, HYPERVISOR_PAGES, KIB, bytes};
use crate::source::Source;

/// An image has a whole number of these, in bytes.
const UNIT: u64 = 64 * KIB;
/// Where the image ends; CPUs start 16 bytes before.
const ROM_END: u64 = 1 << 32;
/// The largest image, in bytes: what lies below it is the hypervisor's.
const ROM_MAX: u64 = ROM_END - HYPERVISOR_PAGES.end;
/// How much of its end lies below 1 MiB too, in bytes.
const COPY_MAX: u64 = 128 * KIB;
/// Where expansion ROMs lie, which firmware looks for.
const EXPANSION_ROMS: u64 = 0xC_0000;
/// Where packages put firmware: names without a directory are looked for here too.
const PLACES: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];

/// A firmware image in the host's memory.
#[derive(Debug)]
pub struct Firmware {
    content: Vec<u8>,
}

impl Firmware {
    /// Reads the image `path`. A bare file name that is not there is looked for where packages put
    /// firmware, as QEMU does.
    ///
    /// # Errors
    /// If the file cannot be read, or its length is not a whole number of 64 KiB up to 16 MiB.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let source = Source::open(FileRole::Firmware, &found(path))?;
        let len = source.len()?;
        if len > ROM_MAX || !len.is_multiple_of(UNIT) {
            let (path, size) = (source.path(), bytes(len));
            return Err(BootError::FirmwareSize { path, size, unit: UNIT, max: ROM_MAX });
        }
        let mut content = vec![0; len as usize];
        if source.read_at(&mut content, 0)? != content.len() {
            return Err(BootError::NotAFile { role: FileRole::Firmware, path: source.path() });
        }
        Ok(Self { content })
    }

    /// The image, and where it lies.
    pub fn rom(&self) -> (AddressRange, &[u8]) {
        (AddressRange::new(ROM_END - self.content.len() as u64, ROM_END), &self.content)
    }

    /// Writes the copy below 1 MiB; expansion ROMs that a guest left there go.
    ///
    /// # Errors
    /// If guest memory has no RAM there.
    pub fn place<M: GuestMemoryBackend>(&self, memory: &M, ram: RamState) -> Result<(), BootError> {
        let len = self.content.len().min(COPY_MAX as usize);
        let start = HIGH_MEMORY_START - len as u64;
        if ram == RamState::Used {
            let zeros = vec![0; (start - EXPANSION_ROMS) as usize];
            write(memory, "room for expansion ROMs", EXPANSION_ROMS, &zeros)?;
        }
        write(memory, "the firmware", start, &self.content[self.content.len() - len..])
    }
}

fn found(path: &Path) -> PathBuf {
    let bare = path.components().count() == 1;
    let places = PLACES.iter().map(|place| Path::new(place).join(path));
    let other = || places.filter(|_| bare).find(|candidate| candidate.is_file());
    if path.exists() { path.to_owned() } else { other().unwrap_or_else(|| path.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryMap, synth};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    fn memory() -> GuestMemoryMmap {
        let map = MemoryMap::new(64 << 20, 40).unwrap();
        GuestMemoryMmap::from_ranges(&map.ram_regions()).unwrap()
    }

    #[test]
    fn the_image_ends_at_4_gib_and_its_last_part_at_1_mib() {
        let content = synth::pattern(256 << 10, 3);
        let file = synth::file(&content);
        let firmware = Firmware::open(file.path()).unwrap();
        let (range, rom) = firmware.rom();
        assert_eq!((range.start, range.end, rom), (0xFFFC_0000, 1 << 32, &content[..]));
        let memory = memory();
        memory.write_obj(0xAA55_u16, GuestAddress(0xC_0000)).unwrap();
        firmware.place(&memory, RamState::Used).unwrap();
        let mut low = vec![0; 0x2_0000];
        memory.read_slice(&mut low, GuestAddress(0xE_0000)).unwrap();
        assert_eq!(low, content[0x2_0000..]);
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0xC_0000)).unwrap(), 0);
    }

    #[test]
    fn a_small_image_lies_right_below_1_mib() {
        let content = synth::pattern(64 << 10, 9);
        let firmware = Firmware::open(synth::file(&content).path()).unwrap();
        let memory = memory();
        firmware.place(&memory, RamState::Fresh).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0xE_FFFF)).unwrap(), 0);
        let mut low = vec![0; 0x1_0000];
        memory.read_slice(&mut low, GuestAddress(0xF_0000)).unwrap();
        assert_eq!(low, content);
    }

    #[test]
    fn odd_sizes_and_missing_files_are_refused_by_name() {
        for (len, what) in [(0, "is empty"), (1, "1 bytes"), (65_537, "65537 bytes")] {
            let file = synth::file(&vec![0; len]);
            let message = Firmware::open(file.path()).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
            assert!(message.contains(file.path().to_str().unwrap()), "{message}");
        }
        let large = synth::file(&[0]);
        large.as_file().set_len(ROM_MAX + UNIT).unwrap();
        let message = Firmware::open(large.path()).unwrap_err().to_string();
        assert!(message.contains("16 MiB"), "{message}");
        let message = Firmware::open(Path::new("no-such-bios.bin")).unwrap_err().to_string();
        assert_eq!(message, "cannot open firmware 'no-such-bios.bin'");
    }
}
