//! Devices that come and go, seen from the guest, the monitor and the host at the same time.

use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::{
    client::{Function, PATIENCE, Qtest, spindle},
    disk::{Disk, pattern},
    qmp::Qmp,
};

/// Registers of ACPI PCI hot-plug, and the status of general purpose events.
const INSERTED: u16 = 0xcc0;
const REMOVING: u16 = 0xcc4;
const EJECT: u16 = 0xcc8;
const EVENTS: u16 = 0x620;

fn start(dir: TempDir, args: &[&str]) -> (Qtest, Qmp) {
    let socket = dir.path().join("qmp");
    let qmp = format!("unix:{},server=on", socket.display());
    let mut all = vec!["--qmp", &qmp];
    all.extend(args);
    let q = Qtest::start_in(dir, &all);
    (q, Qmp::connect(&socket))
}

fn qcow2(dir: &TempDir, name: &str) -> String {
    let path = dir.path().join(name).display().to_string();
    let made = spindle().args(["img", "create", "-f", "qcow2", &path, "64M"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    path
}

/// A disk is plugged in, used, and pulled out while a request hangs; then its image is free, and the process
/// has as many descriptors as before.
#[test]
fn a_disk_is_plugged_used_and_pulled_out_under_a_request() {
    let dir = TempDir::new().unwrap();
    let path = qcow2(&dir, "a.qcow2");
    let (mut q, mut qmp) = start(dir, &["--object", "iothread,id=io"]);
    let mut descriptors = None;
    for round in 0..4_u8 {
        let file = json!({ "driver": "file", "filename": path });
        let node = json!({ "driver": "qcow2", "node-name": "n", "file": file });
        qmp.run("blockdev-add", node);
        qmp.run("blockdev-add", json!({ "driver": "fault", "node-name": "f", "file": "n" }));
        let device = json!({
            "driver": "virtio-blk-pci", "id": "hot", "drive": "f", "addr": "5", "num-queues": 3,
            "iothread": "io",
        });
        qmp.run("device_add", device.clone());
        let again = qmp.try_run("device_add", device).unwrap_err();
        assert!(again.contains("Duplicate device ID 'hot'"), "{again}");
        assert_eq!((q.inl(INSERTED), q.inb(EVENTS)), (1 << 5, 2));
        q.outb(EVENTS, 2);
        let mut disk = Disk::new(&mut q, 5);
        let data = pattern(round, 4096);
        disk.write(&mut q, 8, &data);
        assert_eq!(disk.read(&mut q, 8, 4096), data);

        let hang = json!({ "node-name": "f", "op": "read", "action": "hang" });
        qmp.run("x-fault-add", hang);
        disk.start(&mut q, 0, 8, 4096);
        let start = Instant::now();
        while qmp.run("x-fault-query", json!({ "node-name": "f" }))[0]["waiting"] != 1 {
            assert!(start.elapsed() < PATIENCE, "the request does not hang");
        }
        qmp.run("device_del", json!({ "id": "hot" }));
        assert_eq!(q.inl(REMOVING), 1 << 5);
        let used = qmp.try_run("blockdev-del", json!({ "node-name": "f" })).unwrap_err();
        assert!(used.contains("hot"), "{used}");
        q.outl(EJECT, 1 << 5);
        assert_eq!(Function::new(5, 0).get(&mut q, 0, 4), 0xffff_ffff);
        let gone = qmp.event("DEVICE_DELETED");
        assert_eq!(gone, json!({ "device": "hot", "path": "/machine/peripheral/hot" }));
        assert_eq!(qmp.run("query-block", json!({})), json!([]));
        qmp.run("blockdev-del", json!({ "node-name": "f" }));
        qmp.run("blockdev-del", json!({ "node-name": "n" }));
        let check = spindle().args(["img", "check", &path]).output().unwrap();
        assert!(check.status.success(), "{check:?}");
        // The first round leaves the interrupt line that it needed.
        match descriptors {
            None if round == 0 => {}
            None => descriptors = Some(q.descriptors()),
            Some(before) => assert_eq!(q.descriptors(), before, "round {round}"),
        }
    }
    assert!(q.end().1.success());
}

/// An NVMe controller with an admin queue, which looks which namespaces there are.
struct Nvme {
    bar: u64,
    tail: u64,
}

const ASQ: u64 = 0x20_0000;
const ACQ: u64 = 0x20_1000;
const PAGE: u64 = 0x20_2000;
const IO_SQ: u64 = 0x20_3000;
const IO_CQ: u64 = 0x20_4000;
const ENTRIES: u64 = 8;

impl Nvme {
    fn new(q: &mut Qtest, slot: u64) -> Self {
        let function = Function::new(slot, 0);
        assert_eq!(function.get(q, 8, 4) >> 8, 0x01_0802, "an NVMe controller");
        function.enable(q);
        let bar = function.bar(q, 0);
        q.ok(&format!("memset {ASQ:#x} 0x2000 0"));
        q.store(bar + 0x24, 4, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        q.store(bar + 0x28, 8, ASQ);
        q.store(bar + 0x30, 8, ACQ);
        q.store(bar + 0x14, 4, 4 << 20 | 6 << 16 | 1);
        let start = Instant::now();
        while q.load(bar + 0x1c, 4) & 1 == 0 {
            assert!(start.elapsed() < PATIENCE, "never ready");
        }
        Self { bar, tail: 0 }
    }

    /// Identify with this CNS and namespace, into `PAGE`; its status.
    fn identify(&mut self, q: &mut Qtest, cns: u64, nsid: u64) -> u64 {
        self.admin(q, 6, nsid, cns).0
    }

    /// Sends an admin command with `PAGE` as its data; its status and the first doubleword.
    fn admin(&mut self, q: &mut Qtest, opcode: u64, nsid: u64, dw10: u64) -> (u64, u64) {
        self.send(q, (opcode, nsid, PAGE), (dw10, 0))
    }

    /// Creates queue 1 of 8 entries at an address.
    fn create(&mut self, q: &mut Qtest, opcode: u64, at: u64, dw11: u64) -> (u64, u64) {
        self.send(q, (opcode, 0, at), (7 << 16 | 1, dw11))
    }

    fn send(
        &mut self,
        q: &mut Qtest,
        (opcode, nsid, data): (u64, u64, u64),
        (dw10, dw11): (u64, u64),
    ) -> (u64, u64) {
        let (at, slot) = (ASQ + self.tail % ENTRIES * 64, self.tail % ENTRIES);
        q.ok(&format!("memset {at:#x} 64 0"));
        q.store(at, 4, opcode | slot << 16);
        q.store(at + 4, 4, nsid);
        q.store(at + 24, 8, data);
        q.store(at + 40, 4, dw10);
        q.store(at + 44, 4, dw11);
        let (phase, entry) = (1 ^ (self.tail / ENTRIES) & 1, ACQ + slot * 16);
        self.tail += 1;
        q.store(self.bar + 0x1000, 4, self.tail % ENTRIES);
        let start = Instant::now();
        while q.load(entry + 14, 2) & 1 != phase {
            assert!(start.elapsed() < PATIENCE, "no completion");
        }
        // Status code and type, without More and Do Not Retry.
        let answer = (q.load(entry + 14, 2) >> 1 & 0x7ff, q.load(entry, 4));
        q.store(self.bar + 0x1004, 4, self.tail % ENTRIES);
        answer
    }

    /// Makes one pair of I/O queues.
    fn io_queue(&mut self, q: &mut Qtest) {
        for (opcode, at, dw11) in [(5, IO_CQ, 1), (1, IO_SQ, 1 << 16 | 1)] {
            q.ok(&format!("memset {at:#x} 4096 0"));
            let (status, _) = self.create(q, opcode, at, dw11);
            assert_eq!(status, 0, "opcode {opcode}");
        }
    }

    /// Sends a read of one block of 512 bytes as the entry `slot` of the I/O queue, whose ID it is.
    fn read(&mut self, q: &mut Qtest, slot: u64, nsid: u64) {
        let at = IO_SQ + slot * 64;
        q.store(at, 4, 2 | slot << 16);
        q.store(at + 4, 4, nsid);
        q.store(at + 24, 8, PAGE);
        q.store(self.bar + 0x1008, 4, slot + 1);
    }

    /// The namespaces that are attached.
    fn namespaces(&mut self, q: &mut Qtest) -> Vec<u64> {
        assert_eq!(self.identify(q, 2, 0), 0);
        (0..8).map(|i| q.load(PAGE + i * 4, 4)).take_while(|nsid| *nsid != 0).collect()
    }
}

#[test]
fn namespaces_of_a_running_controller_come_and_go() {
    let dir = TempDir::new().unwrap();
    let (mut q, mut qmp) = start(
        dir,
        &[
            "--blockdev",
            "null-co,node-name=a,size=64M",
            "--blockdev",
            "null-co,node-name=b,size=32M",
            "--device",
            "nvme,id=c,drive=a,addr=4,serial=S7",
        ],
    );
    let mut nvme = Nvme::new(&mut q, 4);
    assert_eq!(nvme.identify(&mut q, 1, 0), 0);
    assert_eq!(q.read(PAGE + 4, 2), b"S7");
    assert_eq!(nvme.namespaces(&mut q), [1]);
    for _ in 0..2 {
        qmp.run(
            "device_add",
            json!({ "driver": "nvme-ns", "id": "ns", "drive": "b", "bus": "c", "nsid": 9,
                    "logical_block_size": 4096 }),
        );
        assert_eq!(nvme.namespaces(&mut q), [1, 9]);
        assert_eq!(nvme.identify(&mut q, 0, 9), 0);
        assert_eq!(q.load(PAGE, 8), (32 << 20) / 4096, "blocks");
        let used = qmp.try_run("blockdev-del", json!({ "node-name": "b" })).unwrap_err();
        assert!(used.contains("ns"), "{used}");
        qmp.run("device_del", json!({ "id": "ns" }));
        assert_eq!(qmp.event("DEVICE_DELETED")["device"], "ns");
        assert_eq!(nvme.namespaces(&mut q), [1]);
    }
    qmp.run("blockdev-del", json!({ "node-name": "b" }));
    // The whole controller goes while it is enabled.
    qmp.run("device_del", json!({ "id": "c" }));
    q.outl(EJECT, 1 << 4);
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "c");
    qmp.run("blockdev-del", json!({ "node-name": "a" }));
    assert!(q.end().1.success());
}

/// A namespace leaves under a read that hangs in its fault node; the command ends, and so does one of
/// another namespace, which hangs on until it is released.
#[test]
fn a_namespace_leaves_under_a_request_that_hangs() {
    let dir = TempDir::new().unwrap();
    let (mut q, mut qmp) = start(
        dir,
        &[
            "--blockdev",
            "fault,node-name=a,file.driver=null-co",
            "--blockdev",
            "fault,node-name=b,file.driver=null-co",
            "--device",
            "nvme,id=c,drive=a,addr=4,werror=stop,rerror=stop",
            "--device",
            "nvme-ns,id=ns,drive=b",
        ],
    );
    let mut nvme = Nvme::new(&mut q, 4);
    nvme.io_queue(&mut q);
    let hang = |node| json!({ "node-name": node, "op": "read", "action": "hang" });
    let waiting = |qmp: &mut Qmp, node| {
        qmp.run("x-fault-query", json!({ "node-name": node }))[0]["waiting"].as_u64()
    };
    for (slot, (node, nsid)) in [("a", 1), ("b", 2)].into_iter().enumerate() {
        qmp.run("x-fault-add", hang(node));
        nvme.read(&mut q, slot as u64, nsid);
        let start = Instant::now();
        while waiting(&mut qmp, node) != Some(1) {
            assert!(start.elapsed() < PATIENCE, "the request does not hang");
        }
    }
    qmp.run("device_del", json!({ "id": "ns" }));
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "ns");
    // The only one that has ended, as it does after an abort: its status is not success.
    let entry = |q: &mut Qtest, slot: u64| (q.load(IO_CQ + slot * 16 + 12, 4), slot);
    let (first, _) = entry(&mut q, 0);
    assert_eq!(first & 0x1_ffff, 0x1_0000 | 1, "its command ID and phase");
    assert_ne!(first >> 17 & 0x7ff, 0);
    assert_eq!(entry(&mut q, 1).0, 0);
    assert_eq!(waiting(&mut qmp, "a"), Some(1), "the other one is not touched");
    qmp.run("blockdev-del", json!({ "node-name": "b" }));
    qmp.run("x-fault-release", json!({ "node-name": "a" }));
    let start = Instant::now();
    while entry(&mut q, 1).0 != 0x1_0000 {
        assert!(start.elapsed() < PATIENCE, "never released");
    }
    assert_eq!(qmp.run("query-status", json!({}))["running"], true);
    assert!(q.end().1.success());
}

#[test]
fn a_reset_of_the_machine_takes_away_what_was_to_go() {
    let dir = TempDir::new().unwrap();
    let device = "virtio-blk-pci,id=d,drive=a,addr=4";
    let (mut q, mut qmp) = start(dir, &["--blockdev", "null-co,node-name=a", "--device", device]);
    Disk::new(&mut q, 4);
    qmp.run("device_del", json!({ "id": "d" }));
    qmp.run("system_reset", json!({}));
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "d");
    assert_eq!(Function::new(4, 0).get(&mut q, 0, 4), 0xffff_ffff);
    assert_eq!((q.inl(REMOVING), q.inb(EVENTS)), (0, 0));
    qmp.run("blockdev-del", json!({ "node-name": "a" }));
    assert!(q.end().1.success());
}

