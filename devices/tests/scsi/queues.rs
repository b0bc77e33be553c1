//! Many queues, many iothreads, one interrupt a pass, and the order of what the driver sees.

use std::{rc::Rc, sync::Arc};

use spindle_devices::testkit::{Machine, driver::ScsiDriver};

use super::setup::{ALL, pattern, settle, setup, ten};

#[test]
fn many_commands_on_many_queues_and_units_each_get_their_own_answer() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let machine = Machine::new(seed);
    let handles = machine.iothreads.iter().map(|cx| cx.handle()).cycle().take(4).collect();
    let adapter = machine.add_scsi("hba0", |config| config.iothreads = handles);
    for lun in 0..3 {
        let (unit, _) = machine.scsi_disk(&format!("disk{lun}"), 1 << 20, |_| ());
        adapter.device.add_lun(0, lun, unit).unwrap();
    }
    machine.assign();
    let machine = Rc::new(machine);
    let mut driver = ScsiDriver::new(&machine, adapter.at, ALL, 4, 32);
    for lun in 0..3 {
        settle(&mut driver, 0, lun);
        for queue in 0..4u32 {
            let place = ScsiDriver::lun(0, lun);
            for block in 0..8 {
                let lba = queue * 64 + block;
                let data = pattern((lun as u32 * 97 + lba) as u8, 512);
                assert!(driver.send(place, &ten(0x2a, 0, lba, 1), &data, 0).is_good());
            }
        }
    }
    for _ in 0..30 {
        let mut tickets = Vec::new();
        for queue in 0..4usize {
            for _ in 0..random.usize(..8) {
                let lun = random.u16(..3);
                let lba = random.u32(..4) * 64 + random.u32(..8);
                driver.indirect = random.bool();
                let cdb = ten(0x28, 0, lba, 1);
                let ticket = driver.offer(queue, ScsiDriver::lun(0, lun), &cdb, &[], 512);
                tickets.push((queue, ticket, pattern((u32::from(lun) * 97 + lba) as u8, 512)));
            }
            driver.rings[queue].notify();
        }
        machine.run();
        let mut heads = vec![Vec::new(); 4];
        for (queue, heads) in heads.iter_mut().enumerate() {
            while let Some((head, written)) = driver.rings[queue].take() {
                heads.push((head, written));
            }
        }
        for (queue, ticket, data) in tickets {
            let place = heads[queue].iter().position(|(head, _)| *head == ticket.head).unwrap();
            let (_, written) = heads[queue].remove(place);
            let reply = driver.look(&ticket, written);
            assert!(reply.is_good() && reply.data == data, "seed {seed}");
        }
        assert!(heads.iter().all(Vec::is_empty), "answers that nobody asked for");
    }
}

#[test]
fn completions_of_one_pass_raise_one_interrupt() {
    let mut t = setup(1 << 20, |_| ());
    t.driver.function.enable_msix();
    t.driver.function.use_vectors(0, 2, 3);
    let used = t.driver.rings[0].used_idx;
    t.driver.rings[0].set_used_event(used);
    let lun = ScsiDriver::lun(0, 0);
    let tickets: Vec<_> =
        (0..8).map(|_| t.driver.offer(0, lun, &[0x12, 0, 0, 0, 36, 0], &[], 36)).collect();
    let before = t.machine.irqs.take().len();
    t.driver.rings[0].notify();
    t.machine.run();
    let raised = t.machine.irqs.take();
    assert_eq!(raised.len(), 1, "after {before}: {raised:?}");
    for ticket in &tickets {
        assert!(t.driver.reply(0, ticket).unwrap().is_good());
    }
}

#[test]
fn what_was_sent_before_a_unit_left_is_answered_by_it() {
    let mut t = setup(1 << 20, |_| ());
    let (unit, _) = t.machine.scsi_disk("disk1", 1 << 20, |_| ());
    for round in 0..20u32 {
        t.adapter.device.add_lun(1, 0, Arc::clone(&unit)).unwrap();
        settle(&mut t.driver, 1, 0);
        settle(&mut t.driver, 0, 0);
        let place = ScsiDriver::lun(1, 0);
        let ticket = t.driver.offer(0, place, &ten(0x2a, 0, round, 1), &[1; 512], 0);
        t.driver.rings[0].notify();
        t.machine.turn();
        t.adapter.device.remove_lun(1, 0, Box::new(|| ())).unwrap();
        t.machine.run();
        assert!(t.driver.reply(0, &ticket).unwrap().is_good());
        while t.driver.event().is_some() {
            t.driver.offer_event_buffer();
        }
    }
}
