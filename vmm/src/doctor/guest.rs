//! A tiny guest: does this KVM carry out what a kernel executes, and how fast?
//!
//! It starts in 64-bit mode and writes a [`Stage`] to [`PORT`] after each thing it has tried:
//! `cmpxchg16b`, `xsave`/`xrstor`, `int3` through an IDT, a loop. A KVM without hardware behind it
//! fails on these although it has every capability.
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// How far the guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Nothing was seen of it.
    Nothing = 0,
    /// It executes instructions.
    Started = 1,
    /// `cmpxchg16b` works.
    Cmpxchg16b = 2,
    /// `xsave` and `xrstor` work, or the CPU has neither.
    Xrstor = 3,
    /// `int3` came to its handler and back.
    Int3 = 4,
    /// The loop is done.
    Done = 5,
}

impl Stage {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Started, Self::Cmpxchg16b, Self::Xrstor, Self::Int3, Self::Done]
            .into_iter()
            .find(|stage| *stage as u8 == byte)
    }

    /// What the guest was doing after this stage.
    pub(super) fn next_deed(self) -> &'static str {
        match self {
            Self::Nothing => "at its first instruction",
            Self::Started => "at cmpxchg16b",
            Self::Cmpxchg16b => "at xrstor",
            Self::Xrstor => "at int3",
            Self::Int3 => "in a loop",
            Self::Done => "after its end",
        }
    }
}

/// What came of the guest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    /// How far it came.
    pub(super) stage: Stage,
    /// What ended it, if not its end.
    pub(super) fault: Option<String>,
    /// Instructions per second in its loop, in millions.
    pub(super) million_per_second: Option<f64>,
}

/// How long it may take in all.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Turns of the loop; each is two instructions.
const LOOPS: u32 = 200_000;
/// Exits it may take: each stage is one.
const EXITS_MAX: usize = 64;

const PORT: u16 = 0xf4;
const MEMORY_LEN: usize = 0x10000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const DATA: u64 = 0x6000;
const XSAVE_AREA: u64 = 0x7000;
const STACK_TOP: u64 = 0xa000;
const CODE: u64 = 0xa000;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;

// r8d says whether the CPU has xsave, r10d how often to loop.
std::arch::global_asm!(
    ".pushsection .rodata.spindle_probe, \"a\"",
    ".hidden spindle_probe_start",
    ".hidden spindle_probe_int3",
    ".hidden spindle_probe_end",
    ".globl spindle_probe_start, spindle_probe_int3, spindle_probe_end",
    "spindle_probe_start:",
    "mov al, 1",
    "out {port}, al",
    "mov edi, {data}",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "mov ecx, 2",
    "lock cmpxchg16b [rdi]",
    "jnz 3f",
    "cmp qword ptr [rdi + 8], 2",
    "jne 3f",
    "mov al, 2",
    "out {port}, al",
    "test r8d, r8d",
    "jz 2f",
    "xor ecx, ecx",
    "mov eax, 3",
    "xor edx, edx",
    "xsetbv",
    "mov esi, {xsave}",
    "mov eax, 3",
    "xor edx, edx",
    "xsave [rsi]",
    "xrstor [rsi]",
    "2:",
    "mov al, 3",
    "out {port}, al",
    "xor r9d, r9d",
    "int3",
    "cmp r9d, 0x600d",
    "jne 3f",
    "mov al, 4",
    "out {port}, al",
    "4:",
    "dec r10d",
    "jnz 4b",
    "mov al, 5",
    "out {port}, al",
    "3:",
    "hlt",
    "jmp 3b",
    "spindle_probe_int3:",
    "mov r9d, 0x600d",
    "iretq",
    "spindle_probe_end:",
    ".popsection",
    port = const PORT,
    data = const DATA,
    xsave = const XSAVE_AREA,
);

unsafe extern "C" {
    static spindle_probe_start: u8;
    static spindle_probe_int3: u8;
    static spindle_probe_end: u8;
}

/// The guest's code, and where in it the handler of `int3` is.
fn code() -> (&'static [u8], u64) {
    let start = &raw const spindle_probe_start;
    let len = (&raw const spindle_probe_end).addr() - start.addr();
    let handler = (&raw const spindle_probe_int3).addr() - start.addr();
    // SAFETY: the three symbols are in this order in one read-only section, written above.
    (unsafe { std::slice::from_raw_parts(start, len) }, handler as u64)
}

/// Runs the guest on a thread of its own, so that one that hangs costs five seconds only.
pub(super) fn run() -> Result<Outcome, String> {
    extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let signal = SIGRTMIN() + 4;
    register_signal_handler(signal, interrupt).map_err(|e| e.to_string())?;
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new()
        .name("doctor-guest".to_owned())
        .spawn(move || sender.send(run_here(Instant::now() + TIME_MAX)))
        .map_err(|e| e.to_string())?;
    let deadline = Instant::now() + TIME_MAX;
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return Err("its thread died".to_owned()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // A signal interrupts KVM_RUN, and the loop around it then looks at the clock.
        if Instant::now() > deadline {
            thread.kill(signal).map_err(|e| e.to_string())?;
        }
        if Instant::now() > deadline + Duration::from_secs(2) {
            return Err("it hangs, and KVM does not let go of it".to_owned());
        }
    }
}

