//! Pauses, and programs that make no sense.

use spindle_devices::{
    Space,
    device::Device,
    testkit::driver::ide::{IdeCommand, IdeDriver, IdeEnd},
};

use crate::{machine_at, one_disk, pattern};

#[test]
fn a_paused_controller_begins_nothing() {
    let (driver, setup) = one_disk(1 << 20);
    let function = setup.ide.device.function();
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, 0x8000)]);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.turn();
    // What is in flight ends first.
    setup.machine.finish(|done| function.pause(done));
    assert_eq!(driver.finish_dma().1 & 7, 4);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.run();
    assert_eq!((driver.alternate() & 0x80, setup.machine.world.in_flight()), (0x80, 0));
    function.resume();
    setup.machine.run();
    assert_eq!(driver.finish_dma().1 & 7, 4);
}

#[test]
fn a_paused_controller_can_be_reset() {
    let (driver, setup) = one_disk(1 << 20);
    let function = setup.ide.device.function();
    setup.machine.finish(|done| function.pause(done));
    driver.issue(&IdeCommand::lba28(0x20, 0, 1));
    setup.machine.reset(setup.ide.at);
    function.resume();
    setup.machine.assign();
    let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    assert_eq!(driver.read(7), 0x50);
    assert_eq!(driver.read_dma(0, 512), [0; 512]);
}

#[test]
fn requests_are_counted() {
    let (driver, setup) = one_disk(1 << 20);
    assert!(driver.write_dma(0, &pattern(1, 1024)).0.is_good());
    assert!(driver.pio_in(&IdeCommand::lba28(0x20, 0, 4), 2048, 512).0.is_good());
    assert!(driver.plain(&IdeCommand { command: 0xe7, ..IdeCommand::default() }).is_good());
    let stats = setup.disks[0].0.stats();
    let counts = stats.map(|row| (row.operations, row.bytes, row.failed));
    assert_eq!(counts, [(1, 2048, 0), (1, 1024, 0), (1, 0, 0), (0, 0, 0)]);
}

/// Commands of all kinds.
const COMMANDS: [u8; 45] = [
    0x06, 0x08, 0x10, 0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x39, 0x3f, 0x40, 0x42, 0x45,
    0x47, 0x57, 0x70, 0x90, 0x91, 0xa0, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xe0, 0xe1, 0xe2, 0xe3,
    0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xea, 0xec, 0xef, 0xf2, 0xf3, 0xf5, 0xf6, 0xf8,
];
/// Those whose work outlives a power-on: SET MAX ADDRESS (EXT), ACCESSIBLE MAX ADDRESS
/// CONFIGURATION, SANITIZE DEVICE, SECURITY SET PASSWORD.
const LASTING: [u8; 5] = [0x37, 0x78, 0xb4, 0xf1, 0xf9];

/// Any value in any register, in any order: the machine goes on, and after a reset the drive does
/// what it should.
#[test]
fn programs_that_make_no_sense_do_no_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    // Of the machines, too.
    fastrand::seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..8 {
        let setup = machine_at(1 << 20, &[(0, 0), (0, 1), (1, 1)]);
        let driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
        run_nonsense(&driver, &mut random);
        setup.machine.reset(setup.ide.at);
        assert_eq!(setup.machine.world.in_flight(), 0);
        setup.machine.assign();
        // Both take what either is told: their signatures are looked at first.
        let drivers = [0, 1].map(|drive| {
            let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
            driver.drive = drive;
            driver.select();
            assert_eq!(driver.read(7), 0x50, "ready");
            let signature = [1, 2, 3, 4, 5].map(|register| driver.read(register));
            assert_eq!(signature, [1, 1, 1, 0, 0]);
            driver
        });
        for driver in &drivers {
            let identify = IdeCommand { command: 0xec, ..IdeCommand::default() };
            let (end, data) = driver.pio_in(&identify, 512, 512);
            assert_eq!((end, data.len()), (IdeEnd { status: 0x50, error: 0 }, 512));
            assert_eq!(data[120..124], 2048u32.to_le_bytes(), "sectors");
            let data = pattern(driver.drive, 4096);
            assert!(driver.write_dma(0, &data).0.is_good());
            assert_eq!(driver.read_dma(0, 4096), data);
        }
    }
}

/// Four thousand accesses.
fn run_nonsense(driver: &IdeDriver, random: &mut fastrand::Rng) {
    let machine = &driver.machine;
    let table = machine.memory.alloc(0x1_0000, 0x1_0000);
    for i in 0..0x2000 {
        machine.memory.write(table + i * 8, &random.u64(..).to_le_bytes());
    }
    let ports = [0x1f0, 0x170, 0x3f6, 0x376, driver.bus_master];
    for _ in 0..4000 {
        let base = ports[random.usize(..ports.len())];
        let offset = random.u64(..16);
        let width = [1, 2, 4][random.usize(..3)];
        let mut value = random.u64(..);
        match (base, offset) {
            (0x1f0 | 0x170, 2..=5) if random.bool() => value &= 3,
            (base, 4 | 12) if base == driver.bus_master => value = table + (value & 0xfff8),
            _ => {}
        }
        // The command register is reached from below as well.
        if matches!(base, 0x1f0 | 0x170) && offset <= 7 {
            let shift = (7 - offset) * 8;
            let mut command = random.u8(..);
            if random.bool() || LASTING.contains(&command) {
                command = COMMANDS[random.usize(..COMMANDS.len())];
            }
            value = value & !(0xff << shift) | u64::from(command) << shift;
        }
        match random.u8(..8) {
            0..3 => drop(machine.bus.read(Space::Port, base + offset, width)),
            3..7 => machine.bus.write(Space::Port, base + offset, width, value),
            _ => machine.turn(),
        }
        if random.u8(..64) == 0 {
            machine.run();
        }
    }
    machine.run();
}
