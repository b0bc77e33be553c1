//! A CD/DVD drive on a cable.

use std::{rc::Rc, sync::Arc};

use spindle_block::{Root, nodes::file::FileNode, root::Policy};
use spindle_devices::{
    ata::{DriveConfig, Transport},
    device::Countdown,
    ide::Model,
    scsi::{LogicalUnit, UnitConfig, UnitKind},
    testkit::{
        IdeController, Machine,
        driver::ide::{IdeCommand, IdeDriver},
    },
};

use crate::pattern;

struct Cd {
    machine: Rc<Machine>,
    ide: IdeController,
    driver: IdeDriver,
    unit: Arc<LogicalUnit>,
}

const BLOCKS: u32 = 100;

fn data() -> Vec<u8> {
    pattern(7, BLOCKS as usize * 2048)
}

/// A machine with a disc in the drive at channel 1, unit 0; the unit attention of the power-on is
/// taken.
fn cd() -> Cd {
    let machine = Machine::new(fastrand::u64(..));
    let ide = machine.add_ide("ide", Model::Piix3);
    let size = u64::from(BLOCKS) * 2048;
    let file = machine.world.create_file("disc", &data(), size);
    let node = FileNode::over(file, size, 1, true);
    let root = Root::new("disc-node", node, Policy { read_only: true, ..Policy::default() });
    let unit = LogicalUnit::new(UnitConfig::new("cd0", UnitKind::Cd), Some(root));
    let config = DriveConfig::new("cd0", Transport::Parallel { udma: None });
    ide.device.add_drive(1, 0, config, &unit).unwrap();
    machine.assign();
    let machine = Rc::new(machine);
    machine.run();
    let driver = IdeDriver::new(&machine, ide.at, 1);
    driver.select();
    let cd = Cd { machine, ide, driver, unit };
    assert_eq!(cd.sense(), (6, 0x29), "a power-on is told of first");
    cd
}

impl Cd {
    /// TEST UNIT READY, and the sense of its error.
    fn sense(&self) -> (u8, u8) {
        let (end, _) = self.driver.packet_in(&[0], 0xfffe);
        assert_eq!(end.status & 0x89, 1);
        let (end, sense) = self.driver.packet_in(&[3, 0, 0, 0, 18], 0xfffe);
        assert!(end.is_good());
        assert_eq!(sense.len(), 18);
        (sense[2] & 0xf, sense[12])
    }

    fn read10(lba: u32, blocks: u16) -> [u8; 12] {
        let mut packet = [0; 12];
        packet[0] = 0x28;
        packet[2..6].copy_from_slice(&lba.to_be_bytes());
        packet[7..9].copy_from_slice(&blocks.to_be_bytes());
        packet
    }
}

#[test]
fn a_drive_is_told_apart_by_its_signature() {
    let cd = cd();
    cd.driver.set_control(4);
    cd.machine.run();
    cd.driver.set_control(0);
    let end = cd.driver.wait();
    assert_eq!((end.status, end.error), (0, 1), "not ready before it was identified");
    let registers: Vec<u8> = (2..6).map(|register| cd.driver.read(register)).collect();
    assert_eq!(registers, [1, 1, 0x14, 0xeb]);
    // IDENTIFY DEVICE and READ SECTORS are refused with it.
    for command in [0xec, 0x20] {
        let end = cd.driver.plain(&IdeCommand { command, ..IdeCommand::default() });
        assert_eq!((end.status & 0x89, end.error & 4), (1, 4));
        assert_eq!((cd.driver.read(4), cd.driver.read(5)), (0x14, 0xeb));
    }
    let identify = IdeCommand { command: 0xa1, ..IdeCommand::default() };
    let (end, data) = cd.driver.pio_in(&identify, 512, 512);
    assert!(end.is_good());
    assert_eq!([data[0], data[1]], [0xc0, 0x85]);
}

#[test]
fn blocks_are_read_by_pio_in_pieces_as_large_as_the_host_allows() {
    let cd = cd();
    for limit in [2048, 0xfffe, 512, 30, 5000] {
        let (end, read) = cd.driver.packet_in(&Cd::read10(10, 3), limit);
        assert!(end.is_good());
        assert_eq!(read, data()[10 * 2048..13 * 2048], "limit {limit}");
    }
    let (end, read) = cd.driver.packet_in(&Cd::read10(0, 100), 0xfffe);
    assert!(end.is_good());
    assert_eq!(read, data());
    for limit in [0, 1] {
        let (end, _) = cd.driver.packet_in(&Cd::read10(0, 1), limit);
        assert_eq!((end.status & 0x89, end.error), (1, 4), "no room for a word");
    }
}

#[test]
fn a_packet_is_asked_for_without_an_interrupt() {
    let cd = cd();
    let wire = &cd.ide.wires[1];
    let edges = wire.edges();
    cd.driver.issue(&IdeCommand { command: 0xa0, lba: 0xfffe00, ..IdeCommand::default() });
    assert_eq!((cd.driver.alternate() & 0x88, cd.driver.read(2) & 3), (0x08, 1), "at once");
    assert_eq!(wire.edges(), edges);
    (0..6).for_each(|_| cd.driver.write_data(2, 0));
    assert_eq!(cd.driver.alternate() & 0x88, 0x80);
    cd.machine.run();
    assert_eq!((wire.edges() - edges, cd.driver.read(2) & 3), (1, 3));
    assert!(cd.driver.wait().is_good());
}

