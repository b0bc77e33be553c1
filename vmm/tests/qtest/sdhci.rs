//! An SD host driver from the card's first command to bytes in the host's file (SDHC 3.00, SD 6.00).

use std::time::Instant;

use tempfile::TempDir;

use super::{
    client::{Function, PATIENCE, Qtest},
    disk::pattern,
};

/// The descriptor table and the data in guest memory.
const TABLE: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;

/// What follows a command, in its register.
#[derive(Clone, Copy)]
enum Kind {
    None = 0x00,
    Long = 0x09,
    Ocr = 0x02,
    Short = 0x1a,
    Busy = 0x1b,
    Data = 0x3a,
}

struct Host {
    base: u64,
    wire: u32,
    /// The card's address, as an argument.
    rca: u64,
}

impl Host {
    /// Brings the controller up, and its card to the transfer state.
    fn new(q: &mut Qtest) -> Self {
        let slot = (2..32).find(|slot| {
            let function = Function::new(*slot, 0);
            function.get(q, 8, 4) >> 16 == 0x0805
        });
        let slot = slot.expect("an SD host controller");
        let function = Function::new(slot, 0);
        assert_eq!(function.get(q, 0, 4), 0x0007_1b36);
        function.enable(q);
        let base = function.bar(q, 0);
        let pin = function.get(q, 0x3d, 1);
        let mut host = Self { base, wire: 16 + ((slot + pin - 1) % 8) as u32, rca: 0 };
        host.reset(q);
        host.identify(q);
        host
    }

    fn get(&self, q: &mut Qtest, offset: u64, width: usize) -> u64 {
        q.load(self.base + offset, width)
    }

    fn set(&self, q: &mut Qtest, offset: u64, width: usize, value: u64) {
        q.store(self.base + offset, width, value);
    }

    fn reset(&self, q: &mut Qtest) {
        self.set(q, 0x2f, 1, 1);
        let start = Instant::now();
        while self.get(q, 0x2f, 1) != 0 {
            assert!(start.elapsed() < PATIENCE, "the reset never ends");
        }
        // The card is put in while the machine starts.
        while self.get(q, 0x24, 4) >> 16 & 7 != 7 {
            assert!(start.elapsed() < PATIENCE, "no card that is stable");
        }
        // The internal clock; once it is stable, the card's, at 3.3 V.
        self.set(q, 0x2c, 2, 0xfa01);
        assert_eq!(self.get(q, 0x2c, 2) & 2, 2);
        self.set(q, 0x29, 1, 0x0f);
        self.set(q, 0x2c, 2, 0xfa05);
        self.set(q, 0x34, 4, 0x17ff_00ff);
        self.set(q, 0x38, 4, 0x17ff_00ff);
    }

    /// Waits for status bits by interrupts, and returns all that have come.
    fn wait(&self, q: &mut Qtest, bits: u64) -> u64 {
        let mut seen = 0;
        while seen & bits != bits && seen & 0x8000 == 0 {
            assert_eq!(q.irq(), (true, self.wire));
            let status = self.get(q, 0x30, 4);
            self.set(q, 0x30, 4, status);
            assert_eq!(q.irq(), (false, self.wire));
            seen |= status;
        }
        seen
    }

    fn send(&self, q: &mut Qtest, index: u64, argument: u64, kind: Kind) {
        self.set(q, 0x08, 4, argument);
        self.set(q, 0x0e, 2, index << 8 | kind as u64);
    }

    /// A command without data. Returns its response.
    fn command(&self, q: &mut Qtest, index: u64, argument: u64, kind: Kind) -> u64 {
        self.set(q, 0x0c, 2, 0);
        self.send(q, index, argument, kind);
        let wanted = if matches!(kind, Kind::Busy) { 3 } else { 1 };
        assert_eq!(self.wait(q, wanted), wanted, "CMD{index}");
        self.get(q, 0x10, 4)
    }

    /// From idle to the transfer state with four lines.
    fn identify(&mut self, q: &mut Qtest) {
        self.command(q, 0, 0, Kind::None);
        assert_eq!(self.command(q, 8, 0x1aa, Kind::Short), 0x1aa);
        let start = Instant::now();
        loop {
            self.command(q, 55, 0, Kind::Short);
            if self.command(q, 41, 0x40ff_8000, Kind::Ocr) >> 31 == 1 {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "never powered up");
        }
        self.command(q, 2, 0, Kind::Long);
        self.rca = self.command(q, 3, 0, Kind::Short) & 0xffff_0000;
        self.command(q, 9, self.rca, Kind::Long);
        self.command(q, 7, self.rca, Kind::Busy);
        self.command(q, 55, self.rca, Kind::Short);
        self.command(q, 6, 2, Kind::Short);
        self.set(q, 0x28, 1, 2);
        self.command(q, 16, 512, Kind::Short);
    }

