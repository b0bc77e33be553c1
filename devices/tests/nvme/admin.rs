//! Admin commands: what each answers, and each documented error (base 5).

use spindle_devices::{Device, testkit::driver::nvme::Cmd};

use super::{driver, number};

const OPCODE: u16 = 0x01;
const FIELD: u16 = 0x02;
const NAMESPACE: u16 = 0x0b;
const SEQUENCE: u16 = 0x0c;
const LOG_PAGE: u16 = 0x109;
const NOT_SAVEABLE: u16 = 0x10d;
const NOT_NAMESPACE: u16 = 0x10f;

#[test]
fn identify_controller_says_what_the_controller_is() {
    let (mut driver, _) = driver(1 << 20, |config| {
        config.serial = "S1".into();
        config.model = "A model".into();
        config.mdts = 5;
    });
    let (cqe, page) = driver.identify(1, 0, 0, 0);
    assert_eq!(cqe.status, 0);
    assert_eq!(&page[4..24], b"S1                  ");
    assert_eq!(&page[24..64], format!("{:40}", "A model").as_bytes());
    // Offset, width, value.
    let fields = [
        ("VID", 0, 2, 0x1234),
        ("SSVID", 2, 2, 0x1234),
        ("MDTS", 77, 1, 5),
        ("CNTLID", 78, 2, 0),
        ("VER", 80, 4, 0x0002_0000),
        ("OAES", 92, 4, 0x100),
        ("CNTRLTYPE", 111, 1, 1),
        ("FRMW", 260, 1, 0x17),
        ("TNVMCAP", 280, 8, 1 << 20),
        ("UNVMCAP", 296, 8, 0),
        ("DSTO", 318, 1, 1),
        ("KAS", 320, 2, 1),
        ("SANICAP", 328, 4, 0x4000_0006),
        ("SQES", 512, 1, 0x66),
        ("CQES", 513, 1, 0x44),
        ("NN", 516, 4, 1024),
        ("ONCS", 520, 2, 0x1ff),
        ("FUSES", 522, 2, 1),
        ("VWC", 525, 1, 7),
        ("CMIC", 76, 1, 0),
        ("ACWU", 532, 2, 255),
        ("OCFS", 534, 2, 1),
        ("MNAN", 540, 4, 1024),
    ];
    for (name, at, width, value) in fields {
        assert_eq!(number(&page, at, width), value, "{name}");
    }
    assert_eq!(page[256..258], [0x1e, 1], "OACS: all but security, directives, MI, virtualization");
    assert_eq!(number(&page, 536, 4) & 3, 1, "SGLS");
    let nqn = String::from_utf8_lossy(&page[768..1024]).into_owned();
    assert!(nqn.starts_with("nqn.2014-08.org.nvmexpress:uuid:"), "{nqn}");
    assert_eq!(nqn.trim_end_matches('\0').len(), 32 + 36);
}

#[test]
fn identify_namespace_says_what_the_namespace_is() {
    let (mut driver, setup) = driver(1 << 20, |config| {
        let ns = &mut config.namespaces[0];
        ns.uuid = Some([1; 16]);
        ns.eui64 = Some([2; 8]);
        ns.nguid = Some([3; 16]);
    });
    let (cqe, page) = driver.identify(0, 1, 0, 0);
    assert_eq!(cqe.status, 0);
    let fields = [
        ("NSZE", 0, 8, 2048),
        ("NCAP", 8, 8, 2048),
        ("NUSE", 16, 8, 2048),
        ("NLBAF", 25, 1, 1),
        ("FLBAS", 26, 1, 0),
        ("NMIC", 30, 1, 0),
        ("RESCAP", 31, 1, 0xff),
        ("MSSRL", 74, 2, 0x8000),
        ("MCL", 76, 4, 0x8000),
        ("MSRC", 80, 1, 127),
        ("NVMCAP", 48, 8, 1 << 20),
        ("NSATTR", 99, 1, 0),
        ("LBAF0", 128, 4, 0x0109_0000),
        ("LBAF1", 132, 4, 0x000c_0000),
    ];
    for (name, at, width, value) in fields {
        assert_eq!(number(&page, at, width), value, "{name}");
    }
    assert_eq!((&page[104..120], &page[120..128]), (&[3; 16][..], &[2; 8][..]));
    let (_, page) = driver.identify(3, 1, 0, 0);
    let mut expected = vec![1, 8, 0, 0];
    expected.extend([2; 8]);
    expected.extend([2, 16, 0, 0]);
    expected.extend([3; 16]);
    expected.extend([3, 16, 0, 0]);
    expected.extend([1; 16]);
    expected.extend([4, 1, 0, 0, 0, 0]);
    assert_eq!(page[..expected.len()], expected);
    setup.root.set_policy(|policy| policy.read_only = true);
    assert_eq!(driver.identify(0, 1, 0, 0).1[99], 1);
    assert_eq!(driver.identify(8, 1, 0, 0).1[13], 1);
}

