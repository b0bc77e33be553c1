//! An IDE driver at the legacy ports, by PIO and by bus master (ATA-7, BMIDE 1.0).

use std::time::Instant;

use tempfile::TempDir;

use super::{
    client::{Function, PATIENCE, Qtest},
    disk::pattern,
};

const COMMAND_BLOCK: u16 = 0x1f0;
const CONTROL: u16 = 0x3f6;
/// Where the driver puts the bus master's ports.
const BUS_MASTER: u16 = 0xc240;
/// The descriptor table and the data in guest memory.
const TABLE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;

/// Looks for the controller, gives its bus master ports and switches interrupts on.
fn bring_up(q: &mut Qtest) {
    let function = Function::new(1, 1);
    assert_eq!(function.get(q, 0, 4), 0x7010_8086);
    assert_eq!(function.get(q, 8, 4) >> 8, 0x01_01_80, "the class");
    function.set(q, 0x20, 4, BUS_MASTER.into());
    function.set(q, 0x40, 4, 0x8000_8000);
    function.set(q, 4, 2, 5);
    // Software reset, with interrupts off.
    q.outb(CONTROL, 6);
    q.outb(CONTROL, 2);
    ready(q);
    assert_eq!(q.inb(COMMAND_BLOCK + 1), 1, "diagnostics");
    assert_eq!((q.inb(COMMAND_BLOCK + 4), q.inb(COMMAND_BLOCK + 5)), (0, 0), "a disk");
    q.outb(CONTROL, 0);
}

/// Waits without touching the interrupt, and returns the status.
fn ready(q: &mut Qtest) -> u64 {
    let start = Instant::now();
    loop {
        let status = q.inb(CONTROL);
        if status & 0x80 == 0 {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "busy for ever");
    }
}

/// Writes the registers of a command with 28-bit address.
fn command(q: &mut Qtest, code: u64, lba: u64, sectors: u64) {
    q.outb(COMMAND_BLOCK + 6, 0xe0 | lba >> 24);
    q.outb(COMMAND_BLOCK + 2, sectors);
    for (register, shift) in [(3, 0), (4, 8), (5, 16)] {
        q.outb(COMMAND_BLOCK + register, lba >> shift & 0xff);
    }
    q.outb(COMMAND_BLOCK + 7, code);
}

/// Takes the interrupt: the line falls when the status is read, which is returned.
fn interrupt(q: &mut Qtest) -> u64 {
    assert_eq!(q.irq(), (true, 14));
    let status = q.inb(COMMAND_BLOCK + 7);
    assert_eq!(q.irq(), (false, 14));
    status
}

/// Runs a command by bus master over descriptors of these lengths. Returns both statuses.
fn by_bus_master(q: &mut Qtest, code: u64, lba: u64, lengths: &[u64]) -> (u64, u64) {
    let mut at = DATA;
    for (i, len) in (0..).zip(lengths) {
        let last = i + 1 == lengths.len() as u64;
        q.store(TABLE + i * 8, 4, at);
        q.store(TABLE + i * 8 + 4, 4, len & 0xffff | u64::from(last) << 31);
        at += len;
    }
    let to_memory = u64::from(matches!(code, 0xc8 | 0x25)) << 3;
    q.outl(BUS_MASTER + 4, TABLE);
    q.outb(BUS_MASTER, to_memory);
    q.outb(BUS_MASTER + 2, 6);
    command(q, code, lba, (at - DATA) / 512);
    q.outb(BUS_MASTER, to_memory | 1);
    assert_eq!(q.irq(), (true, 14));
    let bm = q.inb(BUS_MASTER + 2);
    q.outb(BUS_MASTER, to_memory);
    let status = q.inb(COMMAND_BLOCK + 7);
    q.outb(BUS_MASTER + 2, 6);
    assert_eq!(q.irq(), (false, 14));
    (status, bm & 7)
}

fn machine(content: &[u8]) -> Qtest {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("a.raw"), content).unwrap();
    let mut q = Qtest::start_in(dir, &["--disk", "DIR/a.raw,controller=ide,port=0,unit=0"]);
    q.ok("irq_intercept_in ioapic");
    bring_up(&mut q);
    q
}

#[test]
fn a_disk_says_what_it_is_through_the_data_port() {
    let mut q = machine(&[0; 1 << 20]);
    command(&mut q, 0xec, 0, 0);
    assert_eq!(interrupt(&mut q), 0x58);
    let words: Vec<u16> = (0..256).map(|_| q.inw(COMMAND_BLOCK) as u16).collect();
    assert_eq!(ready(&mut q), 0x50);
    assert_eq!((words[60], words[61]), (2048, 0), "sectors");
    assert_ne!(words[49] & 1 << 8, 0, "DMA");
    let sum = words.iter().flat_map(|word| word.to_le_bytes()).fold(0, u8::wrapping_add);
    assert_eq!(sum, 0, "the checksum");
    // Nobody is there.
    q.outb(COMMAND_BLOCK + 6, 0xf0);
    assert_eq!(q.inb(COMMAND_BLOCK + 7), 0);
    assert!(q.irqs.is_empty());
    assert!(q.end().1.success());
}

#[test]
fn sectors_go_through_the_data_port() {
    let mut content = pattern(11, 1 << 20);
    let mut q = machine(&content);
    command(&mut q, 0x20, 7, 2);
    let mut data = Vec::new();
    for _ in 0..2 {
        assert_eq!(interrupt(&mut q), 0x58);
        for _ in 0..256 {
            data.extend((q.inw(COMMAND_BLOCK) as u16).to_le_bytes());
        }
    }
    assert_eq!(data, content[7 * 512..9 * 512]);
    let new = pattern(12, 512);
    command(&mut q, 0x30, 9, 1);
    // The first block is not announced.
    assert_eq!(ready(&mut q), 0x58);
    for pair in new.chunks(2) {
        q.outw(COMMAND_BLOCK, u64::from(pair[0]) | u64::from(pair[1]) << 8);
    }
    assert_eq!(interrupt(&mut q), 0x50);
    command(&mut q, 0xe7, 0, 0);
    assert_eq!(interrupt(&mut q), 0x50);
    content[9 * 512..10 * 512].copy_from_slice(&new);
    let (dir, status) = q.end();
    assert!(status.success());
    assert!(std::fs::read(dir.path().join("a.raw")).unwrap() == content);
}

#[test]
fn the_bus_master_moves_data_over_its_table() {
    let mut content = pattern(21, 1 << 20);
    let mut q = machine(&content);
    assert_eq!(by_bus_master(&mut q, 0xc8, 3, &[512, 3584, 4096]), (0x50, 4));
    assert_eq!(q.read(DATA, 8192), content[3 * 512..19 * 512]);
    let new = pattern(22, 64 << 10);
    q.write(DATA, &new);
    // Descriptors that end in the middle of sectors.
    let lengths = [100, 1000, 32768, (64 << 10) - 33868];
    assert_eq!(by_bus_master(&mut q, 0xca, 1000, &lengths), (0x50, 4));
    content[1000 * 512..][..64 << 10].copy_from_slice(&new);
    // Beyond the end.
    assert_eq!(by_bus_master(&mut q, 0xc8, 2047, &[1024]).0 & 0x89, 1);
    assert_eq!(q.inb(COMMAND_BLOCK + 1), 0x10, "IDNF");
    let (dir, status) = q.end();
    assert!(status.success());
    assert!(std::fs::read(dir.path().join("a.raw")).unwrap() == content);
}
