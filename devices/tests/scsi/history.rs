//! Random histories of everything that reads and changes a disk, against a model of it.

use super::setup::{pattern, setup, sixteen, ten, twelve};

const BLOCKS: u64 = 512;

/// What a disk holds, and what each command makes of it.
struct Model(Vec<u8>);

impl Model {
    fn blocks(&mut self, lba: u64, blocks: u64) -> &mut [u8] {
        &mut self.0[lba as usize * 512..(lba + blocks) as usize * 512]
    }
}

#[test]
fn every_command_does_what_the_model_does() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let mut t = setup(BLOCKS * 512, |_| ());
        let mut model = Model(vec![0; (BLOCKS * 512) as usize]);
        for step in 0..150u32 {
            let lba = random.u64(..BLOCKS);
            let blocks = random.u64(1..=(BLOCKS - lba).min(12));
            let (lba32, count) = (lba as u32, blocks as u16);
            let data = pattern(random.u8(..), blocks as usize * 512);
            let what = random.u8(..10);
            let len = blocks as u32 * 512;
            let reply = match what {
                0 => t.driver.command(&ten(0x2a, random.u8(..2) << 3, lba32, count), &data, 0),
                1 => t.driver.command(&sixteen(0x8a, 0, lba, blocks as u32), &data, 0),
                2 => t.driver.command(&twelve(0xae, 2, lba32, blocks as u32), &data, 0),
                3 => {
                    let unmap = random.u8(..2) << 3;
                    let cdb = sixteen(0x93, unmap, lba, blocks as u32);
                    t.driver.command(&cdb, &data[..512], 0)
                }
                4 => t.driver.command(&sixteen(0x93, 9, lba, blocks as u32), &[], 0),
                5 => {
                    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                    list.extend(lba.to_be_bytes());
                    list.extend((blocks as u32).to_be_bytes());
                    list.extend([0; 4]);
                    t.driver.command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)
                }
                6 => {
                    let mut old = model.blocks(lba, blocks).to_vec();
                    let differs = random.bool();
                    if differs {
                        let at = random.usize(..old.len());
                        old[at] ^= 1 << random.u8(..8);
                    }
                    let mut cdb = sixteen(0x89, 0, lba, 0);
                    cdb[13] = blocks as u8;
                    let reply = t.driver.command(&cdb, &[&old[..], &data].concat(), 0);
                    assert_eq!(reply.key().0 == 0xe, differs, "seed {seed}, step {step}");
                    if differs {
                        continue;
                    }
                    reply
                }
                7 => {
                    let same = model.blocks(lba, blocks).to_vec();
                    t.driver.command(&ten(0x2f, 2, lba32, count), &same, 0)
                }
                8 => t.driver.command(&ten(0x35, 0, 0, 0), &[], 0),
                _ => t.driver.command(&ten(0x28, 0, lba32, count), &[], len),
            };
            assert!(reply.is_good(), "seed {seed}, step {step}: {what}: {:x?}", reply.sense);
            match what {
                0..=2 | 6 => model.blocks(lba, blocks).copy_from_slice(&data),
                3 => {
                    let block = &data[..512];
                    model
                        .blocks(lba, blocks)
                        .chunks_mut(512)
                        .for_each(|b| b.copy_from_slice(block));
                }
                4 | 5 => model.blocks(lba, blocks).fill(0),
                7 => {}
                8 => {
                    let durable = t.machine.world.durable(&t.file).to_vec();
                    assert!(durable == model.0, "seed {seed}, step {step}: a flush");
                }
                _ => {
                    let same = reply.data == model.blocks(lba, blocks);
                    assert!(same, "seed {seed}, step {step}: a read");
                }
            }
        }
        assert!(t.machine.world.contents(&t.file).to_vec() == model.0, "seed {seed}");
    }
}
