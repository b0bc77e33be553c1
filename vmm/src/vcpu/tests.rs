//! Virtual CPUs with guests of a few instructions, on whatever KVM the host has.
use super::*;
use crate::{
    bus::Bus,
    kvm::{Host, Vm},
    machine::Letter,
    sandbox::Sandbox,
};
use spindle_boot::{
    AddressRange, EntryPoint, Protocol,
    cpu_state::{DescriptorTable, Registers as BootRegisters, Segment, SystemRegisters},
};
use spindle_devices::{Access, Doorbell, Registers, Space, Window, WindowSink, Windows};
use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const CODE: u64 = 0x1000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells the test of every access.
struct Probe {
    tell: Mutex<mpsc::Sender<(char, u64, u8, u64)>>,
}

impl Registers for Probe {
    fn read(&self, access: Access) -> u64 {
        let _ = self.tell.lock().unwrap().send(('r', access.offset, access.width, 0));
        0x1234_5678_9ABC_DEF0
    }
    fn write(&self, access: Access, value: u64) {
        let _ = self.tell.lock().unwrap().send(('w', access.offset, access.width, value));
    }
}

struct Rig {
    cpus: Cpus,
    bus: Arc<Bus>,
    memory: GuestMemoryMmap,
    mailbox: Arc<Mailbox>,
    seen: mpsc::Receiver<(char, u64, u8, u64)>,
    bell: Arc<EventFd>,
    _vm: Vm,
}

/// Flat 32-bit segments, without paging.
fn entry() -> Entry {
    let segment = |selector, type_| Segment {
        selector,
        limit: u32::MAX,
        type_,
        s: true,
        present: true,
        db: true,
        g: true,
        ..Segment::default()
    };
    let tr =
        Segment { selector: 0x20, limit: 0x67, type_: 11, present: true, ..Segment::default() };
    Entry::Kernel(Box::new(EntryPoint {
        protocol: Protocol::Pvh,
        registers: BootRegisters { rip: CODE, rsp: 0x8000, rflags: 2, ..Default::default() },
        system: SystemRegisters {
            cs: segment(0x10, 11),
            data: segment(0x18, 3),
            tr,
            ldt: Segment::default(),
            gdt: DescriptorTable::default(),
            idt: DescriptorTable::default(),
            cr0: 0x11,
            cr3: 0,
            cr4: 0,
            efer: 0,
        },
        kernel: AddressRange::new(CODE, CODE + 0x1000),
        initrd: None,
        rsdp: 0,
    }))
}

