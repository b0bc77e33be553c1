//! Whole machines whose CPUs do not run: the tests are their guests, on the bus.
use std::{
    io::Write,
    os::fd::RawFd,
    sync::{Arc, Weak},
    time::Duration,
};

use serde_json::{Value, json};
use spindle_devices::{
    Space,
    pci::{Address, PciFunction},
};

use super::*;
use crate::{
    bus::BusView,
    kvm::Host,
    machine::goals::Goal,
    monitor::{QmpError, schema::ShutdownCause},
    spec::{Draft, format::HostFiles, keyval},
};

/// What a guest is waited for at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Hot-plug registers, and the status of general purpose events.
const INSERTED: u64 = 0xCC0;
const REMOVING: u64 = 0xCC4;
const EJECT: u64 = 0xCC8;
const EVENTS: u64 = 0x620;
/// A virtio disk: vendor and device in one.
const VIRTIO_BLK: u32 = 0x1042_1AF4;
/// Where the guest puts a BAR.
const BAR: u64 = 0xC400_0000;

/// The smallest kernel: an ELF file that is one page of code.
fn kernel() -> tempfile::NamedTempFile {
    const HEADER: usize = 64;
    const ENTRY: u64 = 16 << 20;
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2_u16, 62].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([ENTRY, HEADER as u64, 0].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([HEADER as u16, 56, 1, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    // PT_LOAD, readable and executable.
    elf.extend([1_u32, 5].iter().flat_map(|n| n.to_le_bytes()));
    elf.extend([0x1000, ENTRY, ENTRY, 16, 0x1000, 0x1000_u64].iter().flat_map(|n| n.to_le_bytes()));
    elf.resize(0x1000, 0);
    elf.extend([0xF4; 16]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&elf).unwrap();
    file
}

/// A machine and its guest.
struct Rig {
    machine: Machine,
    view: BusView,
    _kernel: tempfile::NamedTempFile,
}

fn options(text: &str, implied: &str) -> keyval::Options {
    keyval::parse("option", text, Some(implied), &[]).unwrap()
}

/// `None` where there is no KVM.
fn rig(blockdevs: &[&str], devices: &[&str]) -> Option<Rig> {
    if let Err(e) = Host::open() {
        eprintln!("not run: {e}");
        return None;
    }
    let kernel = kernel();
    let mut draft = Draft {
        blockdevs: blockdevs.iter().map(|text| options(text, "driver")).collect(),
        devices: devices.iter().map(|text| options(text, "driver")).collect(),
        ..Draft::default()
    };
    draft.settings.kernel = Some(kernel.path().to_owned());
    draft.settings.serial = crate::spec::SerialSpec::Null;
    draft.settings.memory = 64 << 20;
    draft.settings.cpus = 2;
    let spec = draft.lower(&HostFiles).unwrap_or_else(|e| panic!("{e}"));
    let (machine, _ends) = build(&spec).unwrap_or_else(|e| panic!("{}", crate::error_chain(&e)));
    let view = machine.accelerator.bus().view();
    Some(Rig { machine, view, _kernel: kernel })
}

impl Rig {
    fn add(&mut self, device: Value) -> Result<(), QmpError> {
        let Value::Object(options) = device else { unreachable!() };
        self.machine.device_add(options)
    }

    fn port(&mut self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.view.read(Space::Port, port, &mut data);
        u32::from_le_bytes(data)
    }

    fn port_write(&mut self, port: u64, value: u32) {
        self.view.write(Space::Port, port, &value.to_le_bytes());
    }

    fn memory(&mut self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.view.read(Space::Memory, address, &mut data);
        u32::from_le_bytes(data)
    }

    fn config(&mut self, slot: u32, offset: u32) -> u32 {
        self.port_write(0xCF8, 1 << 31 | slot << 11 | offset);
        self.port(0xCFC)
    }

    fn config_write(&mut self, slot: u32, offset: u32, value: u32) {
        self.port_write(0xCF8, 1 << 31 | slot << 11 | offset);
        self.port_write(0xCFC, value);
    }

    fn function(&self, slot: u8) -> Weak<dyn PciFunction> {
        let at = Address { slot, function: 0 };
        Arc::downgrade(&self.machine.board.pci.get(at).unwrap())
    }

    /// Reads the machine's mail until `done`.
    fn until(&mut self, done: impl Fn(&Machine) -> bool) {
        let fd: RawFd = self.machine.mailbox.fd();
        while !done(&self.machine) {
            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, which outlives the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) };
            assert_eq!(ready, 1, "the machine has nothing more to do");
            self.machine.read_mail();
        }
    }
}

fn blk(id: &str, node: &str) -> Value {
    json!({"driver": "virtio-blk-pci", "id": id, "drive": node, "addr": "5", "num-queues": 4})
}

