//! Requests that fail below, and commands that make no sense.

use std::rc::Rc;

use spindle_block::{
    BlockError, Root,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    device::Device,
    ide::Model,
    policy::{ErrorAction, ErrorPolicy},
    testkit::{
        Machine,
        driver::ide::{IdeCommand, IdeDriver},
    },
};

use crate::{disk_config, one_disk, pattern};

struct Faulty {
    machine: Rc<Machine>,
    driver: IdeDriver,
    fault: std::sync::Arc<FaultNode>,
    function: std::sync::Arc<spindle_devices::pci::Endpoint>,
}

fn faulty(policy: ErrorPolicy) -> Faulty {
    let machine = Machine::new(fastrand::u64(..));
    let ide = machine.add_ide("ide", Model::Piix3);
    let file = machine.world.create_file("disk", &[], 1 << 20);
    let fault = FaultNode::new(FileNode::over(file, 1 << 20, 512, false));
    let root = Root::new("disk-node", fault.clone(), Policy::default());
    let mut config = disk_config("disk0");
    (config.werror, config.rerror) = (policy, policy);
    ide.device.add_disk(0, 0, config, &root).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    machine.run();
    let driver = IdeDriver::new(&machine, ide.at, 0);
    let function = ide.device.function();
    Faulty { machine, driver, fault, function }
}

fn fail(op: FaultOp, error: BlockError, count: Option<u64>) -> FaultRule {
    FaultRule { op, count, ..FaultRule::new(Action::Error(error)) }
}

#[test]
fn unknown_commands_are_aborted() {
    let (driver, setup) = one_disk(1 << 20);
    for command in [0x01, 0x60, 0x61, 0xa0, 0xa1, 0x08, 0xff, 0x87] {
        let end = driver.plain(&IdeCommand { command, ..IdeCommand::default() });
        assert_eq!((end.status, end.error), (0x51, 0x04), "{command:#x}");
    }
    assert_eq!(setup.ide.wires[0].edges(), 8);
}

#[test]
fn sectors_beyond_the_end_are_not_found() {
    let (driver, _setup) = one_disk(1 << 20);
    for (lba, count) in [(2048, 1), (2047, 2), (2000, 256), (0x0fff_ffff, 1)] {
        for command in [0x20, 0x30, 0xc4, 0xc8, 0xca, 0x40] {
            let end = driver.plain(&IdeCommand::lba28(command, lba, count));
            assert_eq!((end.status & 0x89, end.error), (1, 0x10), "{command:#x} {lba}");
        }
    }
    let end = driver.plain(&IdeCommand::lba48(0x24, (1 << 48) - 1, 1));
    assert_eq!((end.status & 0x89, end.error), (1, 0x10));
}

#[test]
fn a_sector_that_cannot_be_read_is_named() {
    let f = faulty(ErrorPolicy::Report);
    assert!(f.driver.write_dma(0, &pattern(1, 4096)).0.is_good());
    let rule = FaultRule {
        offset: 5 * 512,
        length: Some(512),
        ..fail(FaultOp::Read, BlockError::Medium, None)
    };
    f.fault.add(rule).unwrap();
    // By PIO the sectors before it are good.
    f.driver.issue(&IdeCommand::lba28(0x20, 2, 6));
    let mut data = Vec::new();
    for _ in 0..3 {
        assert_eq!(f.driver.wait().status & 0x89, 0x08);
        f.driver.read_block(&mut data, 512);
    }
    assert_eq!(data, pattern(1, 4096)[1024..2560]);
    let end = f.driver.wait();
    assert_eq!((end.status & 0xa9, end.error), (1, 0x40), "uncorrectable");
    assert_eq!((f.driver.read(3), f.driver.read(6) & 0x4f), (5, 0x40), "sector 5");
    // By DMA the command is.
    let at = f.machine.memory.alloc(4096, 4096);
    f.driver.set_table(&[(at, 4096, 0x8000)]);
    let (end, status) = f.driver.dma(&IdeCommand::lba28(0xc8, 0, 8), true);
    assert_eq!((end.status & 0xa9, end.error, status & 7), (1, 0x40, 4));
    assert!(!f.machine.errors.take().is_empty());
}