#[test]
fn blocks_are_read_by_dma() {
    let cd = cd();
    let at = cd.machine.memory.alloc(0x8000, 4096);
    cd.driver.set_pages(at, 0x8000);
    let _ = cd.driver.packet(&Cd::read10(20, 16), true, 0);
    cd.machine.run();
    assert_eq!(cd.driver.alternate() & 0x80, 0x80, "it waits for the bus master");
    cd.driver.write_bm(0, 1, 9);
    cd.machine.run();
    let (end, status) = cd.driver.finish_dma();
    assert!(end.is_good() && status & 7 == 4, "{end:?} {status:#x}");
    assert_eq!(cd.machine.memory.read(at, 0x8000), data()[20 * 2048..36 * 2048]);
    // Data that are not the medium's: INQUIRY, with room for more.
    cd.driver.set_pages(at, 96);
    let _ = cd.driver.packet(&[0x12, 0, 0, 0, 36], true, 0);
    cd.driver.write_bm(0, 1, 9);
    cd.machine.run();
    assert_eq!(cd.driver.read_bm(2, 1) & 7, 5);
    assert!(cd.driver.finish_dma().0.is_good());
    assert_eq!(cd.machine.memory.read(at, 2), [5, 0x80], "a removable CD drive");
    // A failure needs no memory.
    let _ = cd.driver.packet(&Cd::read10(99, 2), true, 0);
    cd.driver.write_bm(0, 1, 9);
    cd.machine.run();
    let (end, status) = cd.driver.finish_dma();
    assert_eq!((end.status & 1, end.error >> 4, status & 7), (1, 5, 5), "all of it is left");
    // A table that is too short.
    cd.driver.set_pages(at, 3000);
    let _ = cd.driver.packet(&Cd::read10(0, 2), true, 0);
    cd.driver.write_bm(0, 1, 9);
    cd.machine.run();
    assert_eq!(cd.driver.read_bm(2, 1) & 7, 0);
    cd.driver.write_bm(0, 1, 0);
    let reset = IdeCommand { command: 0x08, ..IdeCommand::default() };
    cd.driver.issue(&reset);
    cd.machine.run();
    assert_eq!((cd.driver.alternate(), cd.driver.read(4), cd.driver.read(5)), (0, 0x14, 0xeb));
}

#[test]
fn parameters_go_to_the_drive() {
    let cd = cd();
    // MODE SELECT(10): the read error recovery page as MODE SENSE has it.
    let (end, page) = cd.driver.packet_in(&[0x5a, 0, 1, 0, 0, 0, 0, 0, 64], 0xfffe);
    assert!(end.is_good());
    let mut list = page.clone();
    list[0] = 0;
    list[1] = 0;
    let mut packet = [0; 12];
    (packet[0], packet[1], packet[8]) = (0x55, 0x10, list.len() as u8);
    let _ = cd.driver.packet(&packet, false, 0xfffe);
    let end = cd.driver.wait();
    assert_eq!((end.status & 0x89, cd.driver.read(2) & 3), (0x08, 0), "data from the host");
    let len = usize::from(cd.driver.read(4));
    assert_eq!(len, list.len());
    for word in list.chunks(2) {
        cd.driver.write_data(2, u64::from(word[0]) | u64::from(word[1]) << 8);
    }
    assert!(cd.driver.wait().is_good());
}

#[test]
fn a_medium_is_changed() {
    let cd = cd();
    let (end, _) = cd.driver.packet_in(&[0], 0xfffe);
    assert!(end.is_good());
    let over = std::cell::Cell::new(false);
    cd.machine.finish(|done| cd.unit.open_tray(true, &Countdown::new(done)).unwrap());
    over.set(true);
    assert_eq!(cd.sense(), (2, 0x3a), "no medium");
    let (root, _) = cd.machine.add_root("other", 64 * 2048);
    assert!(cd.unit.change_medium(Some(root)).unwrap().is_some());
    cd.unit.close_tray().unwrap();
    assert_eq!(cd.sense(), (6, 0x28), "another medium");
    let (end, read) = cd.driver.packet_in(&Cd::read10(0, 1), 0xfffe);
    assert!(end.is_good());
    assert_eq!(read, [0; 2048]);
    // The guest opens it.
    let (end, _) = cd.driver.packet_in(&[0x1b, 0, 0, 0, 2], 0xfffe);
    assert!(end.is_good());
    assert!(cd.unit.tray_open());
}

#[test]
fn device_reset_ends_what_the_drive_does() {
    let cd = cd();
    let at = cd.machine.memory.alloc(2048, 4096);
    cd.driver.set_pages(at, 2048);
    let _ = cd.driver.packet(&Cd::read10(0, 1), true, 0);
    cd.driver.write_bm(0, 1, 9);
    cd.machine.turn();
    assert_eq!(cd.machine.world.in_flight(), 1);
    cd.driver.write(7, 0x08);
    cd.machine.turn();
    assert_eq!(cd.driver.alternate(), 0x80);
    cd.machine.run();
    assert_eq!((cd.driver.alternate(), cd.driver.read(1)), (0, 1));
    cd.machine.memory.write(at, &[0x22; 2048]);
    cd.machine.run();
    assert_eq!(cd.machine.memory.read(at, 2048), [0x22; 2048]);
    cd.driver.write_bm(0, 1, 0);
    let (end, read) = cd.driver.packet_in(&Cd::read10(1, 1), 0xfffe);
    assert!(end.is_good());
    assert_eq!(read, data()[2048..4096]);
}
