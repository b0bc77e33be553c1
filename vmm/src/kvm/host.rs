//! The host's KVM before there is a machine: is it there, and can it do what is needed?

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use super::KvmError;

/// What no machine can do without, and how a person would call it.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "an in-kernel interrupt controller"),
    (Cap::Pit2, "an in-kernel timer (PIT)"),
    (Cap::UserMemory, "user memory regions"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Irqfd, "irqfd"),
    (Cap::IrqfdResample, "irqfd with resampling"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::IoeventfdNoLength, "ioeventfds of any length"),
    (Cap::MpState, "multiprocessing state"),
    (Cap::VcpuEvents, "virtual CPU events"),
    (Cap::Xcrs, "extended control registers"),
    (Cap::ExtCpuid, "extended CPUID"),
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
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Missing(name));
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