/// Creates a namespace of so many blocks of 4096 bytes and attaches it; the create's status and the ID.
fn create(q: &mut Qtest, nvme: &mut Nvme, blocks: u64) -> (u64, u64) {
    q.ok(&format!("memset {PAGE:#x} 4096 0"));
    q.store(PAGE, 8, blocks);
    q.store(PAGE + 8, 8, blocks);
    // The second format.
    q.store(PAGE + 26, 1, 1);
    let (status, nsid) = nvme.admin(q, 0x0d, 0, 0);
    if status == 0 {
        q.ok(&format!("memset {PAGE:#x} 4096 0"));
        // One controller, the first.
        q.store(PAGE, 2, 1);
        assert_eq!(nvme.admin(q, 0x15, nsid, 0).0, 0);
    }
    (status, nsid)
}

#[test]
fn a_guest_makes_namespaces_that_outlive_the_machine() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("pool")).unwrap();
    let images = |dir: &TempDir| {
        let all = std::fs::read_dir(dir.path().join("pool")).unwrap();
        let mut names: Vec<_> =
            all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".qcow2"));
        names.sort();
        names
    };
    let args = ["--device", "nvme,id=c,addr=4,pool=DIR/pool,pool-size=64M"];
    let (mut q, mut qmp) = start(dir, &args);
    let mut nvme = Nvme::new(&mut q, 4);
    assert!(nvme.namespaces(&mut q).is_empty());
    assert_eq!(create(&mut q, &mut nvme, (64 << 20) / 4096 + 1).0, 0x115, "insufficient capacity");
    assert_eq!(create(&mut q, &mut nvme, (48 << 20) / 4096), (0, 1));
    assert_eq!(create(&mut q, &mut nvme, (32 << 20) / 4096).0, 0x115);
    assert_eq!(create(&mut q, &mut nvme, (16 << 20) / 4096), (0, 2));
    assert_eq!(nvme.namespaces(&mut q), [1, 2]);
    assert_eq!(images(&q.dir), ["ns1.qcow2", "ns2.qcow2"]);
    assert_eq!(qmp.run("query-block", json!({}))[0]["qdev"], "c-ns1");
    let refused = qmp.try_run("device_del", json!({ "id": "c-ns1" })).unwrap_err();
    assert!(refused.contains("does not support unplugging"), "{refused}");
    // Delete.
    assert_eq!(nvme.admin(&mut q, 0x0d, 1, 1).0, 0);
    assert_eq!(nvme.namespaces(&mut q), [2]);
    assert_eq!(images(&q.dir), ["ns2.qcow2"]);
    let (dir, status) = q.end();
    assert!(status.success());
    for socket in ["qtest", "qmp"] {
        let _ = std::fs::remove_file(dir.path().join(socket));
    }

    let (mut q, mut qmp) = start(dir, &args);
    let mut nvme = Nvme::new(&mut q, 4);
    assert_eq!(nvme.namespaces(&mut q), [2]);
    assert_eq!(nvme.identify(&mut q, 0, 2), 0);
    assert_eq!(q.load(PAGE, 8), (16 << 20) / 4096, "its block size too is as it was");
    // The controller goes with all of it; the images stay.
    qmp.run("device_del", json!({ "id": "c" }));
    q.outl(EJECT, 1 << 4);
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "c-ns2");
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "c");
    assert_eq!(images(&q.dir), ["ns2.qcow2"]);
    assert!(q.end().1.success());
}
