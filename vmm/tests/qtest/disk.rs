//! virtio-blk from its first register to bytes in the host's file.

use std::{path::Path, time::Instant};

use tempfile::TempDir;

use super::client::{Function, PATIENCE, Qtest, spindle};

const QUEUE: u64 = 0x10_0000;
const AVAIL: u64 = 0x10_1000;
const USED: u64 = 0x10_2000;
const HEADER: u64 = 0x11_0000;
pub const DATA: u64 = 0x12_0000;
const ENTRIES: u64 = 16;

/// A disk that was brought up with one queue of 16 entries.
pub struct Disk {
    function: Function,
    common: u64,
    isr: u64,
    config: u64,
    bell: u64,
    offered: u64,
}

impl Disk {
    pub fn new(q: &mut Qtest, slot: u64) -> Self {
        Self::with(q, slot, |_, _| ())
    }

    /// `prepare` runs before the queue is enabled.
    fn with(q: &mut Qtest, slot: u64, prepare: impl FnOnce(&mut Qtest, &Self)) -> Self {
        let function = Function::new(slot, 0);
        assert_eq!(function.get(q, 0, 4), 0x1042_1af4);
        function.enable(q);
        let mut disk = Self { function, common: 0, isr: 0, config: 0, bell: 0, offered: 0 };
        let mut notify = (0, 0);
        for cap in function.capabilities(q, 9) {
            let index = function.get(q, cap + 4, 1);
            let at = function.bar(q, index) + function.get(q, cap + 8, 4);
            match function.get(q, cap + 3, 1) {
                1 => disk.common = at,
                2 => notify = (at, function.get(q, cap + 16, 4)),
                3 => disk.isr = at,
                4 => disk.config = at,
                _ => {}
            }
        }
        let common = disk.common;
        q.store(common + 20, 1, 0);
        let start = Instant::now();
        while q.load(common + 20, 1) != 0 {
            assert!(start.elapsed() < PATIENCE, "the reset never ends");
        }
        q.store(common + 20, 1, 3);
        // VIRTIO_F_VERSION_1 alone.
        for (half, features) in [(0, 0), (1, 1)] {
            q.store(common + 8, 4, half);
            q.store(common + 12, 4, features);
        }
        q.store(common + 20, 1, 11);
        assert_eq!(q.load(common + 20, 1), 11, "the features are refused");
        prepare(q, &disk);
        q.store(common + 22, 2, 0);
        q.store(common + 24, 2, ENTRIES);
        for (at, place) in [(32, QUEUE), (40, AVAIL), (48, USED)] {
            q.ok(&format!("memset {place:#x} 4096 0"));
            q.store(common + at, 8, place);
        }
        q.store(common + 28, 2, 1);
        disk.bell = notify.0 + q.load(common + 30, 2) * notify.1;
        q.store(common + 20, 1, 15);
        disk
    }

    /// Makes a request available and rings; it is not waited for.
    pub fn start(&mut self, q: &mut Qtest, kind: u32, sector: u64, len: u32) {
        q.store(HEADER, 4, kind.into());
        q.store(HEADER + 4, 4, 0);
        q.store(HEADER + 8, 8, sector);
        q.store(HEADER + 16, 1, 0xee);
        let write = if kind == 0 { 2 } else { 0 };
        let chain = [(HEADER, 16, 1, 1), (DATA, len, 1 | write, 2), (HEADER + 16, 1, 2, 0)];
        for (i, (address, len, flags, next)) in (0..).zip(chain) {
            let at = QUEUE + i * 16;
            q.store(at, 8, address);
            q.store(at + 8, 4, len.into());
            q.store(at + 12, 2, flags);
            q.store(at + 14, 2, next);
        }
        q.store(AVAIL + 4 + self.offered % ENTRIES * 2, 2, 0);
        self.offered += 1;
        q.store(AVAIL + 2, 2, self.offered);
        q.store(self.bell, 2, 0);
    }

    /// Waits for the last request by polling; returns its status.
    pub fn wait(&self, q: &mut Qtest) -> u64 {
        let start = Instant::now();
        while q.load(USED + 2, 2) != self.offered & 0xffff {
            assert!(start.elapsed() < PATIENCE, "no answer");
        }
        q.load(HEADER + 16, 1)
    }

    pub fn write(&mut self, q: &mut Qtest, sector: u64, bytes: &[u8]) {
        q.write(DATA, bytes);
        self.start(q, 1, sector, bytes.len() as u32);
        assert_eq!(self.wait(q), 0);
    }

    pub fn read(&mut self, q: &mut Qtest, sector: u64, len: u32) -> Vec<u8> {
        self.start(q, 0, sector, len);
        assert_eq!(self.wait(q), 0);
        q.read(DATA, len as usize)
    }
}

pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn img(args: &[&str], path: &Path) {
    let output = spindle().arg("img").args(args).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_raw_disk_is_read_and_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.raw");
    let mut content = pattern(1, 1 << 20);
    std::fs::write(&path, &content).unwrap();
    let mut q = Qtest::start_in(dir, &["--disk", "DIR/a.raw"]);
    let mut disk = Disk::new(&mut q, 2);
    assert_eq!(q.load(disk.config, 8), 2048);
    assert_eq!(disk.read(&mut q, 8, 4096), content[4096..8192]);
    let new = pattern(77, 1024);
    disk.write(&mut q, 3, &new);
    assert_eq!(disk.read(&mut q, 2, 2048)[512..1536], new);
    // Beyond the end.
    disk.start(&mut q, 0, 2048, 512);
    assert_eq!(disk.wait(&mut q), 1);
    let (_dir, status) = q.end();
    assert!(status.success());
    content[1536..2560].copy_from_slice(&new);
    assert_eq!(std::fs::read(path).unwrap(), content);
}

#[test]
fn a_qcow2_disk_is_closed_when_the_test_hangs_up() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.qcow2");
    let output = spindle().args(["img", "create", "-f", "qcow2"]).arg(&path).arg("64M").output();
    assert!(output.unwrap().status.success());
    let args = ["--object", "iothread,id=io", "--disk", "DIR/a.qcow2,iothread=io,queues=2"];
    let mut q = Qtest::start_in(dir, &args);
    let mut disk = Disk::new(&mut q, 2);
    assert_eq!(disk.read(&mut q, 0, 512), [0; 512]);
    let data = pattern(5, 8192);
    disk.write(&mut q, 1000, &data);
    assert_eq!(disk.read(&mut q, 1000, 8192), data);
    let (dir, status) = q.end();
    assert!(status.success());
    img(&["check"], &path);
    let mut q = Qtest::start_in(again(dir), &args);
    let mut disk = Disk::new(&mut q, 2);
    assert_eq!(disk.read(&mut q, 1000, 8192), data);
    assert!(q.end().1.success());
}

/// The same directory for another machine; its socket is made anew.
fn again(dir: TempDir) -> TempDir {
    std::fs::remove_file(dir.path().join("qtest")).unwrap();
    dir
}

#[test]
fn the_wire_of_a_disk_is_seen_at_the_interrupt_controller() {
    let mut q = Qtest::start(&[
        "--blockdev",
        "null-co,node-name=n,read-zeroes=on",
        "--device",
        "virtio-blk-pci,drive=n,addr=6",
    ]);
    q.ok("irq_intercept_in ioapic");
    let mut disk = Disk::new(&mut q, 6);
    assert_eq!(disk.function.get(&mut q, 0x3d, 1), 1, "INTA");
    for _ in 0..3 {
        disk.start(&mut q, 0, 0, 512);
        assert_eq!(q.irq(), (true, 22));
        assert_eq!(disk.wait(&mut q), 0);
        assert_eq!(q.load(disk.isr, 1), 1);
        assert_eq!(q.irq(), (false, 22));
    }
    assert_eq!(q.send("endianness"), "OK little");
    assert!(q.irqs.is_empty());
    assert!(q.end().1.success());
}

#[test]
fn messages_of_a_disk_arrive_in_memory() {
    const MESSAGE: u64 = 0x13_0000;
    let mut q = Qtest::start(&[
        "--blockdev",
        "null-co,node-name=n,read-zeroes=on",
        "--device",
        "virtio-blk-pci,drive=n",
    ]);
    q.ok("irq_intercept_in ioapic");
    let mut table = 0;
    let mut disk = Disk::with(&mut q, 2, |q, disk| {
        let f = disk.function;
        let cap = f.capabilities(q, 0x11)[0];
        let place = f.get(q, cap + 4, 4);
        table = f.bar(q, place & 7) + (place & !7);
        f.set(q, cap + 2, 2, 0x8000);
        q.store(table + 16, 8, MESSAGE);
        q.store(table + 24, 4, 0x1234_5678);
        // The vector of the first queue, still masked.
        q.store(disk.common + 22, 2, 0);
        q.store(disk.common + 26, 2, 1);
        assert_eq!(q.load(disk.common + 26, 2), 1);
    });
    disk.start(&mut q, 0, 0, 512);
    assert_eq!(disk.wait(&mut q), 0);
    assert_eq!(q.load(MESSAGE, 4), 0, "masked");
    q.store(table + 28, 4, 0);
    let start = Instant::now();
    while q.load(MESSAGE, 4) != 0x1234_5678 {
        assert!(start.elapsed() < PATIENCE, "no message");
    }
    q.store(MESSAGE, 4, 0);
    disk.start(&mut q, 0, 0, 512);
    while q.load(MESSAGE, 4) != 0x1234_5678 {
        assert!(start.elapsed() < PATIENCE, "no message");
    }
    assert!(q.irqs.is_empty(), "the wire is not used");
    assert!(q.end().1.success());
}
