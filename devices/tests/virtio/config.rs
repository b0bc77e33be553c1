//! The configuration of a disk (virtio 1.2, 5.2.4).

use spindle_devices::{testkit::driver::Function, virtio::Geometry};

use super::{driver, machine, pattern};

#[test]
fn every_field_is_what_was_configured() {
    let (machine, disk) = machine(64 << 20, |config| {
        config.queue_size = 64;
        config.logical_block_size = 1024;
        config.physical_block_size = 8192;
        config.min_io_size = 16384;
        config.opt_io_size = 1 << 20;
        config.discard_granularity = Some(32768);
        config.max_discard_sectors = 1000;
        config.max_write_zeroes_sectors = 2000;
    });
    let function = Function::probe(&machine, disk.at);
    for (offset, width, expected, what) in [
        (0, 8, (64 << 20) / 512, "capacity"),
        (8, 4, 1 << 22, "size_max"),
        (12, 4, 62, "seg_max"),
        (16, 2, (64 << 20) / 512 / 16 / 63, "cylinders"),
        (18, 1, 16, "heads"),
        (19, 1, 63, "sectors"),
        (20, 4, 1024, "blk_size"),
        (24, 1, 3, "physical_block_exp"),
        (25, 1, 0, "alignment_offset"),
        (26, 2, 16, "min_io_size"),
        (28, 4, 1024, "opt_io_size"),
        (32, 1, 1, "writeback"),
        (34, 2, 1, "num_queues"),
        (36, 4, 1000, "max_discard_sectors"),
        (40, 4, 1, "max_discard_seg"),
        (44, 4, 64, "discard_sector_alignment"),
        (48, 4, 2000, "max_write_zeroes_sectors"),
        (52, 4, 1, "max_write_zeroes_seg"),
        (56, 1, 1, "write_zeroes_may_unmap"),
        (60, 4, 1000, "max_secure_erase_sectors"),
        (64, 4, 1, "max_secure_erase_seg"),
        (68, 4, 2, "secure_erase_sector_alignment"),
    ] {
        assert_eq!(function.config(offset, width), expected, "{what}");
    }
    for byte in 0..8 {
        let whole: u64 = (64 << 20) / 512;
        assert_eq!(function.config(byte, 1), whole >> (byte * 8) & 0xff, "byte {byte} of capacity");
    }
}

#[test]
fn a_geometry_that_was_given_is_told() {
    let (machine, disk) = machine(64 << 20, |config| {
        config.geometry = Some(Geometry { cylinders: 1000, heads: 4, sectors: 32 });
    });
    let function = Function::probe(&machine, disk.at);
    let told = [(16, 2), (18, 1), (19, 1)].map(|(at, width)| function.config(at, width));
    assert_eq!(told, [1000, 4, 32]);
}

#[test]
fn defaults_are_those_of_a_plain_disk() {
    let (machine, disk) = machine(1 << 20, |_| ());
    let function = Function::probe(&machine, disk.at);
    assert_eq!(function.config(20, 4), 512);
    assert_eq!(function.config(24, 1), 0);
    assert_eq!(function.config(12, 4), 254);
    let (machine, disk) = self::machine(1 << 20, |config| config.seg_max_adjust = false);
    assert_eq!(Function::probe(&machine, disk.at).config(12, 4), 126);
}

#[test]
fn a_write_to_anything_but_writeback_changes_nothing() {
    let (driver, _) = driver(1 << 20, |_| ());
    let function = &driver.function;
    let before: Vec<u64> = (0..72).map(|at| function.config(at, 1)).collect();
    for at in (0..72).filter(|at| *at != 32) {
        function.machine.write(function.config.at + at, 1, 0x5a);
    }
    let after: Vec<u64> = (0..72).map(|at| function.config(at, 1)).collect();
    assert_eq!(before, after);
}

#[test]
fn writeback_needs_its_feature() {
    let (machine, disk) = machine(1 << 20, |config| config.config_wce = false);
    let driver = spindle_devices::testkit::driver::BlkDriver::new(&machine, disk.at, !0, 1, 16);
    machine.write(driver.function.config.at + 32, 1, 0);
    assert_eq!(driver.function.config(32, 1), 1);
}

#[test]
fn a_disk_without_write_cache_starts_so() {
    let (driver, disk) = driver(1 << 20, |config| config.write_cache = false);
    assert_eq!(driver.function.config(32, 1), 0);
    assert!(disk.root.policy().write_through);
}

#[test]
fn a_resize_is_seen_with_an_interrupt_and_a_new_generation() {
    use spindle_block::nodes::null::{NullNode, NullOptions};
    let machine = spindle_devices::testkit::Machine::new(1);
    let node = NullNode::new(NullOptions { size: 1 << 20, ..NullOptions::default() });
    let disk = machine.add_disk_over("disk0", node, |_| ());
    machine.assign();
    let machine = std::rc::Rc::new(machine);
    let mut driver = spindle_devices::testkit::driver::BlkDriver::new(&machine, disk.at, !0, 1, 16);
    driver.function.enable_msix();
    driver.function.use_vectors(0, 0, 1);
    let generation = driver.function.get(21, 1);
    assert_eq!(driver.read(4000, 512).status, 1);
    machine.irqs.take();
    let bigger = NullNode::new(NullOptions { size: 4 << 20, ..NullOptions::default() });
    disk.root.replace(bigger);
    assert_eq!(driver.function.config(0, 8), 2048, "the driver was not told yet");
    disk.device.resized();
    assert_eq!(driver.function.config(0, 8), 8192);
    assert_ne!(driver.function.get(21, 1), generation);
    let data: Vec<u32> = machine.irqs.take().iter().map(|message| message.data).collect();
    assert_eq!(data, [100], "one interrupt on the configuration's vector");
    assert_eq!(machine.read(driver.function.isr.at, 1) & 2, 2);
    assert_eq!(driver.write(4000, &pattern(1, 512)).status, 0);
}

#[test]
fn a_resize_before_driver_ok_interrupts_nobody() {
    let (machine, disk) = machine(1 << 20, |_| ());
    disk.device.resized();
    assert!(!disk.wire.level() && machine.irqs.take().is_empty());
}