#[test]
fn identifiers_follow_from_the_serial_number_and_differ() {
    let ids = |serial: &str| {
        let (mut driver, _) = driver(1 << 20, |config| config.serial = serial.into());
        driver.identify(3, 1, 0, 0).1[..64].to_vec()
    };
    let (a, b) = (ids("A"), ids("B"));
    assert_eq!(a, ids("A"));
    for (at, len) in [(4, 8), (16, 16), (36, 16)] {
        assert_ne!(a[at..at + len], b[at..at + len]);
        assert_ne!(a[at..at + len], vec![0; len]);
    }
}

/// Every CNS: value, nsid, dwords 10 and 11, status.
#[test]
fn every_identify_structure_is_there_or_refused() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let csi = |csi: u32| csi << 24;
    let cases: &[(&str, u8, u32, u32, u32, u16)] = &[
        ("namespace", 0x00, 1, 0, 0, 0),
        ("namespace, common", 0x00, 0xffff_ffff, 0, 0, 0),
        ("namespace, inactive", 0x00, 2, 0, 0, 0),
        ("namespace, none", 0x00, 0, 0, 0, NAMESPACE),
        ("namespace, invalid", 0x00, 1025, 0, 0, NAMESPACE),
        ("controller", 0x01, 0, 0, 0, 0),
        ("active list", 0x02, 0, 0, 0, 0),
        ("active list, from invalid", 0x02, 0xffff_fffe, 0, 0, NAMESPACE),
        ("active list, from all", 0x02, 0xffff_ffff, 0, 0, NAMESPACE),
        ("descriptors", 0x03, 1, 0, 0, 0),
        ("descriptors, inactive", 0x03, 2, 0, 0, FIELD),
        ("descriptors, all", 0x03, 0xffff_ffff, 0, 0, NAMESPACE),
        ("NVM sets", 0x04, 0, 0, 0, FIELD),
        ("NVM namespace", 0x05, 1, 0, 0, 0),
        ("NVM namespace, inactive", 0x05, 2, 0, 0, FIELD),
        ("ZNS namespace", 0x05, 1, 0, csi(2), FIELD),
        ("NVM controller", 0x06, 0, 0, 0, 0),
        ("ZNS controller", 0x06, 0, 0, csi(2), FIELD),
        ("NVM active list", 0x07, 0, 0, 0, 0),
        ("KV active list", 0x07, 0, 0, csi(1), FIELD),
        ("independent namespace", 0x08, 1, 0, 0, 0),
        ("independent namespace, inactive", 0x08, 2, 0, 0, FIELD),
        ("allocated list", 0x10, 0, 0, 0, 0),
        ("allocated namespace", 0x11, 1, 0, 0, 0),
        ("allocated namespace, none", 0x11, 2, 0, 0, 0),
        ("controllers of a namespace", 0x12, 1, 0, 0, 0),
        ("controllers of no namespace", 0x12, 2, 0, 0, FIELD),
        ("controllers", 0x13, 0, 0, 0, 0),
        ("primary controller", 0x14, 0, 0, 0, FIELD),
        ("secondary controllers", 0x15, 0, 0, 0, FIELD),
        ("granularities", 0x16, 0, 0, 0, FIELD),
        ("UUIDs", 0x17, 0, 0, 0, FIELD),
        ("domains", 0x18, 0, 0, 0, FIELD),
        ("endurance groups", 0x19, 0, 0, 0, FIELD),
        ("NVM allocated list", 0x1a, 0, 0, 0, 0),
        ("NVM allocated namespace", 0x1b, 1, 0, 0, 0),
        ("command sets", 0x1c, 0, 0, 0, 0),
        ("command sets of no controller", 0x1c, 0, 7 << 16, 0, FIELD),
        ("reserved", 0x1d, 0, 0, 0, FIELD),
        ("vendor specific", 0xff, 0, 0, 0, FIELD),
    ];
    for (what, cns, nsid, dw10, dw11, status) in cases {
        let (cqe, _) = driver.identify(*cns, *nsid, *dw10, *dw11);
        assert_eq!(cqe.status, *status, "{what}");
    }
    assert_eq!(driver.identify(0x00, 2, 0, 0).1, vec![0; 4096], "an inactive namespace is zeros");
    assert_eq!(number(&driver.identify(0x02, 0, 0, 0).1, 0, 8), 1);
    assert_eq!(number(&driver.identify(0x02, 1, 0, 0).1, 0, 4), 0, "only those above");
    assert_eq!(number(&driver.identify(0x12, 1, 0, 0).1, 0, 4), 1, "one controller: number 0");
    assert_eq!(number(&driver.identify(0x13, 0, 1 << 16, 0).1, 0, 2), 0, "none from 1 on");
    assert_eq!(driver.identify(0x06, 0, 0, 0).1[2], 255, "DMRL");
}

