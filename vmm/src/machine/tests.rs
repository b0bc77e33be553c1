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
    monitor::{Command, Handler, MediumChange, QmpError, Reply, schema::ShutdownCause},
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

/// What a machine of these nodes and devices comes to.
fn describe(blockdevs: &[&str], devices: &[&str], kernel: &std::path::Path) -> MachineSpec {
    let mut draft = Draft {
        blockdevs: blockdevs.iter().map(|text| options(text, "driver")).collect(),
        devices: devices.iter().map(|text| options(text, "driver")).collect(),
        ..Draft::default()
    };
    draft.settings.kernel = Some(kernel.to_owned());
    draft.settings.serial = crate::spec::SerialSpec::Null;
    draft.settings.memory = 64 << 20;
    draft.settings.cpus = 2;
    draft.lower(&HostFiles).unwrap_or_else(|e| panic!("{e}"))
}

/// `None` where there is no KVM.
fn rig(blockdevs: &[&str], devices: &[&str]) -> Option<Rig> {
    if let Err(e) = Host::open() {
        eprintln!("not run: {e}");
        return None;
    }
    let kernel = kernel();
    let spec = describe(blockdevs, devices, kernel.path());
    let (machine, _ends) =
        build(&spec).unwrap_or_else(|e| panic!("{}", spindle_block::error::with_causes(&e)));
    let view = machine.accelerator.bus().view();
    Some(Rig { machine, view, _kernel: kernel })
}

impl Rig {
    fn add(&mut self, device: Value) -> Result<(), QmpError> {
        let Value::Object(options) = device else { unreachable!() };
        self.machine.device_add(options)
    }

    fn roots(&self) -> Vec<String> {
        self.machine.disks.graph.roots()
    }

    /// Waits until a device is gone.
    fn gone(&mut self, id: &str) {
        self.until(|machine| machine.spec.device(id).is_none());
    }

