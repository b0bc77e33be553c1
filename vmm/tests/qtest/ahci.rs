//! An AHCI driver from its first register to bytes in the host's file (AHCI 1.3.1, ACS-3).

use std::time::Instant;

use tempfile::TempDir;

use super::{
    client::{Function, PATIENCE, Qtest},
    disk::pattern,
};

/// Where things lie in guest memory.
const LIST: u64 = 0x10_0000;
const RECEIVED: u64 = 0x10_1000;
const TABLES: u64 = 0x11_0000;
const TABLE_LEN: u64 = 0x100;
const DATA: u64 = 0x20_0000;

/// The wire of the controller at slot 31, pin A.
const WIRE: u32 = 23;

/// A command: its code, address, sectors, and where its data are.
#[derive(Clone, Copy)]
struct Command {
    code: u8,
    lba: u64,
    sectors: u16,
    data: u64,
    bytes: u64,
    write: bool,
}

impl Command {
    fn identify() -> Self {
        Self { code: 0xec, lba: 0, sectors: 0, data: DATA, bytes: 512, write: false }
    }

    fn queued(write: bool, lba: u64, sectors: u16, data: u64) -> Self {
        let code = if write { 0x61 } else { 0x60 };
        Self { code, lba, sectors, data, bytes: u64::from(sectors) * 512, write }
    }

    fn is_queued(self) -> bool {
        matches!(self.code, 0x60 | 0x61)
    }

    /// The register FIS (SATA 3.2, 10.5.5).
    fn fis(self, tag: u64) -> Vec<u8> {
        let lba = self.lba.to_le_bytes();
        let count = self.sectors.to_le_bytes();
        let mut fis = vec![0x27, 0x80, self.code, 0, lba[0], lba[1], lba[2], 0x40];
        fis.extend([lba[3], lba[4], lba[5], 0, count[0], count[1], 0, 0, 0, 0, 0, 0]);
        if self.is_queued() {
            (fis[3], fis[11], fis[12], fis[13]) = (count[0], count[1], (tag as u8) << 3, 0);
        }
        fis
    }
}

/// A port that was brought up.
struct Port {
    abar: u64,
    index: u64,
}

impl Port {
    /// Brings up the controller at 00:1f.2 and one of its ports, with interrupts by wire.
    fn new(q: &mut Qtest, index: u64) -> Self {
        let function = Function::new(0x1f, 2);
        assert_eq!(function.get(q, 0, 4), 0x2922_8086);
        assert_eq!(function.get(q, 8, 4) >> 8, 0x01_06_01, "the class");
        assert_eq!(function.get(q, 0x3d, 1), 1, "INTA");
        function.enable(q);
        let abar = function.bar(q, 5);
        q.store(abar + 4, 4, 1);
        let start = Instant::now();
        while q.load(abar + 4, 4) & 1 != 0 {
            assert!(start.elapsed() < PATIENCE, "the reset never ends");
        }
        q.store(abar + 4, 4, 0x8000_0002);
        let port = Self { abar, index };
        assert_ne!(q.load(abar + 0x0c, 4) >> index & 1, 0, "the port is implemented");
        port.set(q, 0x00, LIST);
        port.set(q, 0x04, 0);
        port.set(q, 0x08, RECEIVED);
        port.set(q, 0x0c, 0);
        // Spin up, receive FISes: the device sends its signature.
        port.set(q, 0x18, 0x16);
        port.until(q, 0x28, |sstatus| sstatus & 0xf == 3);
        port.set(q, 0x30, 0xffff_ffff);
        port.until(q, 0x20, |tfd| tfd & 0x88 == 0);
        port.clear(q);
        port.set(q, 0x14, 0x7dc0_007f);
        port.set(q, 0x18, 0x17);
        port.until(q, 0x18, |cmd| cmd >> 14 & 3 == 3);
        port
    }

    fn get(&self, q: &mut Qtest, offset: u64) -> u64 {
        q.load(self.abar + 0x100 + self.index * 0x80 + offset, 4)
    }

    fn set(&self, q: &mut Qtest, offset: u64, value: u64) {
        q.store(self.abar + 0x100 + self.index * 0x80 + offset, 4, value);
    }

    /// Polls a register.
    fn until(&self, q: &mut Qtest, offset: u64, f: impl Fn(u64) -> bool) -> u64 {
        let start = Instant::now();
        loop {
            let value = self.get(q, offset);
            if f(value) {
                return value;
            }
            assert!(start.elapsed() < PATIENCE, "{offset:#x} stays {value:#x}");
        }
    }

    /// Clears the port's interrupt status, and the controller's after it.
    fn clear(&self, q: &mut Qtest) -> u64 {
        let status = self.get(q, 0x10);
        self.set(q, 0x10, status);
        q.store(self.abar + 8, 4, 1 << self.index);
        status
    }