/// Feature, value to set, value to get back.
#[test]
fn features_are_set_and_got() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let get = |id: u8, select: u32, dw11: u32| {
        Cmd::new(0x0a, 0).dw(10, u32::from(id) | select << 8).dw(11, dw11)
    };
    let set = |id: u8, value: u32| Cmd::new(0x09, 0).dw(10, id.into()).dw(11, value);
    let cases = [
        ("arbitration", 0x01, 0x0302_0102, 0x0302_0102, 0, 0),
        ("power", 0x02, 0, 0, 0, 0),
        ("temperature, over", 0x04, 400, 400, 0, 343),
        ("temperature, under", 0x04, 1 << 20 | 200, 200, 1 << 20, 0),
        ("write cache", 0x06, 0, 0, 0, 1),
        ("coalescing", 0x08, 0x0504, 0x0504, 0, 0),
        ("vector", 0x09, 1 << 16 | 1, 1 << 16 | 1, 1, 1),
        ("atomicity", 0x0a, 1, 1, 0, 0),
        ("events", 0x0b, 0x100, 0x100, 0, 0x1ff),
    ];
    for (what, id, value, expected, dw11, default) in cases {
        assert_eq!(driver.admin(get(id, 1, dw11)).result as u32, default, "{what}, default");
        let cqe = driver.admin(set(id, value));
        assert_eq!(cqe.status, 0, "{what}");
        assert_eq!(driver.admin(get(id, 0, dw11)).result as u32, expected, "{what}");
        let capabilities = driver.admin(get(id, 3, dw11)).result;
        let saveable = !["power", "vector"].contains(&what);
        assert_eq!(capabilities, 4 | u64::from(saveable), "{what}: changeable");
    }
    let bad = [
        ("unknown feature", get(0x7f, 0, 0), FIELD),
        ("reserved select", get(1, 4, 0), FIELD),
        ("setting an unknown one", set(0x7f, 0), FIELD),
        ("host memory buffer", set(0x0d, 1), FIELD),
        ("power state that is not there", set(2, 1), FIELD),
        ("another sensor", get(4, 0, 1 << 16), FIELD),
        ("vector that is not there", set(9, 500), FIELD),
        ("saving", set(7, 0).dw(10, 1 << 31 | 7), NOT_SAVEABLE),
        ("one namespace's", Cmd::new(0x09, 1).dw(10, 1), NOT_NAMESPACE),
        ("error recovery of none", Cmd::new(0x0a, 2).dw(10, 5), FIELD),
        ("error recovery of an invalid one", Cmd::new(0x0a, 0).dw(10, 5), NAMESPACE),
        ("number of queues, too late", set(7, 0), SEQUENCE),
        ("number of queues, too many", set(7, 0xffff), FIELD),
    ];
    for (what, cmd, status) in bad {
        assert_eq!(driver.admin(cmd).status, status, "{what}");
    }
}

