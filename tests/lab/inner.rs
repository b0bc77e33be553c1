//! Runs cases where the KVM is: in the lab, or on the host itself.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use spindle_block::error::with_causes;
use spindle_tests::lab::guest::{GuestError, Vmm};
use spindle_tests::lab::{RAM_DISK, inside, source_root};

use crate::cases::{Case, Context};

/// How often a case may lose its guest in the lab, where that can be the lab's own fault.
const ATTEMPTS: u32 = 3;

/// Runs the cases and prints one line for each: `case NAME passed|failed SECONDS`, then
/// `boots N flakes N`.
pub fn run(cases: &[Case]) -> ExitCode {
    let vmm = match std::env::var("SPINDLE_TEST_VMM").as_deref() {
        Ok("qemu") => Vmm::Qemu,
        _ => Vmm::spindle(),
    };
    let mut tally = Tally::default();
    for case in cases {
        let started = Instant::now();
        let passed = attempt(case, &vmm, &mut tally);
        let word = if passed { "passed" } else { "failed" };
        println!("case {} {word} {:.1}", case.name, started.elapsed().as_secs_f64());
    }
    println!("boots {} flakes {}", tally.boots, tally.flakes);
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Tally {
    boots: u32,
    flakes: u32,
}

fn attempt(case: &Case, vmm: &Vmm, tally: &mut Tally) -> bool {
    for attempt in 1..=ATTEMPTS {
        let base = disk();
        let context = Context {
            work: base.join(format!("{}-{}-{attempt}", case.name, std::process::id())),
            vmm: vmm.clone(),
            boots: Cell::new(0),
        };
        if let Err(error) = fs::create_dir_all(&context.work) {
            println!("{}: create {}: {error}", case.name, context.work.display());
            return false;
        }
        let result = (case.run)(&context);
        let _ = fs::remove_dir_all(&context.work);
        tally.boots += context.boots.get();
        match result {
            Ok(()) => return true,
            Err(error @ GuestError::Lost { .. }) if inside() && attempt < ATTEMPTS => {
                tally.flakes += 1;
                println!("lab-flake: {}, attempt {attempt}: {error}", case.name);
            }
            Err(error) => {
                println!("{}: {}", case.name, with_causes(&error));
                return false;
            }
        }
    }
    false
}

/// Where images under test live.
fn disk() -> PathBuf {
    if inside() { PathBuf::from(RAM_DISK) } else { source_root().join("build/lab") }
}