    /// Starts CMD17, 18, 24 or 25 with ADMA2 over pieces of these lengths; a card below 2 GiB counts
    /// bytes.
    fn start(&self, q: &mut Qtest, index: u64, block: u64, lengths: &[u64]) {
        let mut at = DATA;
        for (i, len) in (0..).zip(lengths) {
            let end = u64::from(i + 1 == lengths.len() as u64) << 1;
            q.store(TABLE + i * 8, 4, len << 16 | 0x21 | end);
            q.store(TABLE + i * 8 + 4, 4, at);
            at += len;
        }
        let blocks = (at - DATA) / 512;
        self.set(q, 0x28, 1, 0x12);
        self.set(q, 0x58, 4, TABLE);
        self.set(q, 0x04, 4, blocks << 16 | 512);
        let read = u64::from(index < 20) << 4;
        // Auto CMD12, block count, more than one block.
        let multiple = if matches!(index, 18 | 25) { 0x26 } else { 0 };
        self.set(q, 0x0c, 2, 1 | read | multiple);
        self.send(q, index, block * 512, Kind::Data);
    }

    fn data(&self, q: &mut Qtest, index: u64, block: u64, lengths: &[u64]) {
        self.start(q, index, block, lengths);
        assert_eq!(self.wait(q, 3), 3, "CMD{index}");
        assert_eq!(self.get(q, 0x24, 4) & 3, 0, "inhibited");
        assert_eq!(self.command(q, 13, self.rca, Kind::Short) >> 8 & 0x1f, 9, "transfer state");
    }
}

fn machine(content: &[u8]) -> Qtest {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("a.raw"), content).unwrap();
    let mut q = Qtest::start_in(dir, &["--disk", "DIR/a.raw,controller=sd"]);
    q.ok("irq_intercept_in ioapic");
    q
}

#[test]
fn a_card_is_read_and_written_over_descriptors() {
    let mut content = pattern(31, 1 << 20);
    let mut q = machine(&content);
    let host = Host::new(&mut q);
    host.data(&mut q, 17, 5, &[512]);
    assert_eq!(q.read(DATA, 512), content[5 * 512..6 * 512]);
    host.data(&mut q, 18, 100, &[100, 4000, 28668]);
    assert_eq!(q.read(DATA, 64 * 512), content[100 * 512..164 * 512]);
    let new = pattern(32, 8192);
    q.write(DATA, &new);
    host.data(&mut q, 24, 9, &[512]);
    content[9 * 512..10 * 512].copy_from_slice(&new[..512]);
    host.data(&mut q, 25, 2000, &[4096, 4096]);
    content[2000 * 512..2016 * 512].copy_from_slice(&new);
    assert!(q.irqs.is_empty());
    let (dir, status) = q.end();
    assert!(status.success());
    assert!(std::fs::read(dir.path().join("a.raw")).unwrap() == content);
}

#[test]
fn a_table_that_is_wrong_is_an_adma_error() {
    let mut q = machine(&[7; 1 << 20]);
    let host = Host::new(&mut q);
    host.start(&mut q, 17, 0, &[512]);
    assert_eq!(host.wait(&mut q, 3), 3);
    // A descriptor that is not valid.
    host.start(&mut q, 17, 0, &[512]);
    host.wait(&mut q, 3);
    q.store(TABLE, 4, 512 << 16 | 0x20);
    host.set(&mut q, 0x58, 4, TABLE);
    host.send(&mut q, 17, 0, Kind::Data);
    let status = host.wait(&mut q, 0x8000);
    assert_eq!(status >> 16, 1 << 9, "ADMA error");
    host.set(&mut q, 0x2f, 1, 6);
    let start = Instant::now();
    while host.get(&mut q, 0x2f, 1) != 0 {
        assert!(start.elapsed() < PATIENCE, "the reset never ends");
    }
    host.data(&mut q, 17, 3, &[512]);
    assert_eq!(q.read(DATA, 512), [7; 512]);
    assert!(q.end().1.success());
}