    /// Puts a command into a slot, with two PRDs.
    fn place(q: &mut Qtest, slot: u64, command: Command) {
        let table = TABLES + slot * TABLE_LEN;
        q.write(table, &command.fis(slot));
        let half = command.bytes / 2;
        for (prd, at) in [(0, command.data), (1, command.data + half)] {
            q.store(table + 0x80 + prd * 16, 8, at);
            q.store(table + 0x8c + prd * 16, 4, half - 1);
        }
        let flags = 5 | u64::from(command.write) << 6 | 2 << 16;
        q.store(LIST + slot * 32, 4, flags);
        q.store(LIST + slot * 32 + 4, 4, 0);
        q.store(LIST + slot * 32 + 8, 8, table);
    }

    /// Issues the commands that were placed.
    fn issue(&self, q: &mut Qtest, slots: u64, queued: bool) {
        if queued {
            self.set(q, 0x34, slots);
        }
        self.set(q, 0x38, slots);
    }

    /// Runs one command, and takes its interrupt. Returns the port's status bits.
    fn run(&self, q: &mut Qtest, command: Command) -> u64 {
        Self::place(q, 0, command);
        self.issue(q, 1, command.is_queued());
        assert_eq!(q.irq(), (true, WIRE));
        assert_eq!(q.load(self.abar + 8, 4), 1 << self.index);
        let status = self.clear(q);
        assert_eq!(q.irq(), (false, WIRE));
        status
    }
}

fn machine(content: &[u8]) -> Qtest {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("a.raw"), content).unwrap();
    let mut q = Qtest::start_in(dir, &["--disk", "DIR/a.raw,controller=ahci,port=2"]);
    q.ok("irq_intercept_in ioapic");
    q
}

#[test]
fn a_disk_says_what_it_is() {
    let mut q = machine(&[0; 1 << 20]);
    let port = Port::new(&mut q, 2);
    assert_eq!(port.get(&mut q, 0x24), 0x0101, "the signature of a disk");
    // PIO Setup.
    assert_eq!(port.run(&mut q, Command::identify()) & 2, 2);
    let data = q.read(DATA, 512);
    let word = |i: usize| u16::from_le_bytes([data[i * 2], data[i * 2 + 1]]);
    assert_eq!((word(60), word(61)), (2048, 0), "sectors");
    assert_ne!(word(76) & 1 << 8, 0, "NCQ");
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    assert_eq!(q.read(RECEIVED + 0x20, 1), [0x5f]);
    assert_eq!(q.load(LIST + 4, 4), 512, "PRDBC");
    assert!(q.irqs.is_empty());
    assert!(q.end().1.success());
}

#[test]
fn queued_commands_reach_the_file() {
    let mut content = pattern(9, 1 << 20);
    let mut q = machine(&content);
    let port = Port::new(&mut q, 2);
    let new = pattern(70, 8 * 4096);
    q.write(DATA, &new);
    // Eight at once, on every third slot, all over the disk.
    let place = |i: u64| 100 + i * 64;
    let mut slots = 0;
    for i in 0..8 {
        Port::place(&mut q, i * 3, Command::queued(true, place(i), 8, DATA + i * 4096));
        slots |= 1 << (i * 3);
        let start = place(i) as usize * 512;
        content[start..start + 4096].copy_from_slice(&new[i as usize * 4096..][..4096]);
    }
    port.issue(&mut q, slots, true);
    assert_eq!(q.irq(), (true, WIRE));
    port.until(&mut q, 0x34, |active| active == 0);
    assert_eq!(port.get(&mut q, 0x38), 0);
    // Set Device Bits, and nothing else.
    assert_eq!(port.clear(&mut q), 8);
    assert_eq!(q.irq(), (false, WIRE));
    assert_eq!(q.read(RECEIVED + 0x58, 1), [0xa1]);
    for i in 0..8 {
        let status = port.run(&mut q, Command::queued(false, place(i), 8, DATA + 0x10_0000));
        assert_eq!(status, 8);
        assert_eq!(q.read(DATA + 0x10_0000, 4096), new[i as usize * 4096..][..4096]);
    }
    let (dir, status) = q.end();
    assert!(status.success());
    assert!(std::fs::read(dir.path().join("a.raw")).unwrap() == content);
}

#[test]
fn a_command_beyond_the_end_stops_the_port_until_it_is_restarted() {
    let mut q = machine(&pattern(3, 1 << 20));
    let port = Port::new(&mut q, 2);
    let beyond = Command { code: 0x25, ..Command::queued(false, 2047, 2, DATA) };
    let status = port.run(&mut q, beyond);
    assert_eq!(status >> 30, 1, "TFES");
    assert_eq!(port.get(&mut q, 0x20) & 0xffff, 0x1051, "IDNF");
    assert_eq!(port.get(&mut q, 0x38), 1, "it is not over");
    port.set(&mut q, 0x18, 0x16);
    port.until(&mut q, 0x18, |cmd| cmd >> 15 & 1 == 0);
    assert_eq!(port.get(&mut q, 0x38), 0);
    port.set(&mut q, 0x30, 0xffff_ffff);
    port.clear(&mut q);
    port.set(&mut q, 0x18, 0x17);
    port.run(&mut q, Command { code: 0x25, ..Command::queued(false, 2047, 1, DATA) });
    assert_eq!(q.read(DATA, 512), pattern(3, 1 << 20)[2047 * 512..]);
    assert!(q.end().1.success());
}
