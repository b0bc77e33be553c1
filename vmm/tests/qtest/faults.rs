//! Faults that are made on purpose, seen by a driver.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    client::{PATIENCE, Qtest},
    disk::{DATA, Disk, pattern},
};

/// A QMP monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn new(q: &Qtest) -> Self {
        let stream = UnixStream::connect(q.dir.path().join("qmp")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut monitor = Self(BufReader::new(stream));
        assert!(monitor.message()["QMP"].is_object());
        monitor.run("qmp_capabilities", json!({}));
        monitor
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Runs a command; events in between are passed over.
    fn run(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
        loop {
            let message = self.message();
            if message.get("event").is_none() {
                return message.get("return").unwrap_or_else(|| panic!("{message}")).clone();
            }
        }
    }
}

#[test]
fn rules_come_and_go_over_the_monitor() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let mut q = Qtest::start_in(
        dir,
        &[
            "--blockdev",
            "fault,node-name=x,file.driver=file,file.filename=DIR/a.raw",
            "--device",
            "virtio-blk-pci,drive=x",
            "--qmp",
            "unix:DIR/qmp,server=on",
        ],
    );
    let mut disk = Disk::new(&mut q, 2);
    let mut monitor = Monitor::new(&q);
    let data = pattern(9, 4096);
    q.write(DATA, &data);

    let rule = json!({"node-name": "x", "id": "t", "action": "torn", "torn-bytes": 1024});
    assert_eq!(monitor.run("x-fault-add", rule), json!({"id": "t"}));
    disk.start(&mut q, 1, 8, 4096);
    assert_eq!(disk.wait(&mut q), 1);
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found[4096..5120], data[..1024]);
    assert!(found[5120..].iter().all(|byte| *byte == 0));
    monitor.run("x-fault-del", json!({"node-name": "x", "id": "t"}));

    let rule = json!({"node-name": "x", "id": "c", "action": "corrupt", "op": "read", "seed": 5});
    monitor.run("x-fault-add", rule);
    disk.start(&mut q, 0, 100, 512);
    assert_eq!(disk.wait(&mut q), 0);
    assert_eq!(q.read(DATA, 512).iter().filter(|byte| **byte != 0).count(), 1);
    let shown = &monitor.run("x-fault-query", json!({}))[0];
    assert_eq!((&shown["id"], &shown["hits"], &shown["seed"]), (&json!("c"), &json!(1), &json!(5)));
    monitor.run("x-fault-del", json!({"node-name": "x", "id": "c"}));

    monitor.run("x-fault-add", json!({"node-name": "x", "id": "h", "action": "hang"}));
    disk.start(&mut q, 0, 0, 512);
    let start = Instant::now();
    while monitor.run("x-fault-query", json!({}))[0]["waiting"] != 1 {
        assert!(start.elapsed() < PATIENCE, "it does not hang");
    }
    assert_eq!(q.load(0x11_0010, 1), 0xee, "no status yet");
    monitor.run("x-fault-release", json!({"node-name": "x"}));
    assert_eq!(disk.wait(&mut q), 0);

    // A drain aborts what hangs: the machine ends whatever is under way.
    disk.start(&mut q, 0, 0, 512);
    while monitor.run("x-fault-query", json!({}))[0]["waiting"] != 1 {
        assert!(start.elapsed() < PATIENCE, "it does not hang");
    }
    assert!(q.end().1.success());
}

#[test]
fn rules_of_qemu_are_taken() {
    let dir = TempDir::new().unwrap();
    let rules = "[inject-error]\nevent = \"write_aio\"\nsector = \"5\"\nonce = \"on\"\n";
    std::fs::write(dir.path().join("rules"), rules).unwrap();
    let node = r#"{"driver": "blkdebug", "node-name": "x", "config": "DIR/rules",
        "image": {"driver": "null-co", "read-zeroes": true},
        "inject-error": [{"event": "flush_to_disk", "iotype": "flush", "errno": 5}]}"#;
    let mut q = Qtest::start_in(dir, &["--blockdev", node, "--device", "virtio-blk-pci,drive=x"]);
    let mut disk = Disk::new(&mut q, 2);
    let mut outcome = |kind, sector| {
        disk.start(&mut q, kind, sector, 512);
        disk.wait(&mut q)
    };
    assert_eq!(outcome(1, 4), 0);
    assert_eq!(outcome(1, 5), 1);
    assert_eq!(outcome(1, 5), 0, "once");
    assert_eq!(outcome(0, 5), 0);
    assert!(q.end().1.success());
}
