//! Places a kernel in guest memory and prints where everything went and how long it took.
//!
//! `cargo run --release -p spindle-boot --example place -- KERNEL [INITRD] [MEMORY_MIB]`; with
//! `TABLES=DIR` in the environment it also writes the ACPI tables there, for `iasl -d`.

use std::time::Instant;

use spindle_boot::acpi::AcpiTables;
use spindle_boot::{AcpiConfig, BootConfig, BootImage, BootProtocol, MemoryMap, RamState};
use vm_memory::GuestMemoryMmap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let kernel = args.next().ok_or("usage: place KERNEL [INITRD] [MEMORY_MIB]")?;
    let initrd = args.next().filter(|s| !s.is_empty());
    let memory = args.next().map_or(Ok(512), |s| s.parse::<u64>())?;
    let map = MemoryMap::new(memory << 20, 40)?;
    let config = BootConfig {
        kernel: kernel.into(),
        initrd: initrd.map(Into::into),
        command_line: "console=ttyS0".into(),
        protocol: BootProtocol::Auto,
        acpi: AcpiConfig::new(2),
    };
    if let Some(dir) = std::env::var_os("TABLES") {
        for table in AcpiTables::new(&config.acpi, &map)?.tables() {
            let name = std::path::Path::new(&dir).join(table.name.to_lowercase() + ".dat");
            std::fs::write(name, &table.bytes)?;
        }
    }
    let memory = GuestMemoryMmap::<()>::from_ranges(&map.ram_regions())?;
    for (name, ram) in [("first", RamState::Fresh), ("again", RamState::Used)] {
        let begin = Instant::now();
        let image = BootImage::open(&config)?;
        let opened = begin.elapsed();
        let start = image.place(&memory, &map, ram)?;
        println!("{name}: open {opened:?}, all {:?}", begin.elapsed());
        if ram == RamState::Fresh {
            println!("{start:#x?}");
        }
    }
    Ok(())
}
