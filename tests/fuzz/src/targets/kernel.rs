//! Kernel images: bzImage and ELF headers that lie.

use std::cell::RefCell;

use spindle_boot::{AcpiConfig, BootConfig, BootImage, BootProtocol, MemoryMap, RamState};
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MEMORY: u64 = 64 << 20;

struct Bench {
    kernel: NamedTempFile,
    map: MemoryMap,
    memory: GuestMemoryMmap,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn bench() -> Bench {
    let map = MemoryMap::new(MEMORY, 40).expect("a map of 64 MiB");
    let memory = GuestMemoryMmap::from_ranges(&map.ram_regions()).expect("64 MiB");
    Bench { kernel: NamedTempFile::new().expect("a file"), map, memory }
}

/// The setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst), and some code.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 4 * 512 + 0x1000];
    let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    put(0x1f1, &[3]);
    put(0x1f4, &0x100u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &0x7fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    image
}

/// An ELF file with two segments and, in a note, its PVH entry.
fn elf() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x100_0040u64, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
    for (kind, at, address, in_file, in_memory) in [
        (1u32, 0x400u64, 0x100_0000u64, 0x800u64, 0x800u64),
        (1, 0xc00, 0x120_0000, 0x100, 0x5000),
        (4, 0x200, 0, 0x14, 0x14),
    ] {
        image.extend(kind.to_le_bytes());
        image.extend(7u32.to_le_bytes());
        for word in [at, address, address, in_file, in_memory, 0x1000] {
            image.extend(word.to_le_bytes());
        }
    }
    image.resize(0x200, 0);
    for word in [4u32, 4, 18] {
        image.extend(word.to_le_bytes());
    }
    image.extend(b"Xen\0");
    image.extend(0x100_0080u32.to_le_bytes());
    image.resize(0xd00, 0x90);
    image
}

/// The first byte chooses the protocol.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let with = |choice: u8, image: Vec<u8>| [vec![choice], image].concat();
    vec![with(0, bzimage()), with(0, elf()), with(1, elf()), with(2, elf()), with(1, bzimage())]
}

/// What loads lies in RAM, is entered in RAM, and loads again to the same.
pub(super) fn run(data: &[u8]) {
    let Some((choice, image)) = data.split_first() else { return };
    let protocols = [BootProtocol::Auto, BootProtocol::Linux64, BootProtocol::Pvh];
    BENCH.with_borrow_mut(|slot| {
        let bench = slot.get_or_insert_with(bench);
        // The length first, so that nothing of an earlier input is left.
        bench.kernel.as_file().set_len(0).expect("a shorter file");
        std::fs::write(bench.kernel.path(), image).expect("a file");
        let config = BootConfig {
            kernel: bench.kernel.path().into(),
            initrd: None,
            command_line: "console=ttyS0".to_owned(),
            protocol: protocols[usize::from(*choice) % protocols.len()],
            acpi: AcpiConfig::new(1),
        };
        let Ok(boot) = BootImage::open(&config) else { return };
        let Ok(entry) = boot.place(&bench.memory, &bench.map, RamState::Used) else { return };
        assert!(entry.kernel.start >= 1 << 20 && entry.kernel.end <= MEMORY, "{:x?}", entry.kernel);
        let mut code = [0];
        let first = GuestAddress(entry.registers.rip);
        bench.memory.read_slice(&mut code, first).expect("an entry in RAM");
        let again = boot.place(&bench.memory, &bench.map, RamState::Used).expect("again");
        assert_eq!(again, entry);
    });
}
