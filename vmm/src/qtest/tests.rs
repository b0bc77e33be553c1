//! The protocol, without a socket.
use super::*;
use crate::bus::Bus;
use spindle_devices::{Access, Doorbell, Registers, Space, Window, WindowSink, Windows};
use std::sync::Mutex;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Default)]
struct Probe(Mutex<Vec<(char, u64, u8, u64)>>);

impl Registers for Probe {
    fn read(&self, access: Access) -> u64 {
        self.0.lock().unwrap().push(('r', access.offset, access.width, 0));
        0x1122_3344_5566_7788
    }
    fn write(&self, access: Access, value: u64) {
        self.0.lock().unwrap().push(('w', access.offset, access.width, value));
    }
}

struct Rig {
    engine: Engine,
    outbox: Arc<Outbox>,
    lines: Arc<Lines>,
    probe: Arc<Probe>,
    bell: Arc<EventFd>,
}

/// RAM up to 1 MiB and one page at 2 MiB; registers from 1 MiB to the end of their page and at port
/// 500h, with a doorbell of two bytes at 100f00h.
fn rig() -> Rig {
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(2 << 20), 4096)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let outbox = Outbox::new(None).unwrap();
    let bells = Bells::new();
    let bus = Bus::new(Box::new(Arc::clone(&bells)));
    let probe = Arc::new(Probe::default());
    let window = |space, base, len| {
        let target = Arc::clone(&probe) as Arc<dyn Registers>;
        Window { space, base, len, coalesce: false, target, target_offset: 0 }
    };
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let ranges = vec![window(Space::Memory, 1 << 20, 4096), window(Space::Port, 0x500, 8)];
    let doorbell = Doorbell {
        space: Space::Memory,
        address: 0x10_0f00,
        width: 2,
        value: None,
        event: Arc::clone(&bell),
    };
    bus.set(1, Windows { ranges, doorbells: vec![doorbell] });
    let lines = Lines::new(Arc::clone(&outbox));
    let clock = VirtualClock::new();
    let engine = Engine { memory, bus: bus.view(), bells, clock, lines: Arc::clone(&lines) };
    Rig { engine, outbox, lines, probe, bell }
}

impl Rig {
    fn run(&mut self, line: &str) -> String {
        self.engine.execute(line)
    }

    fn seen(&self) -> Vec<(char, u64, u8, u64)> {
        std::mem::take(&mut self.probe.0.lock().unwrap())
    }

    /// What was told to the peer beside answers.
    fn told(&self) -> String {
        let mut text = String::new();
        self.outbox
            .send(|bytes| {
                text = String::from_utf8(bytes.to_vec()).unwrap();
                Ok(bytes.len())
            })
            .unwrap();
        text
    }
}

#[test]
fn numbers_are_as_in_c_and_values_are_cut_to_their_width() {
    let mut rig = rig();
    for (line, answer) in [
        ("writeq 0x100 0x1122334455667788", "OK"),
        ("readb 0x100", "OK 0x0000000000000088"),
        ("readw 256", "OK 0x0000000000007788"),
        ("readl 0400", "OK 0x0000000055667788"),
        ("readq 0x100", "OK 0x1122334455667788"),
        ("writeb 0x101 0xabcd", "OK"),
        ("readw 0x100", "OK 0x000000000000cd88"),
        ("writel 0x104 -1", "OK"),
        ("readq 0x100", "OK 0xffffffff5566cd88"),
        ("readb 0xfffffffffffffffff", "ERR '0xfffffffffffffffff' is not a number"),
    ] {
        assert_eq!(rig.run(line), answer, "{line}");
    }
}

