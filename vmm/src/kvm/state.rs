//! The state of a virtual CPU: as it was made, as the boot protocol wants it, and back again at a
//! reset.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_debugregs, kvm_dtable,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use spindle_boot::{
    Entry, EntryPoint, FIRMWARE_MSRS,
    cpu_state::{DescriptorTable, Segment, SystemRegisters},
};

use super::{Host, KvmError};

/// The time stamp counter: it goes on over a reset, as CPUs that were reset together keep theirs in
/// step.
const MSR_TSC: u32 = 0x10;
const MSR_TSC_ADJUST: u32 = 0x3B;
/// Offsets of the local vector table's LINT entries in the local APIC's page (SDM vol. 3, 11.4.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery mode ExtINT: the 8259s are behind LINT0 of the boot CPU.
const EXTINT: u32 = 0x700;
/// Delivery mode NMI.
const NMI: u32 = 0x400;
const FIRMWARE_CPU: u32 = 0;

/// All of a virtual CPU that a guest can change, as it was when the CPU was made.
pub struct CpuReset {
    index: u32,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
}

impl CpuReset {
    /// Notes the state of a CPU that has not run yet.
    ///
    /// # Errors
    /// When KVM refuses to say.
    pub fn save(host: &Host, index: u32, vcpu: &VcpuFd) -> Result<Self, KvmError> {
        let what = || KvmError::call(format!("read the state of virtual CPU {index}"));
        let mut lapic = vcpu.get_lapic().map_err(what())?;
        if index == FIRMWARE_CPU {
            set_lapic_register(&mut lapic, LVT_LINT0, EXTINT);
        }
        set_lapic_register(&mut lapic, LVT_LINT1, NMI);
        Ok(Self {
            index,
            regs: vcpu.get_regs().map_err(what())?,
            sregs: vcpu.get_sregs().map_err(what())?,
            xsave: vcpu.get_xsave().map_err(what())?,
            xcrs: vcpu.get_xcrs().map_err(what())?,
            debug: vcpu.get_debug_regs().map_err(what())?,
            events: vcpu.get_vcpu_events().map_err(what())?,
            lapic,
            msrs: reset_msrs(host, vcpu)?,
        })
    }

    /// Makes a CPU that never ran ready for its first instruction.
    ///
    /// # Errors
    /// When KVM refuses a part of it.
    pub fn start(&self, vcpu: &VcpuFd, entry: &Entry) -> Result<(), KvmError> {
        let what = || KvmError::call(format!("start virtual CPU {}", self.index));
        vcpu.set_lapic(&self.lapic).map_err(what())?;
        // A CPU as KVM makes it is at its reset vector.
        let Entry::Kernel(entry) = entry else { return Ok(()) };
        set_msrs(vcpu, &firmware_msrs())?;
        if self.index == FIRMWARE_CPU {
            vcpu.set_sregs(&boot_sregs(&self.sregs, &entry.system)).map_err(what())?;
            vcpu.set_regs(&boot_regs(entry)).map_err(what())?;
        }
        Ok(())
    }

    /// Puts a CPU back to its first instruction, whatever it was doing.
    ///
    /// # Errors
    /// When KVM refuses a part of it.
    pub fn restart(&self, vcpu: &VcpuFd, entry: &Entry) -> Result<(), KvmError> {
        let what = || KvmError::call(format!("reset virtual CPU {}", self.index));
        // The control registers first, because they say how the others are taken; the local APIC
        // after its base, and the MSRs that arm its timer after that.
        vcpu.set_sregs(&self.sregs).map_err(what())?;
        vcpu.set_regs(&self.regs).map_err(what())?;
        // SAFETY: the CPU was made without dynamically enabled features, so the state is no larger
        // than the structure that KVM filled in.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(what())?;
        vcpu.set_xcrs(&self.xcrs).map_err(what())?;
        vcpu.set_debug_regs(&self.debug).map_err(what())?;
        vcpu.set_lapic(&self.lapic).map_err(what())?;
        for chunk in self.msrs.chunks(kvm_bindings::KVM_MAX_MSR_ENTRIES) {
            set_msrs(vcpu, chunk)?;
        }
        rewrite_tsc(vcpu)?;
        vcpu.set_vcpu_events(&self.events).map_err(what())?;
        let boots = self.index == FIRMWARE_CPU;
        let mp_state = if boots { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_UNINITIALIZED };
        vcpu.set_mp_state(kvm_mp_state { mp_state }).map_err(what())?;
        self.start(vcpu, entry)
    }
}

