//! Random hosts: some behave, and what they read is what they wrote; some do not, and nothing falls
//! over.

use std::rc::Rc;

use spindle_devices::{
    Device,
    testkit::driver::nvme::{Cmd, NvmeDriver},
};

use super::seeded;

const BLOCKS: usize = 256;

/// A host that writes, zeroes, copies and compares on several queues, beside resets and pauses.
fn well_behaved(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let setup = seeded(seed, (BLOCKS * 512) as u64, |_| ());
    let machine = Rc::clone(&setup.machine);
    let function = setup.disk.device.function();
    let mut model = vec![0u8; BLOCKS * 512];
    let mut driver = NvmeDriver::new(&machine, setup.disk.at, 3, 8);
    if random.bool() {
        driver.use_shadows();
    }
    for _ in 0..60 {
        let id = random.u16(1..=3);
        let lba = random.usize(0..BLOCKS);
        let count = random.usize(1..=(BLOCKS - lba).min(16));
        let range = lba * 512..(lba + count) * 512;
        let (at, n) = (lba as u64, count as u32);
        match random.u8(0..12) {
            0..4 => {
                let data: Vec<u8> = (0..range.len()).map(|_| random.u8(..)).collect();
                assert_eq!(driver.write(id, 1, at, n, &data).status, 0, "seed {seed}");
                model[range].copy_from_slice(&data);
            }
            4..7 => {
                let (cqe, data) = driver.read(id, 1, at, n, range.len());
                assert!(cqe.status == 0 && data == model[range], "seed {seed}");
            }
            7 => {
                assert_eq!(driver.run(id, Cmd::new(0x08, 1).blocks(at, n)).status, 0);
                model[range].fill(0);
            }
            8 => {
                let mut data = model[range].to_vec();
                let same = random.bool();
                data[0] ^= u8::from(!same);
                let status = driver.send(id, Cmd::new(0x05, 1).blocks(at, n), &data).status;
                assert_eq!(status, if same { 0 } else { 0x285 }, "seed {seed}");
            }
            9 => {
                let to = random.usize(0..=BLOCKS - count);
                let mut source = vec![0; 32];
                source[8..16].copy_from_slice(&at.to_le_bytes());
                source[16] = n as u8 - 1;
                // Where they overlap the result is not defined.
                if to + count <= lba || lba + count <= to {
                    let cmd = Cmd::new(0x19, 1).dw(10, to as u32);
                    assert_eq!(driver.send(id, cmd, &source).status, 0, "seed {seed}");
                    model.copy_within(range, to * 512);
                }
            }
            10 => {
                machine.finish(|done| function.pause(done));
                function.resume();
            }
            _ => {
                driver.disable();
                driver.enable(8);
                (1..=3).for_each(|id| driver.create_pair(id, 8));
            }
        }
    }
    assert!(machine.world.contents(&setup.file).to_vec() == model, "seed {seed}");
}

/// A host that writes anything anywhere: commands, doorbells, registers.
fn wild(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let setup = seeded(seed, (BLOCKS * 512) as u64, |_| ());
    let machine = Rc::clone(&setup.machine);
    let mut driver = NvmeDriver::new(&machine, setup.disk.at, 2, 8);
    for _ in 0..80 {
        match random.u8(0..10) {
            0..6 => {
                let id = random.u16(0..=2);
                if driver.sqs.iter().all(|sq| sq.id != id) {
                    continue;
                }
                let mut cmd = Cmd([0; 16].map(|_: u32| random.u32(..)));
                // Likely opcodes, namespaces and addresses.
                if random.u8(..) > 20 {
                    cmd.0[0] = random.u32(0..0x20) | u32::from(random.bool()) << 8;
                    cmd.0[1] = random.u32(0..3);
                }
                if random.bool() {
                    let at = machine.memory.alloc(4096, 4096);
                    cmd = cmd.data(at, random.u64(0..1 << 24) & !0xfff);
                    cmd.0[10] &= 0x1_00ff;
                    cmd.0[11] &= 0x1_0007;
                    cmd.0[12] &= 0xf;
                }
                driver.submit(id, cmd);
                driver.ring(id);
            }
            6 => {
                let at = 0x1000 + random.u64(0..8) * 4;
                driver.set(at, 4, random.u64(0..20));
            }
            7 if random.u8(..) < 40 => {
                let at = random.u64(0..0x80);
                driver.set(at, [1, 2, 4, 8][random.usize(..4)], random.u64(..));
            }
            8 => drop(machine.world.step()),
            _ => machine.turn(),
        }
    }
    machine.run();
    // Whatever it did: a function reset brings everything back.
    machine.reset(setup.disk.at);
    machine.assign();
    let mut driver = NvmeDriver::new(&machine, setup.disk.at, 1, 8);
    machine.run();
    let (cqe, _) = driver.identify(1, 0, 0, 0);
    assert_eq!(cqe.status, 0, "seed {seed}");
}

#[test]
fn random_hosts() {
    for seed in 0..12 {
        well_behaved(seed);
        wild(seed);
    }
    let fresh = fastrand::u64(..);
    println!("fresh seed {fresh}");
    well_behaved(fresh);
    wild(fresh);
}
