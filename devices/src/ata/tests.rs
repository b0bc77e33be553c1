use super::{
    Access, Command, Geometry, Protocol, Taskfile,
    cmd::{ABORTED, Context, Refused},
};

const DISK: Context = Context {
    packet: false,
    queued: true,
    multiple: 16,
    geometry: Geometry { cylinders: 100, heads: 16, sectors: 63 },
};

fn tf(command: u8) -> Taskfile {
    Taskfile { command, device: 0x40, ..Taskfile::default() }
}

#[test]
fn addresses_of_28_and_48_bits_and_by_cylinder_head_sector() {
    let narrow = Taskfile { lba: 0xaabb_cc12_3456, device: 0x4d, count: 0x0500, ..tf(0xc8) };
    let read = Command::parse(&narrow, &DISK);
    let access = Access::Dma;
    assert_eq!(read, Ok(Command::Read { lba: 0xd12_3456, sectors: 256, access }));
    let wide = Taskfile { lba: 0xaabb_cc12_3456, device: 0x4d, count: 0, ..tf(0x25) };
    let read = Command::parse(&wide, &DISK);
    assert_eq!(read, Ok(Command::Read { lba: 0xaabb_cc12_3456, sectors: 65536, access }));
    // Cylinder 2, head 3, sector 4: (2 * 16 + 3) * 63 + 3.
    let old = Taskfile { lba: 0x00_0204, device: 0x03, count: 1, ..tf(0x20) };
    let read = Command::parse(&old, &DISK);
    assert_eq!(read, Ok(Command::Read { lba: 2208, sectors: 1, access: Access::Pio(1) }));
    for bad in [0x00_0200, 0x00_0240, 0x00_6401] {
        let old = Taskfile { lba: bad, ..old };
        assert_eq!(Command::parse(&old, &DISK), Err(Refused(0x10)), "{bad:#x}");
    }
}

#[test]
fn queued_commands_have_their_sectors_in_features() {
    let queued = Taskfile { lba: 7, features: 8, count: 31 << 3, device: 0xc0, ..tf(0x61) };
    let write = Command::Write { lba: 7, sectors: 8, access: Access::Queued, fua: true };
    assert_eq!(Command::parse(&queued, &DISK), Ok(write));
    assert_eq!(queued.tag(), 31);
    assert_eq!(write.transfer(512).len, 4096);
    assert_eq!(write.transfer(512).protocol, Protocol::QueuedOut);
    let cable = Context { queued: false, ..DISK };
    assert_eq!(Command::parse(&queued, &cable), Err(ABORTED));
}

#[test]
fn multiple_is_refused_while_it_is_off() {
    let off = Context { multiple: 0, ..DISK };
    for command in [0xc4, 0xc5, 0x29, 0x39, 0xce] {
        let tf = Taskfile { count: 1, ..tf(command) };
        assert!(Command::parse(&tf, &DISK).is_ok(), "{command:#x}");
        assert_eq!(Command::parse(&tf, &off), Err(ABORTED), "{command:#x}");
    }
}

#[test]
fn a_translation_there_and_back() {
    let geometry = Geometry { cylinders: 5, heads: 3, sectors: 7 };
    for lba in 0..u64::from(geometry.capacity()) {
        let (cylinder, head, sector) = geometry.address(lba).unwrap();
        assert_eq!(geometry.lba(cylinder, head, sector), Some(lba));
    }
    assert_eq!(geometry.address(geometry.capacity().into()), None);
}

#[test]
fn ranges_to_trim_are_joined_and_checked() {
    let entry = |lba: u64, count: u64| (lba | count << 48).to_le_bytes();
    let list = [entry(0, 8), entry(8, 8), entry(0, 0), entry(90, 10)].concat();
    let ranges = super::trim::ranges(&list, 100, 512).unwrap();
    let ranges: Vec<_> = ranges.iter().map(|range| (range.offset, range.len)).collect();
    assert_eq!(ranges, [(0, 8192), (46080, 5120)]);
    assert_eq!(super::trim::ranges(&entry(91, 10), 100, 512), Err(ABORTED));
    assert_eq!(super::trim::ranges(&entry(0xffff_ffff_ffff, 0xffff), 100, 512), Err(ABORTED));
}
