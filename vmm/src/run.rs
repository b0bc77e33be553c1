//! `spindle run`: one machine, from its description to the exit status.

use crate::{console, machine, spec::MachineSpec};

/// Exit status after a panic of any thread, as Rust programs have it.
const EXIT_PANIC: i32 = 101;

/// Runs the machine that `spec` describes; returns the process's exit status.
///
/// # Errors
/// When the machine cannot be made: one sentence for the user, with its causes.
pub fn run(spec: &MachineSpec) -> Result<u8, machine::BuildError> {
    end_on_panic();
    machine::run(spec)
}

/// A panic in any thread ends the process: a machine with a thread less would hang, or worse. What
/// was flushed is on the disk, as after a power cut.
fn end_on_panic() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        console::restore();
        earlier(panic);
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(EXIT_PANIC) };
    }));
}