/// The MSRs that a reset writes back: those which KVM both lists and takes again.
fn reset_msrs(host: &Host, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let list = host
        .kvm
        .get_msr_index_list()
        .map_err(KvmError::call("read the list of model-specific registers"))?;
    let mut msrs = Vec::with_capacity(list.as_slice().len());
    for &index in list.as_slice().iter().filter(|i| ![MSR_TSC, MSR_TSC_ADJUST].contains(i)) {
        msrs.push(kvm_msr_entry { index, ..Default::default() });
    }
    let mut kept = Vec::with_capacity(msrs.len());
    let mut rest = &msrs[..];
    // KVM stops at the first register it will not read: leave that one out and go on after it.
    while !rest.is_empty() {
        let ask = &rest[..rest.len().min(kvm_bindings::KVM_MAX_MSR_ENTRIES)];
        let mut buffer = Msrs::from_entries(ask).map_err(|_| KvmError::Missing("room for MSRs"))?;
        let got = vcpu
            .get_msrs(&mut buffer)
            .map_err(KvmError::call("read the model-specific registers"))?
            .min(ask.len());
        kept.extend_from_slice(&buffer.as_slice()[..got]);
        rest = &rest[(got + usize::from(got < ask.len())).min(rest.len())..];
    }
    retain_writable(vcpu, &mut kept)?;
    Ok(kept)
}

/// Writes the registers back as they are, and forgets those that KVM does not take.
fn retain_writable(vcpu: &VcpuFd, msrs: &mut Vec<kvm_msr_entry>) -> Result<(), KvmError> {
    let mut next = 0;
    while next < msrs.len() {
        let end = msrs.len().min(next + kvm_bindings::KVM_MAX_MSR_ENTRIES);
        let buffer =
            Msrs::from_entries(&msrs[next..end]).map_err(|_| KvmError::Missing("room for MSRs"))?;
        let set =
            vcpu.set_msrs(&buffer).map_err(KvmError::call("set the model-specific registers"))?;
        next += set;
        if next < end {
            msrs.remove(next);
        }
    }
    Ok(())
}

/// Gives the time stamp counter the value it has. On AMD, KVM wipes the control block of a CPU that took a
/// triple fault, and the guest's offset in it comes back only when the counter is written: until then the
/// guest reads the host's counter, and the deadlines that it sets lie far in the future.
fn rewrite_tsc(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut tsc = Msrs::from_entries(&[kvm_msr_entry { index: MSR_TSC, ..Default::default() }])
        .map_err(|_| KvmError::Missing("room for MSRs"))?;
    vcpu.get_msrs(&mut tsc).map_err(KvmError::call("read the time stamp counter"))?;
    // Within a second of what KVM expects it keeps the offset that all CPUs of the guest share.
    set_msrs(vcpu, tsc.as_slice())
}

fn set_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
    let msrs = Msrs::from_entries(entries).map_err(|_| KvmError::Missing("room for MSRs"))?;
    let set = vcpu.set_msrs(&msrs).map_err(KvmError::call("set the model-specific registers"))?;
    if set == entries.len() {
        return Ok(());
    }
    Err(KvmError::Msrs { wanted: entries.len(), set })
}

fn firmware_msrs() -> [kvm_msr_entry; 2] {
    FIRMWARE_MSRS.map(|m| kvm_msr_entry { index: m.index, data: m.value, ..Default::default() })
}

fn set_lapic_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (slot, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *slot = byte.cast_signed();
    }
}

fn boot_regs(entry: &EntryPoint) -> kvm_regs {
    let r = &entry.registers;
    kvm_regs {
        rip: r.rip,
        rsp: r.rsp,
        rflags: r.rflags,
        rbx: r.rbx,
        rsi: r.rsi,
        ..Default::default()
    }
}

fn boot_sregs(fresh: &kvm_sregs, system: &SystemRegisters) -> kvm_sregs {
    let data = segment(&system.data);
    kvm_sregs {
        cs: segment(&system.cs),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(&system.tr),
        ldt: segment(&system.ldt),
        gdt: table(system.gdt),
        idt: table(system.idt),
        cr0: system.cr0,
        cr3: system.cr3,
        cr4: system.cr4,
        efer: system.efer,
        ..*fresh
    }
}

fn segment(s: &Segment) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.type_,
        present: s.present.into(),
        dpl: s.dpl,
        db: s.db.into(),
        s: s.s.into(),
        l: s.l.into(),
        g: s.g.into(),
        avl: s.avl.into(),
        unusable: (!s.present).into(),
        padding: 0,
    }
}

fn table(t: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, ..Default::default() }
}