    /// Has a command carried out, and waits for its answer.
    fn answer(&mut self, command: Command) -> Result<(), String> {
        let (reply, answer) = Reply::tapped();
        self.machine.handle(command, reply);
        let found = std::cell::RefCell::new(None);
        self.until(|_| {
            let mut found = found.borrow_mut();
            *found = found.take().or_else(&answer);
            found.is_some()
        });
        found.into_inner().unwrap().map(drop).map_err(|e| e.desc)
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

/// A null node of each name.
fn nodes<const N: usize>(names: [&str; N]) -> [String; N] {
    names.map(|name| format!("null,node-name={name},size=64M"))
}

#[test]
fn namespaces_and_units_come_and_go() {
    let blockdevs = nodes(["a", "b", "c", "d", "e"]);
    let devices = [
        "nvme,id=ctl,drive=a,addr=4,serial=S",
        "virtio-scsi-pci,id=hba,addr=6,num_queues=2",
        "scsi-hd,id=unit,drive=b",
        "ich9-ahci,id=sata,addr=7",
        "ide-cd,id=cd,bus=sata.5",
    ];
    let Some(mut rig) = rig(&blockdevs.each_ref().map(|n| &**n), &devices) else { return };
    assert_eq!(rig.roots(), ["ctl", "unit"]);
    for _ in 0..2 {
        rig.add(json!({"driver": "nvme-ns", "id": "ns", "drive": "c"})).unwrap();
        rig.add(json!({"driver": "scsi-hd", "id": "hd", "drive": "d", "bus": "hba.0"})).unwrap();
        rig.add(json!({"driver": "ide-hd", "id": "ata", "drive": "e"})).unwrap();
        assert_eq!(rig.roots(), ["ata", "ctl", "hd", "ns", "unit"]);
        match rig.machine.spec.device("ns") {
            Some(crate::spec::DeviceSpec::NvmeNs(ns)) => assert_eq!(ns.nsid, 2),
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.port(INSERTED), 0, "neither is a function");
        rig.machine.device_del("ns").unwrap();
        let again = rig.machine.device_del("ns").unwrap_err().desc;
        assert!(again.contains("already in the process"), "{again}");
        rig.machine.device_del("hd").unwrap();
        rig.machine.device_del("ata").unwrap();
        rig.gone("ns");
        rig.gone("hd");
        rig.gone("ata");
        assert_eq!(rig.roots(), ["ctl", "unit"]);
    }
    let cases = [
        (json!({"driver": "nvme-ns", "drive": "c", "nsid": 1}), "namespace 1 of 'ctl' is taken"),
        (json!({"driver": "nvme-ns", "drive": "c", "bus": "hba"}), "no nvme controller 'hba'"),
        (json!({"driver": "scsi-hd", "drive": "d", "lun": 0, "scsi-id": 0}), "taken by 'unit'"),
        (json!({"driver": "scsi-hd", "drive": "x"}), "'x'"),
        (json!({"driver": "ide-hd", "drive": "d", "bus": "sata.5"}), "taken by 'cd'"),
        (json!({"driver": "ide-hd", "drive": "d", "bus": "sata.6"}), "sata.0 to sata.5"),
        (json!({"driver": "nvme-ns", "drive": "x"}), "'x'"),
    ];
    for (device, wanted) in cases {
        let error = rig.add(device.clone()).unwrap_err().desc;
        assert!(error.contains(wanted), "{device}: {error}");
    }
    assert_eq!(rig.roots(), ["ctl", "unit"]);
    rig.add(json!({"driver": "nvme-ns", "id": "ns", "drive": "c"})).unwrap();
    // Whole controllers go with all that is behind them.
    rig.add(json!({"driver": "ide-hd", "id": "ata", "drive": "e"})).unwrap();
    let (ctl, hba, sata) = (rig.function(4), rig.function(6), rig.function(7));
    for (id, slot) in [("ctl", 4), ("hba", 6), ("sata", 7)] {
        rig.machine.device_del(id).unwrap();
        rig.port_write(EJECT, 1 << slot);
        rig.gone(id);
    }
    assert!(rig.roots().is_empty() && rig.machine.spec.devices.is_empty());
    assert!(rig.machine.disks.disks.is_empty());
    assert!(ctl.upgrade().is_none() && hba.upgrade().is_none() && sata.upgrade().is_none());
}

#[test]
fn the_chipset_stays_with_its_drives() {
    let blockdevs = nodes(["a", "b"]);
    let devices = ["piix3-ide,id=ide", "ide-hd,id=hd,drive=a,bus=ide.0"];
    let Some(mut rig) = rig(&blockdevs.each_ref().map(|n| &**n), &devices) else { return };
    let wanted = [("ide", "a part of the chipset"), ("hd", "do not leave the cable")];
    for (id, reason) in wanted {
        let error = rig.machine.device_del(id).unwrap_err().desc;
        let start = format!("Device '{id}' does not support unplugging");
        assert!(error.starts_with(&start) && error.contains(reason), "{error}");
    }
    assert_eq!((rig.port(REMOVING), rig.port(EVENTS)), (0, 0));
    let drive = json!({"driver": "ide-hd", "id": "hot", "drive": "b", "bus": "ide.1"});
    let error = rig.add(drive).unwrap_err().desc;
    assert!(error.contains("'ide' does not support hotplugging of drives"), "{error}");
    let second = json!({"driver": "piix4-ide", "id": "other"});
    let error = rig.add(second).unwrap_err().desc;
    assert!(error.contains("'ide' has the legacy ports already"), "{error}");
    // The guest's own hand does not take it away either.
    rig.port_write(EJECT, 1 << 1);
    assert_eq!(rig.config(1, 0), 0x7000_8086);
    let ide = Address { slot: 1, function: 1 };
    assert!(rig.machine.board.pci.get(ide).is_some());
    assert_eq!(rig.roots(), ["hd"]);
    assert_eq!(rig.machine.spec.devices.len(), 2);
}

#[test]
fn a_shared_disk_is_one_unit_behind_two_adapters_and_stays_until_both_are_gone() {
    let blockdevs = nodes(["a"]);
    let devices = [
        "virtio-scsi-pci,id=one",
        "virtio-scsi-pci,id=two",
        "scsi-hd,id=x,drive=a,share-rw=on,bus=one.0",
        "scsi-hd,id=y,drive=a,share-rw=on,bus=two.0",
    ];
    let Some(mut rig) = rig(&blockdevs.each_ref().map(|n| &**n), &devices) else { return };
    assert_eq!(rig.roots(), ["x"]);
    assert_eq!(rig.machine.disks.disks.len(), 2);
    rig.machine.device_del("x").unwrap();
    rig.gone("x");
    assert_eq!(rig.roots(), ["x"], "the other one still has it");
    rig.machine.device_del("y").unwrap();
    rig.gone("y");
    assert!(rig.roots().is_empty());
}

#[test]
fn controllers_of_a_subsystem_have_the_namespaces_of_each_other() {
    let blockdevs = nodes(["a", "b"]);
    let devices = [
        "nvme-subsys,id=sub",
        "nvme,id=one,subsys=sub,drive=a,addr=4",
        "nvme,id=two,subsys=sub,addr=5",
        "nvme-ns,id=ns,drive=b,bus=two",
    ];
    let Some(mut rig) = rig(&blockdevs.each_ref().map(|n| &**n), &devices) else { return };
    assert_eq!(rig.roots(), ["ns", "one"]);
    let error = rig.machine.device_del("sub").unwrap_err().desc;
    assert!(error.contains("does not support unplugging"), "{error}");
    rig.machine.device_del("two").unwrap();
    rig.port_write(EJECT, 1 << 5);
    rig.gone("two");
    assert_eq!(rig.roots(), ["one"], "what came through it went with it");
    // Its namespace ID is free again, on the one that is left.
    rig.add(json!({"driver": "nvme-ns", "id": "again", "drive": "b", "nsid": 2})).unwrap();
    assert_eq!(rig.roots(), ["again", "one"]);
}

#[test]
fn media_are_changed_and_nothing_of_them_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("b.iso");
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let blockdevs = nodes(["a"]);
    let devices = ["virtio-scsi-pci,id=hba", "scsi-cd,id=cd,drive=a", "scsi-cd,id=empty"];
    let Some(mut rig) = rig(&blockdevs.each_ref().map(|n| &**n), &devices) else { return };
    let id = || "cd".to_owned();
    assert_eq!(rig.roots(), ["cd"]);
    let closed = rig.answer(Command::RemoveMedium { id: id() }).unwrap_err();
    assert!(closed.contains("Tray of device 'cd' is not open"), "{closed}");
    rig.answer(Command::OpenTray { id: id(), force: false }).unwrap();
    assert_eq!(rig.roots(), ["cd"], "it lies on the tray");
    rig.answer(Command::RemoveMedium { id: id() }).unwrap();
    assert!(rig.roots().is_empty());
    let insert = || Command::InsertMedium { id: id(), node_name: "a".to_owned() };
    rig.answer(insert()).unwrap();
    assert!(rig.answer(insert()).unwrap_err().contains("already has a medium"));
    rig.answer(Command::CloseTray { id: id() }).unwrap();

    let change = |path: &std::path::Path| {
        Command::ChangeMedium(MediumChange {
            id: id(),
            filename: path.display().to_string(),
            format: None,
            force: false,
        })
    };
    let names = |rig: &Rig| {
        let all = rig.machine.disks.graph.query_nodes();
        all.into_iter().map(|node| node.node_name).collect::<Vec<_>>()
    };
    rig.answer(change(&image)).unwrap();
    assert_eq!(names(&rig), ["a", "cd-medium1", "cd-medium1.file"]);
    let node = rig.machine.disks.graph.node_of_root("cd").unwrap();
    assert_eq!(node, "cd-medium1");
    // What cannot be opened, or is no medium, leaves the old one where it is.
    let missing = rig.answer(change(&dir.path().join("none.iso"))).unwrap_err();
    assert!(missing.contains("none.iso"), "{missing}");
    rig.answer(Command::Eject { id: id(), force: false }).unwrap();
    rig.until(|machine| machine.disks.graph.query_nodes().len() == 1);
    assert!(rig.roots().is_empty());
    rig.answer(change(&image)).unwrap();
    assert_eq!(rig.roots(), ["cd"]);
    let other = rig.answer(Command::CloseTray { id: "hba".to_owned() }).unwrap_err();
    assert!(other.contains("'hba'"), "{other}");
    // The drive goes with its medium; the image is free then.
    rig.machine.device_del("cd").unwrap();
    rig.gone("cd");
    rig.until(|machine| machine.disks.graph.query_nodes().len() == 1);
}

#[test]
fn what_makes_no_machine_is_said_in_one_sentence() {
    if Host::open().is_err() {
        return;
    }
    let kernel = kernel();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.raw");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    std::fs::write(dir.path().join("a.raw.state"), b"something else").unwrap();
    let file = format!("file,node-name=n,filename={}", image.display());
    let tiny = "null,node-name=n,size=256";
    let small = "null,node-name=n,size=3584";
    let cases: [(&str, &[&str], &[&str]); 9] = [
        (tiny, &["virtio-blk-pci,id=d,drive=n"], &["'d'", "256 bytes", "a block of 512"]),
        (tiny, &["nvme,id=d,drive=n"], &["'d'", "256 bytes", "a block of 512"]),
        (small, &["nvme,id=d,drive=n,logical_block_size=4096"], &["'d'", "a block of 4096"]),
        (small, &["nvme,id=c", "nvme-ns,id=d,drive=n,logical_block_size=4096"], &["'d'", "4096"]),
        (tiny, &["virtio-scsi-pci,id=a", "scsi-hd,id=d,drive=n"], &["'d'", "a block of 512"]),
        (tiny, &["virtio-scsi-pci,id=a", "scsi-cd,id=d,drive=n"], &["'d'", "a block of 2048"]),
        (tiny, &["virtio-rng-pci,addr=1f.0"], &["PCI address 1f.0 is taken by 'lpc'"]),
        (&file, &["nvme,id=d,drive=n"], &["a.raw.state", "state=none"]),
        (&file, &["virtio-scsi-pci", "scsi-hd,id=d,drive=n"], &["a.raw.state", "state=none"]),
    ];
    for (node, devices, wanted) in cases {
        let spec = describe(&[node], devices, kernel.path());
        let error = build(&spec).err().unwrap_or_else(|| panic!("{devices:?} makes a machine"));
        let message = spindle_block::error::with_causes(&error);
        for part in wanted {
            assert!(message.contains(part), "{devices:?}: '{part}' not in: {message}");
        }
        assert!(!message.contains('\n'));
    }
}
