//! Queues that come and go, and what is wrong with some (base 5.4 to 5.7, 3.3).

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{driver, machine, pattern};

const FIELD: u16 = 0x02;
const TRANSFER: u16 = 0x04;
const PRP_OFFSET: u16 = 0x13;
const INVALID_CQ: u16 = 0x100;
const INVALID_QID: u16 = 0x101;
const QUEUE_SIZE: u16 = 0x102;
const VECTOR: u16 = 0x108;
const DELETION: u16 = 0x10c;

#[test]
fn every_documented_error_of_creating_and_deleting() {
    let setup = machine(1 << 20, |config| {
        config.max_ioqpairs = 4;
        config.max_entries = 64;
    });
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 1, 8);
    let at = setup.machine.memory.alloc(65 * 64, 4096);
    let create = |opcode, id: u32, entries: u32, at, dw11| {
        Cmd::new(opcode, 0).data(at, 0).dw(10, (entries - 1) << 16 | id).dw(11, dw11)
    };
    let cq = |id, entries, at, dw11| create(0x05, id, entries, at, dw11);
    let sq = |id, entries, at, dw11| create(0x01, id, entries, at, dw11);
    let delete = |opcode, id| Cmd::new(opcode, 0).dw(10, id);
    let far = 0x8000_0000;
    let cases = [
        ("completion queue 0", cq(0, 8, at, 1), INVALID_QID),
        ("completion queue beyond the last", cq(5, 8, at, 1), INVALID_QID),
        ("completion queue twice", cq(1, 8, at, 1), INVALID_QID),
        ("completion queue of one entry", cq(2, 1, at, 1), QUEUE_SIZE),
        ("completion queue beyond MQES", cq(2, 65, at, 1), QUEUE_SIZE),
        ("completion queue with an offset", cq(2, 8, at + 8, 1), PRP_OFFSET),
        ("completion queue outside of RAM", cq(2, 8, far, 1), TRANSFER),
        ("completion queue in pieces", cq(2, 8, at, 0), FIELD),
        ("vector that is not there", cq(2, 8, at, 5 << 16 | 3), VECTOR),
        ("submission queue 0", sq(0, 8, at, 1 << 16 | 1), INVALID_QID),
        ("submission queue beyond the last", sq(5, 8, at, 1 << 16 | 1), INVALID_QID),
        ("submission queue twice", sq(1, 8, at, 1 << 16 | 1), INVALID_QID),
        ("submission queue of one entry", sq(2, 1, at, 1 << 16 | 1), QUEUE_SIZE),
        ("submission queue beyond MQES", sq(2, 65, at, 1 << 16 | 1), QUEUE_SIZE),
        ("submission queue with an offset", sq(2, 8, at + 64, 1 << 16 | 1), PRP_OFFSET),
        ("submission queue outside of RAM", sq(2, 8, far, 1 << 16 | 1), TRANSFER),
        ("submission queue in pieces", sq(2, 8, at, 1 << 16), FIELD),
        ("no completion queue", sq(2, 8, at, 3 << 16 | 1), INVALID_CQ),
        ("the admin completion queue", sq(2, 8, at, 1), INVALID_QID),
        ("completion queue that cannot be", sq(2, 8, at, 9 << 16 | 1), INVALID_QID),
        ("deleting the admin submission queue", delete(0x00, 0), INVALID_QID),
        ("deleting no submission queue", delete(0x00, 2), INVALID_QID),
        ("deleting an impossible submission queue", delete(0x00, 999), INVALID_QID),
        ("deleting the admin completion queue", delete(0x04, 0), INVALID_QID),
        ("deleting no completion queue", delete(0x04, 2), INVALID_QID),
        ("deleting an impossible completion queue", delete(0x04, 999), INVALID_QID),
        ("deleting a completion queue in use", delete(0x04, 1), DELETION),
    ];
    for (what, cmd, status) in cases {
        let cqe = driver.admin(cmd);
        assert_eq!((cqe.status, cqe.dnr), (status, true), "{what}");
    }
    assert_eq!(driver.read(1, 1, 0, 1, 512).0.status, 0);
    assert_eq!(driver.admin(delete(0x00, 1)).status, 0);
    assert_eq!(driver.admin(delete(0x04, 1)).status, 0);
    assert_eq!(driver.admin(cq(1, 8, at, 1)).status, 0, "and again");
}

#[test]
fn entry_sizes_are_those_that_there_are() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 0, 8);
    let (sq, cq) = (driver.new_sq(1, 8), driver.new_cq(1, 8));
    driver.set(0x14, 4, 0x0036_0001);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&cq, 0)).status, FIELD);
    driver.set(0x14, 4, 0x0045_0001);
    assert_eq!(driver.admin(NvmeDriver::create_cq_cmd(&cq, 0)).status, 0);
    assert_eq!(driver.admin(NvmeDriver::create_sq_cmd(&sq, 1)).status, FIELD);
}

