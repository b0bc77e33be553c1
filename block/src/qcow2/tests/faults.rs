//! Files that fail: an error reaches whoever asked, the image stays sound, and what failed is made
//! good when the file works again.

use std::sync::Arc;

use crate::{
    BlockError, Cx, Node, Op,
    nodes::{
        file::FileNode,
        testing::{bare, read, write},
    },
    qcow2::{
        Options,
        check::{Repair, check},
        create::{CreateOptions, create},
        open,
    },
    ring::sim::{Fault, FaultAction, FaultOp, World},
};

const SIZE: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// What each sector may hold: a failed write leaves the old or the new.
struct Model(Vec<Vec<u8>>);

impl Model {
    fn done(&mut self, at: u64, len: u64, value: u8) {
        for sector in at / SECTOR..(at + len) / SECTOR {
            self.0[sector as usize] = vec![value];
        }
    }

    fn failed(&mut self, at: u64, len: u64, value: u8) {
        for sector in at / SECTOR..(at + len) / SECTOR {
            self.0[sector as usize].push(value);
        }
    }

    fn check(&self, bytes: &[u8]) {
        for (sector, bytes) in bytes.chunks(SECTOR as usize).enumerate() {
            let value = bytes[0];
            assert!(bytes.iter().all(|b| *b == value), "sector {sector} is mixed");
            assert!(self.0[sector].contains(&value), "sector {sector} is {value:#x}");
        }
    }
}

/// One random request. Returns whether the file refused something.
async fn request(
    cx: &Cx,
    node: &Arc<dyn Node>,
    rng: &mut fastrand::Rng,
    model: &mut Model,
) -> bool {
    let at = rng.u64(0..SIZE / SECTOR - 64) * SECTOR;
    let len = rng.u64(1..64) * SECTOR;
    let (value, result) = match rng.u8(0..8) {
        0 => (0, bare(cx, node, Op::WriteZeroes { unmap: rng.bool(), fua: false }, at, len).await),
        1 => return bare(cx, node, Op::Flush, 0, 0).await.is_err(),
        2 => {
            // Discarded data may stay or read as zeros.
            let result = bare(cx, node, Op::Discard, at, len).await;
            model.failed(at, len, 0);
            return result.is_err();
        }
        _ => {
            let value = rng.u8(1..);
            (value, write(cx, node, at, &vec![value; len as usize]).await)
        }
    };
    match result {
        Ok(()) => model.done(at, len, value),
        Err(error) => {
            assert_ne!(error, BlockError::Corrupt, "a failing file is no damaged image");
            model.failed(at, len, value);
        }
    }
    result.is_err()
}

fn run(seed: u64, options: CreateOptions, align: u32) -> u32 {
    let world = World::new(seed);
    let file = world.create_file("image", &[], 0);
    let cx = world.iothread("faults").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(file, 0, align, false);
    let faults = world.clone();
    cx.block_on({
        let cx = Cx::clone(&cx);
        async move {
            create(&cx, &node, &options).await.expect("create");
            let small = Options { cache_bytes: Some(0), ..Options::default() };
            let image = open(&cx, Arc::clone(&node), None, small).await.expect("open");
            let disk: Arc<dyn Node> = image;
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut model = Model(vec![vec![0]; (SIZE / SECTOR) as usize]);
            let mut refused = 0;
            for _ in 0..12 {
                let op =
                    [FaultOp::Write, FaultOp::Sync, FaultOp::Zero, FaultOp::Length, FaultOp::Any]
                        [rng.usize(0..5)];
                let error = [BlockError::NoSpace, BlockError::Medium][rng.usize(0..2)];
                let action = match rng.bool() {
                    true => FaultAction::Fail(error),
                    false => FaultAction::FailAfterPart(error),
                };
                let mut fault = Fault::new(op, action);
                (fault.skip, fault.count) = (rng.u32(0..40), rng.u32(1..20));
                let number = faults.add_fault(fault);
                for _ in 0..25 {
                    refused += u32::from(request(&cx, &disk, &mut rng, &mut model).await);
                }
                faults.remove_fault(number);
                bare(&cx, &disk, Op::Flush, 0, 0).await.expect("the file works again");
                model.check(&read(&cx, &disk, 0, SIZE as usize).await.expect("read"));
            }
            Arc::clone(&disk).close(Cx::clone(&cx)).await.expect("close");
            let report = check(&cx, &node, Repair::None).await.expect("check");
            assert_eq!(report.corruptions, 0, "{report:?}");
            let image = open(&cx, node, None, Options::default()).await.expect("open again");
            let disk: Arc<dyn Node> = image;
            model.check(&read(&cx, &disk, 0, SIZE as usize).await.expect("read"));
            refused
        }
    })
}

#[test]
fn errors_of_the_file_never_damage_the_image() {
    let mut refused = 0;
    for round in 0..40 {
        let seed = if round < 20 { round } else { fastrand::u64(..) };
        println!("seed {seed:#x}");
        let cluster_size = [512, 4096, 65536][round as usize % 3];
        let lazy_refcounts = seed % 5 == 0;
        let options = CreateOptions { cluster_size, lazy_refcounts, ..CreateOptions::new(SIZE) };
        refused += run(seed, options, [1, 512, 4096][round as usize / 3 % 3]);
    }
    assert!(refused > 200, "only {refused} requests failed: nothing was tested");
}