#[test]
fn every_error_below_has_its_bits() {
    for error in BlockError::ALL {
        let f = faulty(ErrorPolicy::Report);
        f.fault.add(fail(FaultOp::Read, error, None)).unwrap();
        f.fault.add(fail(FaultOp::Write, error, None)).unwrap();
        let (read, write) = match error {
            BlockError::Medium => (0x40, 0x10),
            BlockError::TimedOut => (0x84, 0x84),
            BlockError::OutOfRange => (0x10, 0x10),
            _ => (0x04, 0x04),
        };
        assert_eq!(f.driver.plain(&IdeCommand::lba28(0x20, 0, 1)).error, read, "{error}");
        assert_eq!(f.driver.write_dma(0, &[1; 512]).0.error, write, "{error}");
        let end = f.driver.pio_out(&IdeCommand::lba28(0x30, 0, 1), &[1; 512], 512);
        assert_eq!(end.error, write, "{error}");
    }
}

#[test]
fn a_machine_that_stops_on_errors_tries_again() {
    let f = faulty(ErrorPolicy::Stop);
    assert!(f.driver.write_dma(0, &pattern(1, 512)).0.is_good());
    for (op, command) in [
        (FaultOp::Read, IdeCommand::lba28(0xc8, 0, 1)),
        (FaultOp::Flush, IdeCommand { command: 0xe7, ..IdeCommand::default() }),
        (FaultOp::Read, IdeCommand::lba28(0x40, 0, 1)),
    ] {
        f.fault.add(fail(op, BlockError::Medium, Some(1))).unwrap();
        let at = f.machine.memory.alloc(512, 512);
        f.driver.set_table(&[(at, 512, 0x8000)]);
        let dma = command.command == 0xc8;
        if dma {
            f.driver.start_dma(&command, true);
        } else {
            f.driver.issue(&command);
        }
        f.machine.run();
        let events = f.machine.errors.take();
        assert_eq!(events.len(), 1, "{:#x}", command.command);
        assert_eq!(events[0].action, ErrorAction::Stop);
        assert_eq!(f.driver.alternate() & 0x80, 0x80, "the guest has not heard");
        f.machine.finish(|done| f.function.pause(done));
        f.machine.run();
        assert_eq!(f.driver.alternate() & 0x80, 0x80);
        f.function.resume();
        f.machine.run();
        assert!(f.driver.wait().is_good());
        if dma {
            assert_eq!(f.driver.finish_dma().1 & 7, 4);
            assert_eq!(f.machine.memory.read(at, 512), pattern(1, 512));
        }
    }
    // A reset forgets what waits.
    f.fault.add(fail(FaultOp::Write, BlockError::NoSpace, Some(1))).unwrap();
    let at = f.machine.memory.alloc(512, 512);
    f.driver.set_table(&[(at, 512, 0x8000)]);
    f.driver.start_dma(&IdeCommand::lba28(0xca, 0, 1), false);
    f.machine.run();
    assert!(f.driver.reset().is_good());
    f.machine.finish(|done| f.function.pause(done));
    f.function.resume();
    f.machine.run();
    f.driver.write_bm(0, 1, 0);
    assert_eq!(f.driver.read_dma(0, 512), pattern(1, 512), "it was not written after all");
}

#[test]
fn errors_that_are_ignored_went_well() {
    let f = faulty(ErrorPolicy::Ignore);
    f.fault.add(fail(FaultOp::Write, BlockError::Medium, None)).unwrap();
    assert!(f.driver.write_dma(0, &[1; 512]).0.is_good());
    assert!(f.driver.pio_out(&IdeCommand::lba28(0x30, 0, 2), &[1; 1024], 512).is_good());
    assert_eq!(f.machine.errors.take().len(), 3);
}

#[test]
fn a_disk_that_is_read_only_refuses_writes() {
    let machine = Machine::new(1);
    let ide = machine.add_ide("ide", Model::Piix3);
    let (root, _) = machine.add_root("disk", 1 << 20);
    root.set_policy(|policy| policy.read_only = true);
    ide.device.add_disk(0, 0, disk_config("disk"), &root).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    let driver = IdeDriver::new(&machine, ide.at, 0);
    let (end, status) = driver.write_dma(0, &[1; 512]);
    assert_eq!((end.status & 0xa9, end.error, status & 7), (1, 4, 4));
    assert_eq!(driver.read_dma(0, 512), [0; 512]);
}