#[test]
fn several_submission_queues_share_a_completion_queue() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 0, 8);
    driver.create_cq(7, 64, 7);
    for id in [3, 1, 9] {
        driver.create_sq(id, 8, 7);
    }
    let mut expected = Vec::new();
    for round in 0..3u64 {
        for id in [3, 1, 9] {
            let data = driver.alloc(512);
            let cmd = Cmd::new(0x02, 1).data(data.prp1, 0).blocks(round, 1);
            expected.push((id, driver.submit(id, cmd)));
        }
    }
    [3, 1, 9].into_iter().for_each(|id| driver.ring(id));
    setup.machine.run();
    let mut got = Vec::new();
    while let Some(cqe) = driver.take(7) {
        assert_eq!(cqe.status, 0);
        got.push((cqe.sq, cqe.cid));
    }
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    // One goes; the others stay.
    assert_eq!(driver.admin(Cmd::new(0x00, 0).dw(10, 1)).status, 0);
    let data = driver.alloc(512);
    driver.submit(3, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.ring(3);
    setup.machine.run();
    assert_eq!(driver.take(7).unwrap().sq, 3);
}

#[test]
fn all_64_pairs_work_on_two_iothreads() {
    let setup = {
        let machine = spindle_devices::testkit::Machine::new(5);
        let (root, file) = machine.add_root("disk", 1 << 20);
        let handles = machine.iothreads.iter().map(|cx| cx.handle()).collect();
        let disk = machine.add_nvme("nvme0", &[std::sync::Arc::clone(&root)], |config| {
            config.iothreads = handles;
            config.max_ioqpairs = 64;
        });
        machine.assign();
        super::Setup { machine: std::rc::Rc::new(machine), disk, root, file }
    };
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 64, 4);
    for id in 1..=64u16 {
        let data = driver.alloc(512);
        setup.machine.memory.write(data.at, &pattern(id as u8, 512));
        driver.submit(id, Cmd::new(0x01, 1).data(data.prp1, 0).blocks(id.into(), 1));
        driver.ring(id);
    }
    setup.machine.run();
    for id in 1..=64 {
        assert_eq!(driver.take(id).unwrap().status, 0, "queue {id}");
    }
    for id in 1..=64u16 {
        let (_, data) = driver.read(65 - id, 1, id.into(), 1, 512);
        assert_eq!(data, pattern(id as u8, 512));
    }
}

#[test]
fn the_largest_queues_wrap_around() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 1, 4096);
    let data = driver.alloc(512);
    for _ in 0..3 {
        for _ in 0..3000 {
            driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
        }
        driver.ring(1);
        setup.machine.run();
        for n in 0..3000 {
            let cqe = driver.look(1).unwrap_or_else(|| panic!("completion {n}"));
            assert_eq!(cqe.status, 0);
        }
        driver.consumed(1);
    }
}

#[test]
fn a_command_is_taken_only_with_a_place_to_answer_it() {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 0, 8);
    driver.create_cq(1, 4, 1);
    driver.create_sq(1, 64, 1);
    let data = driver.alloc(512);
    for _ in 0..20 {
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    }
    driver.ring(1);
    let mut done = 0;
    while done < 20 {
        setup.machine.run();
        let mut seen = 0;
        while let Some(cqe) = driver.look(1) {
            assert_eq!((cqe.status, cqe.cid), (0, cqe.cid));
            seen += 1;
        }
        assert!((1..=3).contains(&seen), "{seen} completions in a queue of four");
        done += seen;
        driver.consumed(1);
    }
    assert_eq!(done, 20);
}

#[test]
fn deleting_a_queue_waits_for_what_is_in_flight() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let machine = &setup.machine;
    for lba in 0..5 {
        let data = driver.alloc(512);
        driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(lba, 1));
    }
    driver.ring(1);
    machine.turn();
    assert!(machine.world.in_flight() > 0);
    driver.submit(0, Cmd::new(0x00, 0).dw(10, 1));
    driver.ring(0);
    machine.turn();
    assert!(driver.take(0).is_none(), "deleted with commands in flight");
    machine.run();
    assert_eq!(driver.take(0).unwrap().status, 0);
    let mut answered = 0;
    while driver.take(1).is_some() {
        answered += 1;
    }
    assert_eq!(answered, 5);
    driver.ring_with(1, 3);
    machine.run();
    assert!(driver.take(1).is_none());
}
