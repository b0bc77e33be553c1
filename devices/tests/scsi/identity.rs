//! INQUIRY, READ CAPACITY, REPORT LUNS, REQUEST SENSE and the reports of what is supported.

use spindle_devices::testkit::driver::ScsiDriver;

use super::setup::{assert_sense, setup};

fn inquiry(page: u8, len: u8) -> [u8; 6] {
    [0x12, u8::from(page != 0xff), if page == 0xff { 0 } else { page }, 0, len, 0]
}

#[test]
fn standard_inquiry_data_have_their_golden_bytes() {
    let mut t = setup(1 << 20, |config| config.version = "2.5+".into());
    let reply = t.driver.command(&inquiry(0xff, 255), &[], 255);
    assert!(reply.is_good());
    let mut expected = vec![0, 0, 7, 0x12, 91, 0, 0, 2];
    expected.extend(b"SPINDLE HARDDISK        2.5+");
    expected.resize(58, 0);
    expected.extend([0, 0xa0, 5, 0xc0, 4, 0x60, 6, 0, 4, 0xc0]);
    expected.resize(96, 0);
    assert_eq!(reply.data[..96], expected);
    assert_eq!((reply.residual, reply.written), (159, 108 + 96));
    for len in [0u8, 5, 36, 96] {
        let reply = t.driver.command(&inquiry(0xff, len), &[], 96);
        assert_eq!(reply.residual, 96 - u32::from(len), "cut to {len}");
        assert_eq!(reply.data[..usize::from(len)], expected[..usize::from(len)]);
        assert!(reply.data[usize::from(len)..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn vital_product_data_have_their_golden_bytes() {
    let mut t = setup(1 << 20, |config| {
        config.serial = "S123".into();
        config.wwn = 0x5000_c500_1234_5678;
    });
    let mut page = |page| {
        let reply = t.driver.command(&inquiry(page, 255), &[], 255);
        assert!(reply.is_good(), "page {page:#x}");
        reply.data[..255 - reply.residual as usize].to_vec()
    };
    assert_eq!(page(0x00), [0, 0, 0, 7, 0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    assert_eq!(page(0x80), [&[0, 0x80, 0, 4], &b"S123"[..]].concat());
    let mut expected = vec![0, 0x83, 0, 28, 2, 1, 0, 12];
    expected.extend(b"SPINDLE S123");
    expected.extend([1, 3, 0, 8, 0x50, 0x00, 0xc5, 0x00, 0x12, 0x34, 0x56, 0x78]);
    assert_eq!(page(0x83), expected);
    let mut expected = vec![0, 0x86, 0, 60, 0, 7, 1];
    expected.resize(64, 0);
    assert_eq!(page(0x86), expected);
}

#[test]
fn names_of_its_own_and_of_its_port_are_told() {
    let mut t = setup(1 << 20, |config| {
        config.serial = "S".into();
        config.wwn = 0x5000_c500_1234_5678;
        config.device_id = "mine".into();
        config.port_wwn = 0x5000_c500_1234_5679;
        config.port_index = 2;
    });
    let reply = t.driver.command(&inquiry(0x83, 255), &[], 255);
    let mut expected = vec![0, 0x83, 0, 53, 2, 1, 0, 9];
    expected.extend(b"SPINDLE S");
    expected.extend([1, 3, 0, 8, 0x50, 0x00, 0xc5, 0x00, 0x12, 0x34, 0x56, 0x78]);
    expected.extend([2, 0, 0, 4]);
    expected.extend(b"mine");
    // Of the target port, by its protocol.
    expected.extend([0x61, 0x93, 0, 8, 0x50, 0x00, 0xc5, 0x00, 0x12, 0x34, 0x56, 0x79]);
    expected.extend([0x61, 0x94, 0, 4, 0, 0, 0, 2]);
    assert_eq!(reply.data[..255 - reply.residual as usize], expected);
}

#[test]
fn version_removability_and_longest_transfer_are_as_configured() {
    let mut t = setup(1 << 20, |config| {
        config.scsi_version = 5;
        config.removable = true;
        config.max_io_size = 64 << 10;
    });
    let reply = t.driver.command(&inquiry(0xff, 96), &[], 96);
    assert_eq!(reply.data[..3], [0, 0x80, 5]);
    let reply = t.driver.command(&inquiry(0xb0, 64), &[], 64);
    assert_eq!(reply.data[8..12], [0, 0, 0, 128]);
    // A medium check of more than that is refused.
    let verify = |blocks: u16| {
        let [high, low] = blocks.to_be_bytes();
        [0x2f, 0, 0, 0, 0, 0, 0, high, low, 0]
    };
    assert!(t.driver.command(&verify(128), &[], 0).is_good());
    assert!(!t.driver.command(&verify(129), &[], 0).is_good());
}

#[test]
fn a_disk_without_names_has_one_of_its_own() {
    let mut t = setup(1 << 20, |_| ());
    let reply = t.driver.command(&inquiry(0x80, 255), &[], 255);
    assert_eq!(reply.data[4..9], *b"disk0");
    let reply = t.driver.command(&inquiry(0x83, 255), &[], 255);
    // NAA 3: locally assigned.
    assert_eq!(reply.data[21..24], [1, 3, 0][..3]);
    assert_eq!(reply.data[25] >> 4, 3);
}

#[test]
fn pages_of_block_devices_have_their_golden_bytes() {
    let mut t = setup(1 << 20, |config| {
        config.physical_block_size = 4096;
        config.opt_io_size = 65536;
        config.discard_granularity = Some(8192);
        config.max_unmap_blocks = 0x1000;
        config.rotation_rate = 7200;
    });
    let mut page = |page| t.driver.command(&inquiry(page, 64), &[], 64).data;
    let mut expected = vec![0, 0xb0, 0, 60, 1, 128, 0, 8, 0, 0x40, 0, 0, 0, 0, 0, 128, 0, 0, 0, 0];
    expected.extend([0, 0, 0x10, 0, 0, 0, 0, 255, 0, 0, 0, 16, 0x80, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 0, 0, 0x10, 0]);
    expected.resize(64, 0);
    assert_eq!(page(0xb0), expected);
    let mut expected = vec![0, 0xb1, 0, 60, 0x1c, 0x20, 0, 0, 2];
    expected.resize(64, 0);
    assert_eq!(page(0xb1), expected);
    assert_eq!(page(0xb2)[..8], [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
}

#[test]
fn inquiry_refuses_what_there_is_not() {
    let mut t = setup(1 << 20, |_| ());
    for cdb in [[0x12, 1, 0x81, 0, 64, 0], [0x12, 0, 1, 0, 64, 0], [0x12, 2, 0, 0, 64, 0]] {
        assert_sense(&t.driver.command(&cdb, &[], 64), (5, 0x24, 0), &format!("{cdb:x?}"));
    }
}

#[test]
fn the_capacity_is_told_in_both_forms() {
    let mut t = setup(1 << 20, |config| config.physical_block_size = 4096);
    let reply = t.driver.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8);
    assert_eq!(reply.data, [0, 0, 7, 255, 0, 0, 2, 0]);
    let cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let reply = t.driver.command(&cdb, &[], 32);
    let mut expected = vec![0, 0, 0, 0, 0, 0, 7, 255, 0, 0, 2, 0, 0, 3, 0xc0, 0];
    expected.resize(32, 0);
    assert_eq!(reply.data, expected);
    let mut large = setup(3 << 40, |_| ());
    let reply = large.driver.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8);
    assert_eq!(reply.data, [255, 255, 255, 255, 0, 0, 2, 0], "too large for the short form");
    let reply = large.driver.command(&cdb, &[], 32);
    assert_eq!(reply.data[..8], ((3u64 << 31) - 1).to_be_bytes());
}

#[test]
fn request_sense_answers_in_both_formats() {
    let mut t = setup(1 << 20, |_| ());
    let reply = t.driver.command(&[3, 0, 0, 0, 18, 0], &[], 18);
    assert!(reply.is_good());
    assert_eq!(reply.data, [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let reply = t.driver.command(&[3, 1, 0, 0, 18, 0], &[], 18);
    assert_eq!((reply.data[..8].to_vec(), reply.residual), (vec![0x72, 0, 0, 0, 0, 0, 0, 0], 10));
}

#[test]
fn supported_commands_are_reported() {
    let mut t = setup(1 << 20, |_| ());
    let report = |options: u8, opcode: u8, action: u8| {
        [0xa3, 0x0c, options, opcode, 0, action, 0, 0, 16, 0, 0, 0]
    };
    let reply = t.driver.command(&report(0, 0, 0), &[], 4096);
    assert!(reply.is_good());
    let len = u32::from_be_bytes(reply.data[..4].try_into().unwrap()) as usize;
    assert_eq!((len % 8, len + 4), (0, 4096 - reply.residual as usize));
    let listed: Vec<_> = reply.data[4..4 + len].chunks(8).collect();
    assert!(listed.len() > 40);
    for command in &listed {
        let (with_action, action) = (command[5] & 1 != 0, command[3]);
        let reply = t.driver.command(
            &report(if with_action { 2 } else { 1 }, command[0], action),
            &[],
            4096,
        );
        assert!(reply.is_good(), "{command:x?}");
        assert_eq!(reply.data[1] & 7, 3, "{command:x?} is supported");
        assert_eq!(reply.data[3], command[7], "CDB size of {command:x?}");
        assert_eq!(reply.data[4], command[0], "usage data of {command:x?}");
        let wrong = t.driver.command(
            &report(if with_action { 1 } else { 2 }, command[0], action),
            &[],
            4096,
        );
        assert_sense(&wrong, (5, 0x24, 0), &format!("{command:x?} asked for the wrong way"));
        assert_eq!(t.driver.command(&report(3, command[0], action), &[], 4096).data[1] & 7, 3);
    }
    let timeouts = t.driver.command(&report(0x81, 0x28, 0), &[], 4096);
    assert_eq!(timeouts.data[..4], [0, 0x83, 0, 10]);
    assert_eq!((timeouts.data[14..16].to_vec(), timeouts.residual), (vec![0, 10], 4096 - 26));
    let unknown = t.driver.command(&report(1, 0xff, 0), &[], 4096);
    assert_eq!((unknown.data[1], unknown.residual), (1, 4092));
    assert_sense(&t.driver.command(&report(5, 0, 0), &[], 4096), (5, 0x24, 0), "a reserved option");
}

#[test]
fn supported_functions_are_reported() {
    let mut t = setup(1 << 20, |_| ());
    let report = |extended: u8, len: u8| [0xa3, 0x0d, extended, 0, 0, 0, 0, 0, 0, len, 0, 0];
    let reply = t.driver.command(&report(0, 16), &[], 16);
    assert_eq!((reply.data[..4].to_vec(), reply.residual), (vec![0xd9, 3, 0, 0], 12));
    let reply = t.driver.command(&report(0x80, 16), &[], 16);
    assert_eq!((reply.data[..4].to_vec(), reply.residual), (vec![0xd9, 3, 0, 12], 0));
    assert_sense(&t.driver.command(&report(0, 3), &[], 3), (5, 0x24, 0), "no room");
}

#[test]
fn log_pages_are_reported() {
    let mut t = setup(1 << 20, |_| ());
    let log = |page: u8, subpage: u8, pointer: u8| [0x4d, 0, page, subpage, 0, 0, pointer, 1, 0, 0];
    let reply = t.driver.command(&log(0x40, 0, 0), &[], 256);
    assert_eq!(reply.data[..7], [0, 0, 0, 3, 0, 0x19, 0x2f]);
    let reply = t.driver.command(&log(0x40, 0xff, 0), &[], 256);
    assert_eq!(reply.data[..12], [0x40, 0xff, 0, 8, 0, 0, 0, 0xff, 0x19, 0, 0x2f, 0]);
    assert_eq!(
        t.driver.command(&log(0x6f, 0, 0), &[], 256).data[..12],
        [0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 255, 0]
    );
    super::setup::write(&mut t.driver, 0, &[1; 1024]);
    super::setup::read(&mut t.driver, 0, 4);
    let reply = t.driver.command(&log(0x59, 0, 0), &[], 256);
    let number = |at: usize| u64::from_be_bytes(reply.data[at..at + 8].try_into().unwrap());
    assert_eq!(reply.data[..8], [0x19, 0, 0, 80, 0, 1, 3, 64]);
    assert_eq!((number(8), number(16), number(24), number(32)), (1, 1, 2, 4));
    let later = t.driver.command(&log(0x59, 0, 2), &[], 256);
    assert_eq!(later.data[..8], [0x19, 0, 0, 12, 0, 3, 3, 8]);
    for (cdb, what) in [
        (log(0x7e, 0, 0), "a page that there is not"),
        (log(0x59, 1, 0), "a subpage that there is not"),
        (log(0x19, 0, 0), "thresholds"),
        (log(0x59, 0, 4), "a parameter beyond the last"),
        ([0x4d, 1, 0x59, 0, 0, 0, 0, 1, 0, 0], "saving"),
    ] {
        assert_sense(&t.driver.command(&cdb, &[], 256), (5, 0x24, 0), what);
    }
}

#[test]
fn log_pages_are_reset() {
    let mut t = setup(1 << 20, |_| ());
    let second = t.machine.add_scsi("hba1", |_| ());
    second.device.add_lun(0, 0, std::sync::Arc::clone(&t.unit)).unwrap();
    t.machine.assign();
    let mut other = ScsiDriver::new(&t.machine, second.at, super::setup::ALL, 1, 16);
    super::setup::settle(&mut other, 0, 0);
    let written = |t: &mut super::setup::Setup| {
        let data = t.driver.command(&[0x4d, 0, 0x59, 0, 0, 0, 0, 1, 0, 0], &[], 256).data;
        u64::from_be_bytes(data[16..24].try_into().unwrap())
    };
    let select = |flags: u8, page: u8, len: u8| [0x4c, flags, page, 0, 0, 0, 0, 0, len, 0];
    super::setup::write(&mut t.driver, 0, &[1; 512]);
    for (cdb, what) in [
        (select(3, 0, 0), "saving"),
        (select(2, 0x7e, 0), "a page that there is not"),
        ([0x4c, 2, 0x59, 1, 0, 0, 0, 0, 0, 0], "a subpage that there is not"),
    ] {
        assert_sense(&t.driver.command(&cdb, &[], 0), (5, 0x24, 0), what);
    }
    assert_sense(&t.driver.command(&select(0, 0x59, 8), &[0; 8], 0), (5, 0x24, 0), "setting");
    assert!(t.driver.command(&select(0, 0, 0), &[], 0).is_good(), "nothing is asked for");
    assert_eq!(written(&mut t), 1);
    assert!(other.command(&[0; 6], &[], 0).is_good(), "nothing has changed");
    for page in [0x40, 0x59] {
        assert!(t.driver.command(&select(2, page, 0), &[], 0).is_good());
        assert_eq!(written(&mut t), 0);
        assert_sense(&other.command(&[0; 6], &[], 0), (6, 0x2a, 2), "LOG PARAMETERS CHANGED");
        super::setup::write(&mut t.driver, 0, &[1; 512]);
        assert_eq!(written(&mut t), 1);
    }
}

#[test]
fn what_is_no_command_is_refused() {
    let mut t = setup(1 << 20, |_| ());
    for opcode in [0x02, 0x17, 0x43, 0x7f, 0xbe, 0xc0, 0xff] {
        let reply = t.driver.command(&[opcode], &[], 0);
        assert_sense(&reply, (5, 0x20, 0), &format!("{opcode:#x}"));
        assert_eq!(reply.sense[15..18], [0xc0, 0, 0], "it points at the operation code");
    }
    let aca = t.driver.command(&[0, 0, 0, 0, 0, 4], &[], 0);
    assert_sense(&aca, (5, 0x24, 0), "NACA");
    assert_eq!(aca.sense[15..18], [0xca, 0, 5]);
}