/// A machine with one CPU that runs `code`; ports 0x500 to 0x50F and memory at 0xD0000000 are a
/// probe; 0x504 to 0x507 are coalesced, 0x508 rings a bell. `None` where there is no KVM
/// and `make test` runs this in the lab.
fn rig(code: &[u8]) -> Option<Rig> {
    let host = match Host::open() {
        Ok(host) => host,
        Err(e) => {
            let elsewhere = std::env::var_os("SPINDLE_NO_KVM").is_some();
            assert!(elsewhere, "{e}; with SPINDLE_NO_KVM=1 this is left to the lab");
            return None;
        }
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    memory.write_slice(code, GuestAddress(CODE)).unwrap();
    let vm = Vm::new(&host, &memory).unwrap();
    let bus = Bus::new(Box::new(vm.offload()));
    let (tell, seen) = mpsc::channel();
    let target: Arc<dyn Registers> = Arc::new(Probe { tell: Mutex::new(tell) });
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let window = |space, base, len, coalesce, target_offset| {
        let target = Arc::clone(&target);
        Window { space, base, len, coalesce, target, target_offset }
    };
    bus.set(
        1,
        Windows {
            ranges: vec![
                window(Space::Port, 0x500, 4, false, 0),
                window(Space::Port, 0x504, 4, true, 4),
                window(Space::Port, 0x508, 8, false, 8),
                window(Space::Memory, 0xD000_0000, 0x1000, false, 0),
            ],
            doorbells: vec![Doorbell {
                space: Space::Port,
                address: 0x508,
                width: 1,
                value: None,
                event: Arc::clone(&bell),
            }],
        },
    );
    let fd = vm.create_cpu(&host, 0, 1).unwrap();
    let ring = CoalescedRing::map(&fd).ok().map(Arc::new);
    let reset = CpuReset::save(&host, 0, &fd).unwrap();
    reset.start(&fd, &entry()).unwrap();
    let run_size = vm.fd().run_size();
    let parts = vec![CpuParts { fd, reset, bus: bus.view(), ring, run_size }];
    let mailbox = Mailbox::new().unwrap();
    let sandbox = Sandbox::new(true).unwrap();
    let confine = move || sandbox.enter(crate::sandbox::Kind::Vcpu);
    let cpus = Cpus::spawn(parts, &mailbox, confine).unwrap();
    Some(Rig { cpus, bus, memory, mailbox, seen, bell, _vm: vm })
}

impl Rig {
    fn next(&self) -> (char, u64, u8, u64) {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    fn letter(&self) -> Letter {
        let start = Instant::now();
        loop {
            if let Some(letter) = self.mailbox.take() {
                return letter;
            }
            assert!(start.elapsed() < PATIENCE, "no letter");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high, 0xB0, value, 0xEE]
}

/// `jmp $`
const SPIN: [u8; 2] = [0xEB, 0xFE];

#[test]
fn accesses_reach_devices_and_collected_writes_come_first() {
    let mut code = out(0x501, 0xAB);
    code.extend(out(0x504, 1));
    code.extend(out(0x505, 2));
    code.extend(out(0x508, 3));
    // mov eax, [0xd0000010]; mov [0xd0000020], eax; in al, dx
    code.extend([0xA1, 0x10, 0, 0, 0xD0, 0xA3, 0x20, 0, 0, 0xD0, 0x66, 0xBA, 0x0C, 0x05, 0xEC]);
    code.extend(SPIN);
    let Some(rig) = rig(&code) else { return };
    rig.cpus.resume();
    assert_eq!(rig.next(), ('w', 1, 1, 0xAB));
    assert_eq!(rig.next(), ('w', 4, 1, 1));
    assert_eq!(rig.next(), ('w', 5, 1, 2));
    assert_eq!(rig.next(), ('r', 0x10, 4, 0));
    assert_eq!(rig.next(), ('w', 0x20, 4, 0x9ABC_DEF0));
    assert_eq!(rig.next(), ('r', 0xC, 1, 0));
    assert_eq!(rig.bell.read().unwrap(), 1, "the bell rang instead of an exit");
    // An exit is counted after the device has seen it.
    let start = Instant::now();
    while rig.cpus.exits().port_read == 0 && start.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let exits = rig.cpus.exits();
    assert_eq!(exits.port_write, 1 + 2 - exits.collected_writes, "{exits:?}");
    assert_eq!((exits.memory_read, exits.memory_write, exits.port_read), (1, 1, 1));
}

#[test]
fn paused_cpus_do_nothing_and_go_on_where_they_were() {
    // again: inc byte [0x2000]; out dx, al; jmp again
    let mut code = out(0x500, 7);
    code.extend([0xFE, 0x05, 0, 0x20, 0, 0, 0xEE, 0xEB, 0xF7]);
    let Some(rig) = rig(&code) else { return };
    let count = || rig.memory.read_obj::<u8>(GuestAddress(0x2000)).unwrap();
    rig.cpus.resume();
    for _ in 0..50 {
        rig.next();
        rig.cpus.pause();
        while rig.seen.try_recv().is_ok() {}
        let before = count();
        assert!(rig.seen.recv_timeout(Duration::from_millis(2)).is_err(), "it runs");
        assert_eq!(count(), before);
        rig.cpus.resume();
    }
    rig.next();
}

#[test]
fn a_cpu_starts_afresh_while_it_spins_and_after_a_triple_fault() {
    let mut code = out(0x500, 1);
    code.extend(SPIN);
    let Some(rig) = rig(&code) else { return };
    rig.cpus.resume();
    for _ in 0..5 {
        assert_eq!(rig.next(), ('w', 0, 1, 1));
        rig.cpus.pause();
        rig.cpus.restart(&entry()).unwrap();
        rig.cpus.resume();
    }
    assert_eq!(rig.next(), ('w', 0, 1, 1));
    // ud2 without an interrupt table: a triple fault.
    rig.cpus.pause();
    rig.memory.write_slice(&[0x0F, 0x0B], GuestAddress(CODE)).unwrap();
    rig.cpus.restart(&entry()).unwrap();
    rig.cpus.resume();
    let letter = rig.letter();
    if let Letter::CpuFailed { reason, .. } = &letter {
        // A KVM that interprets may not get as far as the fault.
        assert!(reason.contains("internal error"), "{reason}");
    } else {
        assert_eq!(letter, Letter::TripleFault);
    }
    rig.cpus.pause();
    rig.memory.write_slice(&code, GuestAddress(CODE)).unwrap();
    rig.cpus.restart(&entry()).unwrap();
    rig.cpus.resume();
    assert_eq!(rig.next(), ('w', 0, 1, 1));
}

#[test]
fn windows_move_while_a_cpu_runs() {
    let mut code = out(0x500, 1);
    code.extend([0xEE, 0xEB, 0xFD]);
    let Some(rig) = rig(&code) else { return };
    rig.cpus.resume();
    rig.next();
    rig.bus.set(1, Windows::default());
    rig.cpus.pause();
    while rig.seen.try_recv().is_ok() {}
    rig.cpus.resume();
    assert!(rig.seen.recv_timeout(Duration::from_millis(50)).is_err(), "nobody is there");
}