#[test]
fn the_write_cache_is_the_disks() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let set = |on| Cmd::new(0x09, 0).dw(10, 6).dw(11, on);
    driver.admin(set(0));
    assert!(setup.root.policy().write_through);
    driver.admin(set(1));
    assert!(!setup.root.policy().write_through);
}

#[test]
fn the_host_gets_as_many_queues_as_there_are() {
    let setup = super::machine(1 << 20, |config| config.max_ioqpairs = 4);
    let mut driver = spindle_devices::testkit::driver::nvme::NvmeDriver::new(
        &setup.machine,
        setup.disk.at,
        0,
        8,
    );
    let set = |sqs: u32, cqs: u32| Cmd::new(0x09, 0).dw(10, 7).dw(11, sqs | cqs << 16);
    assert_eq!(driver.admin(set(100, 1)).result, 3 | 1 << 16);
    assert_eq!(driver.admin(Cmd::new(0x0a, 0).dw(10, 7)).result, 3 | 1 << 16);
    let cq = driver.new_cq(3, 8);
    let create = spindle_devices::testkit::driver::nvme::NvmeDriver::create_cq_cmd(&cq, 3);
    assert_eq!(driver.admin(create).status, 0x101, "beyond what was granted");
}

#[test]
fn the_timestamp_runs() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let bytes = 0x0123_4567_89abu64.to_le_bytes();
    assert_eq!(driver.admin_write(Cmd::new(0x09, 0).dw(10, 0x0e), &bytes).status, 0);
    setup.machine.world.advance(std::time::Duration::from_millis(2500));
    let (cqe, data) = driver.admin_read(Cmd::new(0x0a, 0).dw(10, 0x0e), 8);
    assert_eq!(cqe.status, 0);
    let elapsed = (number(&data, 0, 8) & 0xffff_ffff_ffff) - 0x0123_4567_89ab;
    assert!((2500..2600).contains(&elapsed), "{elapsed} ms");
    assert_eq!(data[6] >> 1 & 7, 1, "origin: set by the host");
}

#[test]
fn log_pages_are_there_and_the_supported_ones_say_so() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let (cqe, supported) = driver.log(0, 0, 1024);
    assert_eq!(cqe.status, 0);
    for id in 0..=255u8 {
        let there = supported[usize::from(id) * 4] & 1 != 0;
        let status = driver.log(id, 0, 64).0.status;
        assert_eq!(status, if there { 0 } else { LOG_PAGE }, "log page {id:#x}");
    }
    let (_, effects) = driver.log(5, 0, 4096);
    assert_eq!(effects[6 * 4] & 1, 1, "Identify");
    assert_eq!(effects[1024 + 4] & 3, 3, "Write changes data");
    assert_eq!(effects[1024 + 8] & 3, 1, "Read does not");
}

#[test]
fn a_log_is_read_in_parts() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let whole = driver.log(5, 0, 4096).1;
    let part =
        |offset: u32, dwords: u32| Cmd::new(0x02, 0).dw(10, 5 | (dwords - 1) << 16).dw(12, offset);
    let (cqe, bytes) = driver.admin_read(part(1024, 256), 1024);
    assert_eq!(cqe.status, 0);
    assert!(bytes == whole[1024..2048]);
    assert_eq!(driver.admin_read(part(4100, 1), 4).0.status, FIELD, "behind the end");
    assert_eq!(driver.admin_read(part(2, 1), 4).0.status, FIELD, "not a dword");
    let huge = Cmd::new(0x02, 0).dw(10, 5 | 0xffff << 16).dw(11, 0xffff);
    assert_eq!(driver.admin_read(huge, 4).0.status, FIELD, "beyond MDTS");
}

