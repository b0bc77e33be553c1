//! Compare and write as one (base 3.4.2).

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::{driver, pattern, seeded};

const FIELD: u16 = 0x02;
const FAILED: u16 = 0x09;
const MISSING: u16 = 0x0a;
const COMPARE: u16 = 0x285;

fn put(driver: &mut NvmeDriver, sq: u16, cmd: Cmd, bytes: &[u8]) -> u16 {
    let data = driver.alloc(bytes.len());
    driver.machine.memory.write(data.at, bytes);
    driver.submit(sq, cmd.data(data.prp1, data.prp2))
}

/// Both commands; the statuses of the first and the second.
fn swap(driver: &mut NvmeDriver, lba: u64, old: &[u8], new: &[u8]) -> (u16, u16) {
    let blocks = (old.len() / 512) as u32;
    let a = put(driver, 1, Cmd::new(0x05, 1).flags(1).blocks(lba, blocks), old);
    let b = put(driver, 1, Cmd::new(0x01, 1).flags(2).blocks(lba, blocks), new);
    driver.ring(1);
    driver.machine.run();
    let (first, second) = (driver.take(1).unwrap(), driver.take(1).unwrap());
    assert_eq!((first.cid, second.cid), (a, b));
    (first.status, second.status)
}

#[test]
fn the_write_happens_only_if_the_compare_does_not_fail() {
    let (mut driver, _) = driver(1 << 20, |_| ());
    let (old, new) = (pattern(1, 8192), pattern(2, 8192));
    assert_eq!(driver.write(1, 1, 4, 16, &old).status, 0);
    assert_eq!(swap(&mut driver, 4, &new, &new), (COMPARE, FAILED));
    assert_eq!(driver.read(1, 1, 4, 16, 8192).1, old);
    assert_eq!(swap(&mut driver, 4, &old, &new), (0, 0));
    assert_eq!(driver.read(1, 1, 4, 16, 8192).1, new);
    assert_eq!(swap(&mut driver, 4, &old, &old), (COMPARE, FAILED));
    assert_eq!(swap(&mut driver, 2040, &old, &new), (0x80, 0x80), "beyond the end");
}

#[test]
fn halves_are_refused() {
    let (mut driver, setup) = driver(1 << 20, |_| ());
    let data = [0; 512];
    let mut run = |cmds: &[Cmd]| -> Vec<u16> {
        for cmd in cmds {
            put(&mut driver, 1, *cmd, &data);
        }
        driver.ring(1);
        setup.machine.run();
        let all: Vec<_> = std::iter::from_fn(|| driver.take(1)).collect();
        assert!(all.is_sorted_by_key(|cqe| cqe.cid));
        all.iter().map(|cqe| cqe.status).collect()
    };
    let first = Cmd::new(0x05, 1).flags(1).blocks(0, 1);
    let second = Cmd::new(0x01, 1).flags(2).blocks(0, 1);
    let alone = Cmd::new(0x0c, 1).blocks(0, 1);
    assert_eq!(run(&[first]), [MISSING]);
    assert_eq!(run(&[second]), [MISSING]);
    assert_eq!(run(&[first, alone]), [MISSING, 0]);
    assert_eq!(run(&[first, first]), [MISSING, MISSING]);
    assert_eq!(
        run(&[first, Cmd::new(0x01, 1).flags(2).blocks(1, 1)]),
        [FIELD, FIELD],
        "another block"
    );
    assert_eq!(run(&[first, Cmd::new(0x02, 1).flags(2).blocks(0, 1)]), [FIELD, FIELD], "a read");
    assert_eq!(run(&[Cmd::new(0x01, 1).flags(1).blocks(0, 1), second]), [FIELD, FIELD]);
    assert_eq!(run(&[first, second]), [0, 0]);
}

