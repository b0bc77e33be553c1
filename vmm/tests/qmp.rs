//! The monitor of a machine that runs: `spindle run` as a process, with a guest that does nothing,
//! spoken to over its socket. Disks are served by the `threads` engine, inside the seccomp filters.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const SPINDLE: &str = env!("CARGO_BIN_EXE_spindle");
/// How long anything may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const DISK: u64 = 1 << 20;

/// An x86-64 ELF executable at 16 MiB that halts for ever.
fn kernel() -> Vec<u8> {
    const LOAD: u64 = 0x100_0000;
    const AT: u64 = 0x1000;
    // cli; hlt; jmp to the hlt.
    let code = [0xfa, 0xf4, 0xeb, 0xfd];
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [LOAD, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [AT, LOAD, LOAD, code.len() as u64, 4096, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.resize(AT as usize, 0);
    elf.extend(code);
    elf
}

struct Vm {
    dir: tempfile::TempDir,
    process: Child,
    reader: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Vm {
    /// A machine with one disk, `vd0`, on the fault node `f0` over the raw file `raw0`; `None` where
    /// there is no KVM and `make test` runs this in the lab.
    fn start() -> Option<Self> {
        if let Err(error) = kvm_ioctls::Kvm::new() {
            let elsewhere = std::env::var_os("SPINDLE_NO_KVM").is_some();
            assert!(elsewhere, "/dev/kvm: {error}; with SPINDLE_NO_KVM=1 this is left to the lab");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("kernel"), kernel()).unwrap();
        fs::write(at("disk.raw"), vec![0; DISK as usize]).unwrap();
        let socket = at("qmp");
        let raw =
            format!("driver=file,node-name=raw0,aio=threads,filename={}", at("disk.raw").display());
        let process = Command::new(SPINDLE)
            .arg("run")
            .args(["--kernel", at("kernel").to_str().unwrap(), "--memory", "64M"])
            .args(["--serial", "null", "--blockdev", &raw])
            .args(["--blockdev", "driver=fault,node-name=f0,file=raw0"])
            .args(["--device", "virtio-blk-pci,drive=f0,id=vd0"])
            .args(["--qmp", &format!("unix:{},server=on", socket.display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut vm = Self { dir, reader: connect(&socket), process, events: Vec::new() };
        let greeting = vm.line();
        assert!(greeting["QMP"]["version"].is_object(), "{greeting}");
        vm.good("qmp_capabilities", json!({}));
        Some(vm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// The answer to a command; events before it are kept.
    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments, "id": command}).to_string();
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
        loop {
            let message = self.line();
            match message["event"].as_str() {
                Some(event) => self.events.push(event.to_owned()),
                None => {
                    assert_eq!(message["id"], command, "{message}");
                    return message;
                }
            }
        }
    }

    fn good(&mut self, command: &str, arguments: Value) -> Value {
        let mut message = self.ask(command, arguments);
        assert!(message["error"].is_null(), "{message}");
        message["return"].take()
    }

    /// The sentence of an error.
    fn refused(&mut self, command: &str, arguments: Value) -> String {
        let message = self.ask(command, arguments);
        let text = message["error"]["desc"].as_str();
        text.unwrap_or_else(|| panic!("{command} was not refused: {message}")).to_owned()
    }

    /// Waits for an event.
    fn event(&mut self, name: &str) {
        while !self.events.iter().any(|seen| seen == name) {
            let message = self.line();
            self.events.extend(message["event"].as_str().map(str::to_owned));
        }
    }

    fn nodes(&mut self) -> Vec<String> {
        let nodes = self.good("query-named-block-nodes", json!({}));
        let name = |node: &Value| node["node-name"].as_str().unwrap().to_owned();
        nodes.as_array().unwrap().iter().map(name).collect()
    }
}

fn connect(socket: &Path) -> BufReader<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return BufReader::new(stream);
            }
            Err(e) if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&e.kind()) => {}
            Err(e) => panic!("{}: {e}", socket.display()),
        }
        assert!(start.elapsed() < PATIENCE, "no monitor");
        std::thread::yield_now();
    }
}