fn run_here(deadline: Instant) -> Result<Outcome, String> {
    let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    // Intel CPUs without "unrestricted guest" need three pages for this below 4 GiB.
    vm.set_tss_address(0xfffb_d000).map_err(failed("set the TSS address"))?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_LEN)])
        .map_err(|e| format!("cannot map memory: {e}"))?;
    let (code, handler) = code();
    lay_out(&memory, code, CODE + handler).map_err(|e| format!("cannot fill memory: {e}"))?;
    give_memory(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("create a vCPU"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("read CPUID"))?;
    let has_xsave = has_xsave(&cpuid);
    vcpu.set_cpuid2(&cpuid).map_err(failed("set CPUID"))?;
    prepare(&vcpu, has_xsave)?;
    Ok(watch(&mut vcpu, deadline))
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

/// CPUID.1:ECX.XSAVE, bit 26 (Intel SDM volume 2A, CPUID).
fn has_xsave(cpuid: &CpuId) -> bool {
    cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & (1 << 26) != 0)
}

/// Page tables that map the first 2 MiB onto themselves, descriptors, the handler, the code.
fn lay_out(
    memory: &GuestMemoryMmap<()>,
    code: &[u8],
    handler: u64,
) -> Result<(), vm_memory::GuestMemoryError> {
    let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at));
    // Present, writable; the last one a 2 MiB page (Intel SDM volume 3A, 4.5).
    put(PML4, PDPT | 3)?;
    put(PDPT, PAGE_DIRECTORY | 3)?;
    put(PAGE_DIRECTORY, 0x83)?;
    put(GDT + u64::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff)?;
    put(GDT + u64::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff)?;
    // A 64-bit interrupt gate for vector 3 (Intel SDM volume 3A, 6.14.1).
    let gate = handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
    put(IDT + 3 * 16, gate | (handler & 0xffff_0000) << 32)?;
    memory.write_slice(code, GuestAddress(CODE))
}

fn give_memory(vm: &VmFd, memory: &GuestMemoryMmap<()>) -> Result<(), String> {
    let host =
        memory.get_host_address(GuestAddress(0)).map_err(|e| format!("cannot map memory: {e}"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_LEN as u64,
        userspace_addr: host.addr() as u64,
    };
    // SAFETY: the region is `memory`'s, which outlives the vCPU's last KVM_RUN: both end with
    // the caller.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("give the guest memory"))
}

fn prepare(vcpu: &VcpuFd, has_xsave: bool) -> Result<(), String> {
    let mut sregs = vcpu.get_sregs().map_err(failed("read registers"))?;
    long_mode(&mut sregs, has_xsave);
    vcpu.set_sregs(&sregs).map_err(failed("set registers"))?;
    let regs = kvm_regs {
        rip: CODE,
        rsp: STACK_TOP,
        rflags: 2,
        r8: u64::from(has_xsave),
        r10: u64::from(LOOPS),
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(failed("set registers"))
}

/// Flat 64-bit mode with paging (Intel SDM volume 3A, 2.5 and 10.8.5).
fn long_mode(sregs: &mut kvm_sregs, has_xsave: bool) {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, l: 0, db: 1, ..code };
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 23);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 4 * 16 - 1);
    sregs.cr3 = PML4;
    // PE, MP, ET, NE, WP, AM, PG.
    sregs.cr0 = 0x8005_0033;
    // PAE, OSFXSR, OSXMMEXCPT, and OSXSAVE.
    sregs.cr4 = 0x620 | if has_xsave { 1 << 18 } else { 0 };
    // LME, LMA.
    sregs.efer = 0x500;
}

fn watch(vcpu: &mut VcpuFd, deadline: Instant) -> Outcome {
    let mut outcome = Outcome { stage: Stage::Nothing, fault: None, million_per_second: None };
    let mut loop_began = Instant::now();
    for _ in 0..EXITS_MAX {
        let fault = match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [byte])) => match Stage::from_byte(*byte) {
                Some(Stage::Done) => {
                    let seconds = loop_began.elapsed().as_secs_f64();
                    outcome.stage = Stage::Done;
                    outcome.million_per_second = Some(f64::from(LOOPS) * 2.0 / seconds / 1e6);
                    return outcome;
                }
                Some(stage) => {
                    outcome.stage = stage;
                    loop_began = Instant::now();
                    continue;
                }
                None => format!("it wrote {byte}"),
            },
            Err(error) if error.errno() == libc::EINTR => {
                if Instant::now() < deadline {
                    continue;
                }
                format!("it was not done after {} s", TIME_MAX.as_secs())
            }
            Ok(VcpuExit::InternalError) => "KVM_EXIT_INTERNAL_ERROR".to_owned(),
            Ok(VcpuExit::Shutdown) => "triple fault".to_owned(),
            Ok(VcpuExit::Hlt) => "a wrong result".to_owned(),
            Ok(exit) => format!("unexpected exit {exit:?}"),
            Err(error) => format!("KVM_RUN: {error}"),
        };
        outcome.fault = Some(fault);
        return outcome;
    }
    outcome.fault = Some("it exits without end".to_owned());
    outcome
}