#[test]
fn health_counts_what_was_transferred() {
    let (mut driver, _) = driver(4 << 20, |_| ());
    for _ in 0..4 {
        driver.write(1, 1, 0, 512, &[1; 256 << 10]);
    }
    driver.read(1, 1, 0, 1, 512);
    let (cqe, page) = driver.log(2, 0xffff_ffff, 512);
    assert_eq!(cqe.status, 0);
    assert_eq!(number(&page, 32, 8), 1, "data units read");
    assert_eq!(number(&page, 48, 8), 3, "data units written");
    assert_eq!((number(&page, 64, 8), number(&page, 80, 8)), (1, 4));
    assert_eq!(driver.log(2, 1, 512).0.status, FIELD, "namespaces have none of their own");
}

#[test]
fn failed_commands_are_in_the_error_log() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let cqe = driver.admin(Cmd::new(0xc7, 5));
    assert_eq!(cqe.status, OPCODE);
    let (_, page) = driver.log(1, 0, 64);
    assert_eq!(number(&page, 0, 8), 1);
    assert_eq!(number(&page, 10, 2), u64::from(cqe.cid));
    assert_eq!(number(&page, 12, 2) >> 1 & 0x7ff, u64::from(OPCODE));
    assert_eq!(number(&page, 24, 4), 5);
}

#[test]
fn unknown_commands_are_refused() {
    let (mut driver, _) = driver(1 << 20, |config| config.shadow_doorbells = false);
    for opcode in [0x03, 0x07, 0x0b, 0x19, 0x1c, 0x7c, 0x81, 0x86, 0xc0, 0xff] {
        let cqe = driver.admin(Cmd::new(opcode, 0));
        assert_eq!((cqe.status, cqe.dnr), (OPCODE, true), "opcode {opcode:#x}");
    }
    assert_eq!(driver.admin(Cmd::new(0x06, 0).flags(1)).status, FIELD, "fused");
}

#[test]
fn event_requests_are_parked_and_answered_when_something_happens() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let cid = driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    setup.machine.run();
    assert!(driver.take(0).is_none());
    // A doorbell of no queue.
    driver.ring_with(9, 0);
    setup.machine.run();
    let cqe = driver.take(0).unwrap();
    assert_eq!((cqe.cid, cqe.status, cqe.result), (cid, 0, 0x0001_0000));
    // The same kind waits for the log to be read.
    let cid = driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    driver.ring_with(1, 99);
    setup.machine.run();
    assert!(driver.take(0).is_none(), "masked until the log was read");
    let keep = Cmd::new(0x02, 0).dw(10, 1 | 1 << 15 | 15 << 16);
    assert_eq!(driver.admin_read(keep, 64).0.status, 0);
    assert!(driver.take(0).is_none(), "RAE");
    let data = driver.alloc(64);
    let read = driver.submit(0, Cmd::new(0x02, 0).dw(10, 1 | 15 << 16).data(data.prp1, 0));
    driver.ring(0);
    setup.machine.run();
    let mut both = [driver.take(0).unwrap(), driver.take(0).unwrap()];
    both.sort_by_key(|cqe| cqe.cid != read);
    assert_eq!((both[1].cid, both[1].result), (cid, 0x0001_0100));
}

#[test]
fn more_event_requests_than_can_be_parked_are_refused() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    for n in 0..260u32 {
        driver.submit(0, Cmd::new(0x0c, 0));
        driver.ring(0);
        setup.machine.run();
        let cqe = driver.take(0);
        assert_eq!(cqe.map(|cqe| cqe.status), (n >= 256).then_some(0x105), "request {n}");
    }
    // They hold no place: everything else goes on.
    assert_eq!(driver.identify(1, 0, 0, 0).0.status, 0);
}