#[test]
fn data_goes_in_and_out_in_both_forms() {
    let mut rig = rig();
    for (line, answer) in [
        ("write 0x200 5 0x68656c6C6f", "OK"),
        ("read 0x200 5", "OK 0x68656c6c6f"),
        ("b64read 0x200 5", "OK aGVsbG8="),
        ("b64read 0x200 4", "OK aGVsbA=="),
        ("b64read 0x200 3", "OK aGVs"),
        ("write 0x200 4 0x41", "OK"),
        ("read 0x200 5", "OK 0x410000006f"),
        ("write 0x200 1 0x424344", "OK"),
        ("read 0x200 3", "OK 0x420000"),
        ("write 0x200 1 0x", "ERR invalid argument size"),
        ("b64write 0x300 5 aGVsbG8=", "OK"),
        ("read 0x300 6", "OK 0x68656c6c6f00"),
        ("b64write 0x300 2 AAAAAAAA", "OK"),
        ("read 0x300 3", "OK 0x00006c"),
        ("b64write 0x300 1 QQ", "ERR invalid argument size"),
        ("memset 0x300 3 0x1ff", "OK"),
        ("read 0x2ff 5", "OK 0x00ffffff6c"),
        ("memset 0x300 0 0", "OK"),
        ("read 0x300 0", "ERR a length of 0"),
        ("b64read 0x300 0", "ERR a length of 0"),
    ] {
        assert_eq!(rig.run(line), answer, "{line}");
    }
    assert!(rig.run("read 0 0xffffffffffffffff").starts_with("ERR "));
}

#[test]
fn what_is_no_command_is_answered_and_harms_nothing() {
    let mut rig = rig();
    for (line, answer) in [
        ("", "FAIL Unknown command ''"),
        ("hello world", "FAIL Unknown command 'hello'"),
        (" readb 1", "FAIL Unknown command ''"),
        ("inq 0x500", "FAIL Unknown command 'inq'"),
        ("readx 0", "FAIL Unknown command 'readx'"),
        ("outb", "ERR missing argument"),
        ("outb 0x500", "ERR missing argument"),
        ("outb 0x500 x", "ERR 'x' is not a number"),
        ("outb 0x10000 1", "ERR there is no port 0x10000"),
        ("inb ", "ERR '' is not a number"),
        ("readb 0 junk", "OK 0x0000000000000000"),
        ("readb 08", "ERR '08' is not a number"),
        ("readb 0x-1", "ERR '0x-1' is not a number"),
        ("write 0 1", "ERR missing argument"),
        ("clock_step 1.5", "ERR '1.5' is not a number"),
        ("clock_set", "ERR missing argument"),
        ("irq_intercept_in", "ERR missing argument"),
        ("set_irq_in ioapic unnamed-gpio-in 1", "ERR missing argument"),
        ("module_load hw-", "ERR missing argument"),
        ("module_load hw- display-qxl", "OK"),
        ("endianness", "OK little"),
    ] {
        assert_eq!(rig.run(line), answer, "{line:?}");
    }
    assert_eq!(rig.seen(), []);
}

#[test]
fn registers_are_accessed_in_their_width_and_in_aligned_pieces_by_the_many() {
    let mut rig = rig();
    assert_eq!(rig.run("inb 0x500"), "OK 0x0088");
    assert_eq!(rig.run("inw 0x502"), "OK 0x7788");
    assert_eq!(rig.run("inl 0x504"), "OK 0x55667788");
    assert_eq!(rig.run("outw 0x500 0x12345"), "OK");
    assert_eq!(rig.run("readq 0x100008"), "OK 0x1122334455667788");
    assert_eq!(rig.run("writel 0x100001 7"), "OK");
    assert_eq!(
        rig.seen(),
        [
            ('r', 0, 1, 0),
            ('r', 2, 2, 0),
            ('r', 4, 4, 0),
            ('w', 0, 2, 0x2345),
            ('r', 8, 8, 0),
            ('w', 1, 4, 7)
        ]
    );
    // Over the edge of RAM into registers, and beyond them.
    assert_eq!(rig.run("write 0xffffe 9 0x010203040506070809"), "OK");
    assert_eq!(rig.seen(), [('w', 0, 4, 0x0605_0403), ('w', 4, 2, 0x0807), ('w', 6, 1, 9)]);
    assert_eq!(rig.run("read 0xffffe 2"), "OK 0x0102");
    assert_eq!(rig.run("read 0x100fff 3"), "OK 0x88ffff");
    assert_eq!(rig.run("read 0x1ffffe 4"), "OK 0xffff0000");
    assert_eq!(rig.run("inb 0x80"), "OK 0x00ff");
    assert_eq!(rig.run("read 0xfffffffffffffffe 2"), "OK 0xffff");
}

