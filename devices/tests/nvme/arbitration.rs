//! Arbitration between submission queues: round robin, and weighted with urgent ones (base 3.4.4).

use spindle_devices::testkit::driver::nvme::{Cmd, NvmeDriver};

use super::machine;

/// Submission queues with these priorities over one completion queue, each with 12 commands that
/// are answered on the spot; the order in which they are.
fn order(cc: u64, arbitration: u32, priorities: &[u32]) -> Vec<u16> {
    let setup = machine(1 << 20, |_| ());
    let mut driver = NvmeDriver::probe(&setup.machine, setup.disk.at);
    driver.enable_msix();
    driver.place_admin(32);
    driver.set(0x14, 4, 0x0046_0001 | cc);
    setup.machine.turn();
    assert_eq!(driver.status(), 1);
    driver.create_cq(1, 128, 1);
    let set = Cmd::new(0x09, 0).dw(10, 1).dw(11, arbitration);
    assert_eq!(driver.admin(set).status, 0);
    for (i, priority) in priorities.iter().enumerate() {
        let sq = driver.new_sq(i as u16 + 1, 16);
        let create = NvmeDriver::create_sq_cmd(&sq, 1).dw(11, 1 << 16 | priority << 1 | 1);
        assert_eq!(driver.admin(create).status, 0);
        driver.sqs.push(sq);
    }
    for id in 1..=priorities.len() as u16 {
        for _ in 0..12 {
            driver.submit(id, Cmd::new(0x02, 99));
        }
        driver.ring(id);
    }
    setup.machine.run();
    let order: Vec<_> = std::iter::from_fn(|| driver.take(1)).map(|cqe| cqe.sq).collect();
    assert_eq!(order.len(), priorities.len() * 12);
    order
}

#[test]
fn round_robin_by_bursts() {
    let ones = order(0, 0, &[0, 0, 0]);
    assert!(ones.chunks(3).all(|three| three == [2, 3, 1]), "{ones:?}");
    let fours = order(0, 2, &[0, 0, 0]);
    assert_eq!(fours[..12], [2, 2, 2, 2, 3, 3, 3, 3, 1, 1, 1, 1]);
    let unlimited = order(0, 7, &[0, 0]);
    assert_eq!(unlimited[..12], [2; 12]);
}

#[test]
fn weighted_classes_share_and_urgent_ones_go_first() {
    // High 6, medium 3, low 1.
    let order = order(1 << 11, 5 << 24 | 2 << 16, &[3, 2, 1, 0]);
    assert_eq!(order[..12], [4; 12], "urgent");
    let round = [3, 3, 3, 3, 3, 3, 2, 2, 2, 1];
    assert_eq!(order[12..22], round);
    assert_eq!(order[22..32], round);
}