#[test]
fn a_parked_event_request_is_aborted() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let cid = driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    setup.machine.run();
    let abort = |sq: u32, cid: u16| Cmd::new(0x08, 0).dw(10, sq | u32::from(cid) << 16);
    driver.submit(0, abort(0, cid));
    driver.ring(0);
    setup.machine.run();
    let aborted = driver.take(0).unwrap();
    assert_eq!((aborted.cid, aborted.status), (cid, 0x07));
    assert_eq!(driver.take(0).unwrap().result, 0, "aborted");
    assert_eq!(driver.admin(abort(0, cid)).result, 1, "it is not there any more");
    assert_eq!(driver.admin(abort(1, 77)).result, 1);
    assert_eq!(driver.admin(abort(60, 77)).result, 1, "no such queue");
}

#[test]
fn the_temperature_crosses_a_threshold() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    driver.submit(0, Cmd::new(0x0c, 0));
    driver.ring(0);
    setup.machine.run();
    let data = driver.log(2, 0, 512).1;
    let now = number(&data, 1, 2) as u32;
    assert_eq!(data[0], 0);
    driver.submit(0, Cmd::new(0x09, 0).dw(10, 4).dw(11, now - 1));
    driver.ring(0);
    setup.machine.run();
    let results: Vec<_> = (0..2).map(|_| driver.take(0).unwrap().result).collect();
    assert!(results.contains(&0x0002_0101), "{results:x?}");
    assert_eq!(driver.log(2, 0, 512).1[0], 2, "critical warning");
}

#[test]
fn health_goes_on_after_a_shutdown_and_a_restart() {
    use spindle_devices::state_file::{DiskState, MemoryStore, Section};
    let store = MemoryStore::new();
    let on = |store: &std::sync::Arc<MemoryStore>| {
        DiskState::open(std::sync::Arc::clone(store) as _).unwrap()
    };
    let boot = || driver(4 << 20, |config| config.state = on(&store));
    // Units read and written, commands, power cycles, hours, errors.
    let look = |driver: &mut spindle_devices::testkit::driver::nvme::NvmeDriver| {
        let page = driver.log(2, 0, 512).1;
        [32, 48, 64, 80, 112, 128, 176].map(|at| number(&page, at, 8))
    };
    let (mut driver, setup) = boot();
    for _ in 0..4 {
        driver.write(1, 1, 0, 512, &[1; 256 << 10]);
    }
    driver.read(1, 1, 0, 1, 512);
    assert_eq!(driver.read(1, 1, 8192, 1, 512).0.status, 0x80);
    setup.machine.world.advance(std::time::Duration::from_secs(5400));
    let first = [1, 3, 1, 4, 1, 1, 1];
    assert_eq!(look(&mut driver), first);
    driver.disable();
    driver.enable(8);
    assert_eq!(look(&mut driver), first, "a reset changes nothing");
    assert_eq!(store.saves(), 0);
    // CC.SHN: a normal shutdown.
    driver.set(0x14, 4, driver.get(0x14, 4) | 1 << 14);
    setup.machine.run();
    assert_eq!((driver.status() >> 2 & 3, store.saves()), (2, 1));
    let (mut driver, setup) = boot();
    assert_eq!(look(&mut driver), [1, 3, 1, 4, 2, 1, 1]);
    driver.create_pair(2, 8);
    driver.read(2, 1, 0, 1, 512);
    setup.machine.world.advance(std::time::Duration::from_secs(1800));
    assert_eq!(look(&mut driver), [1, 3, 2, 4, 2, 2, 1]);
    // A file that holds something else is no reason not to work.
    for len in [0, 63, 65] {
        let section = Section { version: 1, bytes: vec![7; len] };
        on(&store).put("nvme/health", section, Box::new(|result| result.unwrap()));
        assert_eq!(look(&mut boot().0), [0, 0, 0, 0, 1, 0, 0], "{len} bytes");
    }
}