#[test]
fn doorbells_are_rung_without_a_call_of_the_device() {
    let mut rig = rig();
    assert_eq!(rig.run("writew 0x100f00 3"), "OK");
    assert_eq!((rig.bell.read().unwrap(), rig.seen().len()), (1, 0));
    rig.run("writel 0x100f00 3");
    rig.run("writew 0x100f02 3");
    assert_eq!((rig.bell.read().is_err(), rig.seen().len()), (true, 2));
}

#[test]
fn time_moves_when_it_is_told_to() {
    let mut rig = rig();
    for (line, answer) in [
        (
            "clock_step",
            "FAIL cannot advance clock to the next deadline because there is no pending deadline",
        ),
        ("clock_step 100", "OK 100"),
        ("clock_step 0", "FAIL could not advance time"),
        ("clock_step -5", "FAIL could not advance time"),
        ("clock_set 1000000000", "OK 1000000000"),
        ("clock_set 1000000000", "OK 1000000000"),
        ("clock_set 10", "FAIL 1000000000"),
        ("clock_set -1", "FAIL 1000000000"),
        ("clock_step 1", "OK 1000000001"),
    ] {
        assert_eq!(rig.run(line), answer, "{line}");
    }
    assert_eq!((rig.engine.clock.clocks().monotonic)(), 1_000_000_001);
}

#[test]
fn interrupts_are_told_once_they_are_watched() {
    let mut rig = rig();
    let (a, b) = (rig.lines.source(20).unwrap(), rig.lines.source(20).unwrap());
    assert!(rig.lines.source(24).is_err());
    a.set(true);
    assert_eq!(rig.told(), "");
    for (line, answer) in [
        ("irq_intercept_in pic", "FAIL Unknown device"),
        ("irq_intercept_in ioapic x", "FAIL Interception of named in-GPIOs not yet supported"),
        ("irq_intercept_out ioapic", "FAIL No intercepts installed"),
        ("irq_intercept_out nothing", "FAIL Unknown device"),
        ("irq_intercept_in ioapic", "OK"),
        ("irq_intercept_in /machine/unattached/ioapic", "OK"),
    ] {
        assert_eq!(rig.run(line), answer, "{line}");
    }
    a.set(true);
    assert_eq!(rig.told(), "IRQ raise 20\n", "it is up, and was not told");
    b.set(true);
    a.set(false);
    assert_eq!(rig.told(), "", "another source holds it");
    drop(b);
    assert_eq!(rig.told(), "IRQ lower 20\n");
    assert_eq!(rig.run("set_irq_in ioapic unnamed-gpio-in 3 1"), "OK");
    assert_eq!(rig.run("set_irq_in ioapic unnamed-gpio-in 3 1"), "OK");
    assert_eq!(rig.run("set_irq_in ioapic unnamed-gpio-in 3 0"), "OK");
    assert_eq!(rig.told(), "IRQ raise 3\nIRQ lower 3\n");
    let answer = rig.run("set_irq_in ioapic unnamed-gpio-in 24 1");
    assert_eq!(answer, "ERR there is no input unnamed-gpio-in 24");
    assert_eq!(rig.run("set_irq_in rtc unnamed-gpio-in 0 1"), "FAIL Unknown device");
}

#[test]
fn messages_are_writes_to_memory() {
    let ranges = [(GuestAddress(0), 1 << 16)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let dma = Dma::new(memory, None);
    let vectors = Vectors(dma.clone()).vectors(1).unwrap();
    vectors[0].raise();
    let to = |address| Some(spindle_devices::MsiMessage { address, data: 0x1234_5678 });
    vectors[0].configure(to(0x100));
    assert_eq!(dma.read::<[u8; 4]>(0x100), Ok([0; 4]));
    vectors[0].raise();
    assert_eq!(dma.read::<[u8; 4]>(0x100), Ok([0x78, 0x56, 0x34, 0x12]));
    vectors[0].configure(to(0xfee0_0000));
    vectors[0].raise();
    vectors[0].configure(None);
    vectors[0].raise();
}