#[test]
fn many_hosts_count_together_without_losing_one() {
    for seed in 0..10 {
        let setup = seeded(seed, 1 << 20, |_| ());
        let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 4, 16);
        let mut counted = 0u64;
        let mut seen = [0u64; 5];
        let number = |n: u64| {
            let mut block = [0; 512];
            block[..8].copy_from_slice(&n.to_le_bytes());
            block
        };
        while counted < 30 {
            for id in 1..=4u16 {
                let n = seen[usize::from(id)];
                put(&mut driver, id, Cmd::new(0x05, 1).flags(1).blocks(9, 1), &number(n));
                put(&mut driver, id, Cmd::new(0x01, 1).flags(2).blocks(9, 1), &number(n + 1));
                driver.ring(id);
            }
            setup.machine.run();
            for id in 1..=4u16 {
                let (a, b) = (driver.take(id).unwrap(), driver.take(id).unwrap());
                if a.status == 0 {
                    assert_eq!(b.status, 0);
                    counted += 1;
                } else {
                    assert_eq!((a.status, b.status), (COMPARE, FAILED));
                }
            }
            let (_, block) = driver.read(1, 1, 9, 1, 512);
            let now = super::number(&block, 0, 8);
            assert_eq!(now, counted, "seed {seed}");
            seen = [now; 5];
        }
    }
}

#[test]
fn a_pair_waits_for_two_places_in_the_completion_queue() {
    let setup = super::machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 0, 8);
    driver.create_cq(1, 3, 1);
    driver.create_sq(1, 16, 1);
    let data = driver.alloc(512);
    driver.submit(1, Cmd::new(0x02, 1).data(data.prp1, 0).blocks(0, 1));
    driver.submit(1, Cmd::new(0x05, 1).flags(1).data(data.prp1, 0).blocks(0, 1));
    driver.submit(1, Cmd::new(0x01, 1).flags(2).data(data.prp1, 0).blocks(0, 1));
    driver.ring(1);
    setup.machine.run();
    assert_eq!(driver.look(1).unwrap().status, 0);
    assert!(driver.look(1).is_none(), "one place is left, and it needs two");
    driver.consumed(1);
    setup.machine.run();
    assert_eq!((driver.take(1).unwrap().status, driver.take(1).unwrap().status), (0, 0));
    // Where there will never be two places it is refused, not waited for.
    driver.create_cq(2, 2, 2);
    driver.create_sq(2, 16, 2);
    driver.submit(2, Cmd::new(0x05, 1).flags(1).data(data.prp1, 0).blocks(0, 1));
    driver.submit(2, Cmd::new(0x01, 1).flags(2).data(data.prp1, 0).blocks(0, 1));
    driver.ring(2);
    setup.machine.run();
    assert_eq!(driver.take(2).unwrap().status, MISSING);
}

#[test]
fn nothing_else_of_the_namespace_is_under_way_meanwhile() {
    for seed in 0..10 {
        let setup = seeded(seed, 1 << 20, |_| ());
        let mut driver = NvmeDriver::new(&setup.machine, setup.disk.at, 2, 16);
        for lba in 0..6 {
            put(&mut driver, 2, Cmd::new(0x01, 1).blocks(lba, 1), &[5; 512]);
        }
        driver.ring(2);
        setup.machine.turn();
        put(&mut driver, 1, Cmd::new(0x05, 1).flags(1).blocks(3, 1), &[5; 512]);
        put(&mut driver, 1, Cmd::new(0x01, 1).flags(2).blocks(3, 1), &[6; 512]);
        driver.ring(1);
        setup.machine.turn();
        // These wait for the pair.
        for lba in 0..6 {
            put(&mut driver, 2, Cmd::new(0x02, 1).blocks(lba, 1), &[0; 512]);
        }
        driver.ring(2);
        setup.machine.run();
        assert_eq!((driver.take(1).unwrap().status, driver.take(1).unwrap().status), (0, 0));
        assert_eq!(std::iter::from_fn(|| driver.take(2)).filter(|c| c.status == 0).count(), 12);
        assert_eq!(driver.read(1, 1, 3, 1, 512).1, [6; 512], "seed {seed}");
    }
}