fn img(args: &[&str]) {
    let output = Command::new(SPINDLE).arg("img").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn disks_are_described_counted_and_resized() {
    let Some(mut vm) = Vm::start() else { return };
    let disks = vm.good("query-block", json!({}));
    let [disk] = &disks.as_array().unwrap()[..] else { panic!("{disks}") };
    assert_eq!((&disk["qdev"], &disk["io-status"]), (&json!("vd0"), &json!("ok")));
    let inserted = &disk["inserted"];
    assert_eq!((&inserted["node-name"], &inserted["drv"]), (&json!("f0"), &json!("fault")));
    assert_eq!(
        (&inserted["ro"], &inserted["image"]["virtual-size"]),
        (&json!(false), &json!(DISK))
    );
    let stats = vm.good("query-blockstats", json!({}));
    let [stats] = &stats.as_array().unwrap()[..] else { panic!("{stats}") };
    assert_eq!((&stats["qdev"], &stats["node-name"]), (&json!("vd0"), &json!("f0")));
    assert_eq!(stats["stats"]["rd_operations"], 0, "the guest does nothing");
    let all = vm.good("query-blockstats", json!({"query-nodes": true}));
    let named = |name: &str| all.as_array().unwrap().iter().any(|node| node["node-name"] == name);
    assert!(named("f0") && named("raw0"), "{all}");

    vm.good("block_resize", json!({"device": "vd0", "size": 2 * DISK}));
    let disks = vm.good("query-block", json!({}));
    assert_eq!(disks[0]["inserted"]["image"]["virtual-size"], 2 * DISK);
    assert_eq!(fs::metadata(vm.path("disk.raw")).unwrap().len(), 2 * DISK);
    vm.good("block_resize", json!({"node-name": "f0", "size": 3 * DISK}));
    assert_eq!(fs::metadata(vm.path("disk.raw")).unwrap().len(), 3 * DISK);
    let message = vm.ask("block_resize", json!({"device": "vd9", "size": DISK}));
    assert_eq!(message["error"]["class"], "DeviceNotFound");
}

#[test]
fn nodes_come_and_go() {
    let Some(mut vm) = Vm::start() else { return };
    let image = vm.path("second.qcow2");
    img(&["create", "-f", "qcow2", image.to_str().unwrap(), "64M"]);
    let before = vm.nodes();
    let add = json!({"driver": "qcow2", "node-name": "q1",
        "file": {"driver": "file", "node-name": "p1", "filename": image}});
    for _ in 0..2 {
        vm.good("blockdev-add", add.clone());
        assert!(vm.nodes().contains(&"q1".to_owned()));
        let said = vm.refused("blockdev-add", add.clone());
        assert!(said.contains("p1") || said.contains("q1"), "{said}");
        let said = vm.refused("blockdev-del", json!({"node-name": "p1"}));
        assert!(said.contains("p1"), "it is in use: {said}");
        vm.good("blockdev-del", json!({"node-name": "q1"}));
        if vm.nodes().contains(&"p1".to_owned()) {
            vm.good("blockdev-del", json!({"node-name": "p1"}));
        }
        assert_eq!(vm.nodes(), before);
    }
    // It is closed whole, and nobody's any more.
    img(&["check", image.to_str().unwrap()]);
    let said = vm.refused("blockdev-del", json!({"node-name": "f0"}));
    assert!(said.contains("f0"), "a disk uses it: {said}");
    let said = vm.refused("blockdev-del", json!({"node-name": "nobody"}));
    assert!(said.contains("nobody"), "{said}");
    let missing = json!({"driver": "raw", "node-name": "r1",
        "file": {"driver": "file", "node-name": "m1", "filename": vm.path("not-there")}});
    let said = vm.refused("blockdev-add", missing);
    assert!(said.contains("not-there"), "{said}");
    assert_eq!(vm.nodes(), before, "nothing is left of it");
}

#[test]
fn faults_are_added_shown_and_taken_away() {
    let Some(mut vm) = Vm::start() else { return };
    let added = vm.good("x-fault-add", json!({"node-name": "f0", "op": "read", "errno": "EIO"}));
    let id = added["id"].as_str().unwrap().to_owned();
    vm.good(
        "x-fault-add",
        json!({"node-name": "f0", "id": "slow", "op": "write",
        "action": "delay", "delay-ns": 1000, "count": 3}),
    );
    let rules = vm.good("x-fault-query", json!({"node-name": "f0"}));
    let rules = rules.as_array().unwrap();
    assert_eq!(rules.len(), 2, "{rules:?}");
    let slow = rules.iter().find(|rule| rule["id"] == "slow").unwrap();
    assert_eq!((&slow["action"], &slow["count"]), (&json!("delay"), &json!(3)));
    assert_eq!((&slow["hits"], &slow["spent"]), (&json!(0), &json!(false)));
    assert_eq!(vm.good("x-fault-query", json!({})).as_array().unwrap().len(), 2);
    vm.good("x-fault-release", json!({"node-name": "f0"}));
    vm.good("x-fault-del", json!({"node-name": "f0", "id": id}));
    let said = vm.refused("x-fault-del", json!({"node-name": "f0", "id": id}));
    assert!(said.contains(&id), "{said}");
    let said = vm.refused("x-fault-add", json!({"node-name": "f0", "id": "slow"}));
    assert!(said.contains("slow"), "{said}");
    let said = vm.refused("x-fault-add", json!({"node-name": "raw0"}));
    assert!(said.contains("raw0"), "it is no fault node: {said}");
    let said = vm.refused("x-fault-query", json!({"node-name": "nobody"}));
    assert!(said.contains("nobody"), "{said}");
    vm.good("x-fault-del", json!({"node-name": "f0", "id": "slow"}));
    assert_eq!(vm.good("x-fault-query", json!({})), json!([]));
}

#[test]
fn a_machine_stops_goes_on_resets_and_quits() {
    let Some(mut vm) = Vm::start() else { return };
    let status = |vm: &mut Vm| vm.good("query-status", json!({}))["status"].take();
    assert_eq!(status(&mut vm), "running");
    vm.good("stop", json!({}));
    vm.event("STOP");
    assert_eq!(status(&mut vm), "paused");
    // Nodes may be changed while it is paused.
    vm.good("blockdev-add", json!({"driver": "null-co", "node-name": "n1"}));
    vm.good("blockdev-del", json!({"node-name": "n1"}));
    vm.good("cont", json!({}));
    vm.event("RESUME");
    assert_eq!(status(&mut vm), "running");
    vm.good("system_reset", json!({}));
    vm.event("RESET");
    assert_eq!(status(&mut vm), "running");
    vm.good("quit", json!({}));
    vm.event("SHUTDOWN");
    assert!(vm.process.wait().unwrap().success());
}
