//! The host's KVM before there is a machine: is it there, and can it do what is needed?

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use super::KvmError;

/// Something that KVM may or may not offer.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// What KVM is asked.
    pub cap: Cap,
    /// Its name in reports.
    pub name: &'static str,
    /// What a person would call it.
    pub what: &'static str,
    /// No machine can do without.
    pub needed: bool,
}

const fn needed(cap: Cap, name: &'static str, what: &'static str) -> Capability {
    Capability { cap, name, what, needed: true }
}

const fn wanted(cap: Cap, name: &'static str, what: &'static str) -> Capability {
    Capability { cap, name, what, needed: false }
}

/// What machines use, the needed ones first.
pub const CAPABILITIES: &[Capability] = &[
    needed(Cap::Irqchip, "irqchip", "an in-kernel interrupt controller"),
    needed(Cap::UserMemory, "user-memory", "user memory regions"),
    needed(Cap::SetTssAddr, "set-tss-addr", "a task state segment of its own"),
    needed(Cap::ExtCpuid, "ext-cpuid", "extended CPUID"),
    needed(Cap::MpState, "mp-state", "multiprocessing state"),
    needed(Cap::VcpuEvents, "vcpu-events", "virtual CPU events"),
    needed(Cap::Xcrs, "xcrs", "extended control registers"),
    needed(Cap::Pit2, "pit2", "an in-kernel timer (PIT)"),
    needed(Cap::IrqRouting, "irq-routing", "interrupt routing"),
    needed(Cap::Irqfd, "irqfd", "irqfd"),
    needed(Cap::IrqfdResample, "irqfd-resample", "irqfd with resampling"),
    needed(Cap::Ioeventfd, "ioeventfd", "ioeventfd"),
    needed(Cap::IoeventfdNoLength, "ioeventfd-no-length", "ioeventfds of any length"),
    needed(Cap::ImmediateExit, "immediate-exit", "immediate exit"),
    wanted(Cap::SignalMsi, "signal-msi", "message-signalled interrupts without a route"),
    wanted(Cap::CoalescedMmio, "coalesced-mmio", "collected writes to memory"),
    wanted(Cap::CoalescedPio, "coalesced-pio", "collected writes to ports"),
    wanted(Cap::ReadonlyMem, "readonly-mem", "read-only memory"),
    wanted(Cap::TscDeadlineTimer, "tsc-deadline-timer", "a timer with TSC deadlines"),
    wanted(Cap::X2ApicApi, "x2apic-api", "32-bit APIC IDs"),
    wanted(Cap::AdjustClock, "adjust-clock", "a clock that can be set"),
];

/// The opened `/dev/kvm`.
#[derive(Debug)]
pub struct Host {
    pub(super) kvm: Kvm,
    pub(super) cpuid: CpuId,
}

impl Host {
    /// Opens `/dev/kvm` and checks what it offers.
    ///
    /// # Errors
    /// When it is not there, may not be used, or lacks something needed.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::ApiVersion(version));
        }
        let missing = |c: &&Capability| c.needed && !kvm.check_extension(c.cap);
        if let Some(capability) = CAPABILITIES.iter().find(missing) {
            return Err(KvmError::Missing(capability.what));
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("read the supported CPUID leaves"))?;
        Ok(Self { kvm, cpuid })
    }

    /// Number of physical address bits of a guest CPU (CPUID leaf 8000_0008h, EAX bits 7:0).
    #[must_use]
    pub fn phys_addr_bits(&self) -> u8 {
        let leaf = self.cpuid.as_slice().iter().find(|e| e.function == 0x8000_0008);
        leaf.map_or(36, |e| (e.eax & 0xFF) as u8)
    }

    /// The most virtual CPUs one machine can have.
    #[must_use]
    pub fn cpus_max(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// Whether PIO writes can be collected.
    pub(super) fn coalesces_ports(&self) -> bool {
        self.kvm.check_extension(Cap::CoalescedPio)
    }

    /// Whether the local APIC timer has a TSC deadline mode.
    pub(super) fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }
}