#[test]
fn saved_values_are_there_after_a_reset_and_after_a_restart() {
    let store = spindle_devices::state_file::MemoryStore::new();
    let boot = || {
        let state =
            spindle_devices::state_file::DiskState::open(std::sync::Arc::clone(&store) as _);
        driver(1 << 20, |config| config.state = state.unwrap())
    };
    let get = |id: u32, select: u32, dw11| Cmd::new(0x0a, 0).dw(10, id | select << 8).dw(11, dw11);
    let (mut driver, setup) = boot();
    for (id, value) in [(1, 0x0302_0102), (8, 0x0504), (6, 0), (4, 1 << 20 | 200)] {
        let save = Cmd::new(0x09, 0).dw(10, 1 << 31 | id).dw(11, value);
        assert_eq!(driver.admin(save).status, 0, "feature {id}");
    }
    assert_eq!(driver.admin(Cmd::new(0x09, 0).dw(10, 1).dw(11, 7)).status, 0, "not saved");
    let check = |driver: &mut spindle_devices::testkit::driver::nvme::NvmeDriver, current| {
        assert_eq!(driver.admin(get(1, 0, 0)).result, current);
        for select in [0, 2] {
            assert_eq!(driver.admin(get(8, select, 0)).result, 0x0504);
            assert_eq!(driver.admin(get(6, select, 0)).result, 0);
            assert_eq!(driver.admin(get(4, select, 1 << 20)).result, 200);
        }
        assert_eq!(driver.admin(get(1, 2, 0)).result, 0x0302_0102);
        assert_eq!(driver.admin(get(10, 2, 0)).result, 0, "never saved: the default");
    };
    check(&mut driver, 7);
    driver.disable();
    driver.enable(8);
    check(&mut driver, 0x0302_0102);
    assert!(setup.root.policy().write_through);
    let (mut driver, _setup) = boot();
    check(&mut driver, 0x0302_0102);
    store.fail(true);
    assert_eq!(driver.admin(Cmd::new(0x09, 0).dw(10, 1 << 31 | 1)).status, 0x06, "not saved");
}

#[test]
fn a_host_that_is_not_heard_of_in_time_is_taken_for_dead() {
    use std::time::Duration;
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let at_once = |driver: &mut spindle_devices::testkit::driver::nvme::NvmeDriver, cmd| {
        driver.submit(0, cmd);
        driver.ring(0);
        setup.machine.turn();
        driver.take(0).unwrap()
    };
    let later = |ms| {
        setup.machine.world.advance(Duration::from_millis(ms));
        setup.machine.turn();
    };
    assert_eq!(at_once(&mut driver, Cmd::new(0x18, 0)).status, 0, "without a timer, too");
    assert_eq!(at_once(&mut driver, Cmd::new(0x09, 0).dw(10, 0x0f).dw(11, 450)).status, 0);
    assert_eq!(at_once(&mut driver, Cmd::new(0x0a, 0).dw(10, 0x0f)).result, 500, "rounded up");
    for _ in 0..3 {
        later(400);
        assert_eq!(at_once(&mut driver, Cmd::new(0x18, 0)).status, 0);
    }
    assert_eq!(driver.status() & 2, 0);
    // A machine that stands still has no host that could be heard of.
    let function = setup.disk.device.function();
    function.pause(Box::new(|| ()));
    setup.machine.turn();
    (0..5).for_each(|_| later(400));
    function.resume();
    setup.machine.turn();
    assert_eq!(driver.status() & 2, 0);
    (0..3).for_each(|_| later(400));
    assert_eq!(driver.status() & 2, 2, "fatal");
    driver.submit(0, Cmd::new(0x18, 0));
    driver.ring(0);
    setup.machine.turn();
    assert!(driver.take(0).is_none(), "nothing is taken any more");
    driver.disable();
    driver.enable(8);
    (0..5).for_each(|_| later(400));
    assert_eq!(driver.status(), 1, "the timer went with the reset");
}
