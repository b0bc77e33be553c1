//! The thread of one virtual CPU.

use std::sync::Arc;

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT,
};
use kvm_ioctls::VcpuFd;

use super::{
    CpuParts, ExitKind, access,
    control::{Control, Order, Seat},
};
use crate::{
    bus::BusView,
    kvm::{coalesced::CoalescedRing, state::CpuReset},
    machine::{Letter, Mailbox},
};

/// How often a CPU is entered to complete one instruction. KVM itself stops a string instruction
/// after 1024 elements.
const COMPLETIONS_MAX: u32 = 4096;

/// What an entry into the guest came to.
enum Left {
    /// Go on.
    Ready,
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// It cannot be entered again before a reset.
    Stuck,
}

pub(super) struct Cpu {
    index: usize,
    fd: VcpuFd,
    reset: CpuReset,
    bus: BusView,
    ring: Option<Arc<CoalescedRing>>,
    run_size: usize,
    control: Arc<Control>,
    mailbox: Arc<Mailbox>,
    stuck: bool,
}

impl Cpu {
    pub(super) fn new(
        index: usize,
        parts: CpuParts,
        control: Arc<Control>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let CpuParts { fd, reset, bus, ring, run_size } = parts;
        Self { index, fd, reset, bus, ring, run_size, control, mailbox, stuck: false }
    }

    pub(super) fn run(mut self) {
        let control = Arc::clone(&self.control);
        let seat = &control.seats[self.index];
        seat.kick.enter(&mut self.fd);
        loop {
            if seat.kick.is_wanted() || self.stuck {
                self.complete_access(seat);
                // A device that was unplugged is not held by what this CPU saw last.
                self.bus.refresh();
                if !self.obey() {
                    break;
                }
            }
            match self.enter(seat) {
                Left::Ready | Left::Interrupted => {}
                Left::Stuck => self.stuck = true,
            }
        }
        seat.kick.leave();
    }

    /// Parks, and does what it is told until it may run. `false`: the thread is to end.
    fn obey(&mut self) -> bool {
        loop {
            match self.control.park(self.index, self.stuck) {
                Order::Run => {
                    // The guest must not take the pause for a CPU that hangs; it has no clock to
                    // tell before it set one up, and then this fails.
                    let _ = self.fd.kvmclock_ctrl();
                    return true;
                }
                Order::Stop => return false,
                Order::Restart(entry) => {
                    let result = self.reset.restart(&self.fd, &entry);
                    self.stuck = result.is_err();
                    self.control.restarted(self.index, result);
                }
            }
        }
    }

    /// Lets an instruction that is waiting for its data complete, and no further one begin.
    fn complete_access(&mut self, seat: &Seat) {
        seat.kick.only_complete();
        for _ in 0..COMPLETIONS_MAX {
            if self.stuck {
                return;
            }
            match self.enter(seat) {
                Left::Ready => {}
                Left::Interrupted => return,
                Left::Stuck => self.stuck = true,
            }
        }
    }

    /// Enters the guest once, and deals with why it was left.
    fn enter(&mut self, seat: &Seat) -> Left {
        let result = self.fd.run().map(drop);
        if let Some(ring) = &self.ring {
            let bus = &mut self.bus;
            let count =
                ring.drain(|w| bus.write(w.space, w.address, &w.data[..usize::from(w.width)]));
            if count > 0 {
                seat.exits.collected(count);
            }
        }
        if let Err(e) = result {
            return match e.errno() {
                libc::EINTR | libc::EAGAIN => {
                    seat.exits.count(ExitKind::Interrupted);
                    Left::Interrupted
                }
                _ => self.fail(format!("KVM_RUN failed: {e}")),
            };
        }
        let run = self.fd.get_kvm_run();
        if let Some(kind) = access::perform(run, self.run_size, &mut self.bus) {
            seat.exits.count(kind);
            return Left::Ready;
        }
        seat.exits.count(ExitKind::Other);
        self.other_exit()
    }

    fn other_exit(&mut self) -> Left {
        let run = self.fd.get_kvm_run();
        match run.exit_reason {
            KVM_EXIT_SHUTDOWN => {
                log::debug!("virtual CPU {}: triple fault", self.index);
                self.mailbox.post(Letter::TripleFault);
                Left::Stuck
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: the exit reason says which arm of the union was filled in.
                let reason =
                    unsafe { run.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason };
                self.fail(format!("the hardware refused to enter the guest, reason {reason:#x}"))
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above.
                let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
                let at = self.fd.get_regs().map_or(0, |regs| regs.rip);
                self.fail(format!(
                    "KVM could not go on at instruction {at:#x} (internal error {suberror}); is \
                     this a software KVM? 'spindle doctor' tells"
                ))
            }
            KVM_EXIT_SYSTEM_EVENT => {
                self.mailbox.post(Letter::TripleFault);
                Left::Stuck
            }
            reason => self.fail(format!("unexpected exit from the guest, reason {reason}")),
        }
    }

    fn fail(&self, reason: String) -> Left {
        self.mailbox.post(Letter::CpuFailed { cpu: self.index as u32, reason });
        Left::Stuck
    }
}