#[test]
fn a_disk_comes_and_goes_and_nothing_of_it_stays() {
    let blockdevs = ["null,node-name=a,size=64M", "null,node-name=b,size=64M"];
    let Some(mut rig) = rig(&blockdevs, &["virtio-blk-pci,id=boot,drive=a"]) else { return };
    assert_eq!((rig.port(INSERTED), rig.port(REMOVING)), (0, 0));
    for round in 0..3 {
        rig.add(blk("hot", "b")).unwrap();
        assert_eq!(rig.port(INSERTED), 1 << 5);
        assert_eq!(rig.port(EVENTS) & 2, 2, "the event of hot-plug");
        rig.view.write(Space::Port, EVENTS, &[2]);
        // The guest finds it and makes it answer.
        assert_eq!(rig.config(5, 0), VIRTIO_BLK);
        rig.config_write(5, 0x10, BAR as u32);
        rig.config_write(5, 0x14, 0);
        rig.config_write(5, 0x04, 0x06);
        // Number of queues, in the common configuration.
        assert_eq!(rig.memory(BAR + 0x12) & 0xFFFF, 4);
        let function = rig.function(5);

        rig.machine.device_del("hot").unwrap();
        let again = rig.machine.device_del("hot").unwrap_err().desc;
        assert!(again.contains("already in the process of unplug"), "{again}");
        assert_eq!((rig.port(REMOVING), rig.port(EVENTS) & 2), (1 << 5, 2));
        assert_eq!(rig.config(5, 0), VIRTIO_BLK, "until the guest lets go of it");
        rig.port_write(EJECT, 1 << 5);
        assert_eq!((rig.config(5, 0), rig.memory(BAR + 0x12)), (u32::MAX, u32::MAX));
        assert_eq!(rig.port(REMOVING), 0);
        rig.until(|machine| machine.spec.device("hot").is_none());
        assert_eq!(rig.machine.disks.graph.roots(), ["boot"]);
        assert_eq!(rig.machine.disks.disks.len(), 1);
        assert!(function.upgrade().is_none(), "round {round}: somebody still holds it");
        let gone = rig.machine.device_del("hot").unwrap_err();
        assert!(gone.desc.contains("Device 'hot' not found"), "{}", gone.desc);
    }
}

#[test]
fn what_cannot_be_plugged_leaves_the_machine_as_it_was() {
    let blockdevs = ["null,node-name=a,size=64M", "null,node-name=b,size=64M"];
    let devices = ["virtio-blk-pci,id=boot,drive=a,addr=5"];
    let Some(mut rig) = rig(&blockdevs, &devices) else { return };
    let with = |key: &str, value: Value| {
        let mut device = blk("hot", "b");
        device[key] = value;
        device
    };
    let cases = [
        (with("addr", json!("5")), "PCI address 05.0 is taken by 'boot'"),
        (with("addr", json!("0")), "PCI address 00.0 cannot be plugged"),
        (with("addr", json!("6.1")), "PCI address 06.1 cannot be plugged"),
        (with("id", json!("boot")), "Duplicate device ID 'boot'"),
        (with("drive", json!("c")), "no node 'c'"),
        (with("drive", json!("a")), "'a'"),
        (with("drvie", json!("a")), "unknown property 'drvie'; did you mean 'drive'?"),
        (with("driver", json!("virtio-blk")), "did you mean 'virtio-blk-pci'?"),
        (with("iothread", json!("x")), "no iothread 'x'"),
        (with("vectors", json!(3)), "vectors=3 is too few"),
    ];
    for (device, wanted) in cases {
        let error = rig.add(device.clone()).unwrap_err().desc;
        assert!(error.contains(wanted), "{device}: {error}");
    }
    assert_eq!(rig.machine.disks.graph.roots(), ["boot"]);
    assert_eq!((rig.port(INSERTED), rig.port(EVENTS)), (0, 0));
    assert_eq!(rig.machine.spec.devices.len(), 1);
    // The node and the name are still free; the slot is the first one that is.
    let mut device = blk("hot", "b");
    device.as_object_mut().unwrap().remove("addr");
    rig.add(device).unwrap();
    assert_eq!(rig.port(INSERTED), 1 << 2);
}

#[test]
fn a_reset_takes_away_what_was_asked_to_go() {
    let blockdevs = ["null,node-name=a,size=64M", "null,node-name=b,size=64M"];
    let devices = ["virtio-blk-pci,id=boot,drive=a", "virtio-rng-pci,id=rng"];
    let Some(mut rig) = rig(&blockdevs, &devices) else { return };
    rig.add(blk("hot", "b")).unwrap();
    rig.machine.device_del("hot").unwrap();
    rig.machine.device_del("rng").unwrap();
    let (hot, rng) = (rig.function(5), rig.function(3));
    let cause = ShutdownCause::HostQmpSystemReset;
    rig.machine.ask(Goal::Reset { guest: false, cause, reply: None });
    rig.until(|machine| machine.spec.devices.len() == 1);
    assert_eq!(rig.machine.spec.devices[0].id(), "boot");
    assert!(hot.upgrade().is_none() && rng.upgrade().is_none());
    assert_eq!((rig.port(INSERTED), rig.port(REMOVING), rig.port(EVENTS)), (0, 0, 0));
}
