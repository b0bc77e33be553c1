//! INTRQ, and what it does to the bus master's status.

use spindle_devices::testkit::driver::ide::{IdeCommand, IdeDriver};

use crate::{machine_at, one_disk, pattern};

#[test]
fn a_command_without_data_interrupts_once() {
    let (driver, setup) = one_disk(1 << 20);
    let wire = &setup.ide.wires[0];
    driver.issue(&IdeCommand { command: 0xe7, ..IdeCommand::default() });
    assert!(!wire.level());
    setup.machine.run();
    assert!(wire.level());
    assert_eq!(driver.read_bm(2, 1) & 4, 4, "the bus master has seen it");
    assert_eq!(driver.alternate(), 0x50);
    assert!(wire.level(), "the alternate status acknowledges nothing");
    assert_eq!(driver.read(7), 0x50);
    assert!(!wire.level());
    assert_eq!(driver.read_bm(2, 1) & 4, 4, "which is cleared by writing one");
    driver.write_bm(2, 1, 4);
    assert_eq!((driver.read_bm(2, 1) & 4, wire.edges()), (0, 1));
}

#[test]
fn reads_by_pio_interrupt_with_each_block() {
    let (driver, setup) = one_disk(1 << 20);
    let wire = &setup.ide.wires[0];
    driver.issue(&IdeCommand::lba28(0x20, 0, 3));
    setup.machine.run();
    let mut data = Vec::new();
    for block in 1..=3 {
        assert_eq!((wire.level(), wire.edges()), (true, block));
        assert_eq!(driver.read(7) & 0x88, 0x08);
        assert!(!wire.level());
        driver.read_block(&mut data, 512);
    }
    assert_eq!((wire.level(), wire.edges()), (false, 3), "and not at the end");
}

#[test]
fn writes_by_pio_interrupt_after_each_block() {
    let (driver, setup) = one_disk(1 << 20);
    let wire = &setup.ide.wires[0];
    driver.issue(&IdeCommand::lba28(0x30, 0, 2));
    setup.machine.run();
    assert_eq!((driver.alternate() & 0x88, wire.edges()), (0x08, 0), "not before the first");
    for block in 1..=2 {
        (0..256).for_each(|word| driver.write_data(2, word));
        setup.machine.run();
        assert_eq!((wire.level(), wire.edges()), (true, block));
        assert_eq!(driver.read(7) & 0x88, if block == 1 { 0x08 } else { 0 });
    }
}

#[test]
fn an_interrupt_that_was_not_acknowledged_rises_again() {
    let (driver, setup) = one_disk(1 << 20);
    let wire = &setup.ide.wires[0];
    driver.issue(&IdeCommand::lba28(0x20, 0, 2));
    setup.machine.run();
    let mut data = Vec::new();
    // The driver polls the alternate status: the level stays up over the first block.
    driver.read_block(&mut data, 512);
    assert!(wire.level());
    // A new command takes it back.
    driver.read_block(&mut data, 512);
    driver.issue(&IdeCommand { command: 0xe7, ..IdeCommand::default() });
    assert!(!wire.level());
    setup.machine.run();
    assert_eq!((wire.level(), wire.edges()), (true, 2));
}

#[test]
fn nien_holds_interrupts_back() {
    let (driver, setup) = one_disk(1 << 20);
    let wire = &setup.ide.wires[0];
    driver.set_control(2);
    driver.issue(&IdeCommand { command: 0xe7, ..IdeCommand::default() });
    setup.machine.run();
    assert_eq!((wire.level(), driver.read_bm(2, 1) & 4), (false, 0));
    driver.set_control(0);
    assert_eq!((wire.level(), driver.read_bm(2, 1) & 4), (true, 4), "it was pending");
    driver.set_control(2);
    assert!(!wire.level());
    let _ = driver.read(7);
    driver.set_control(0);
    assert_eq!((wire.level(), wire.edges()), (false, 1));
}

#[test]
fn only_the_selected_drive_interrupts() {
    let setup = machine_at(1 << 20, &[(0, 0), (0, 1)]);
    let mut driver = IdeDriver::new(&setup.machine, setup.ide.at, 0);
    let wire = &setup.ide.wires[0];
    driver.issue(&IdeCommand { command: 0xe7, ..IdeCommand::default() });
    driver.drive = 1;
    driver.select();
    setup.machine.run();
    // The taskfile is collected: it counts with the next access.
    assert_eq!(driver.read(7), 0x50);
    assert!(!wire.level());
    driver.drive = 0;
    driver.select();
    let _ = driver.alternate();
    assert!(wire.level());
    assert_eq!(driver.read(7), 0x50);
    assert!(!wire.level());
}

#[test]
fn data_are_there_before_the_interrupt() {
    let (driver, setup) = one_disk(1 << 20);
    assert!(driver.write_dma(0, &pattern(1, 512)).0.is_good());
    let edges = setup.ide.wires[0].edges();
    let at = setup.machine.memory.alloc(512, 512);
    driver.set_table(&[(at, 512, 0x8000)]);
    driver.start_dma(&IdeCommand::lba28(0xc8, 0, 1), true);
    setup.machine.turn();
    while setup.ide.wires[0].edges() == edges {
        assert_eq!(driver.read_bm(2, 1) & 5, 1);
        assert_eq!(driver.alternate() & 0x80, 0x80);
        assert!(setup.machine.world.step());
        setup.machine.turn();
    }
    assert_eq!(setup.machine.memory.read(at, 512), pattern(1, 512));
    assert_eq!((driver.read_bm(2, 1) & 7, driver.alternate()), (4, 0x50));
}
