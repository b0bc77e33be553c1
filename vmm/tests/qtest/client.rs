//! A qtest client, and PCI through it.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// After so long something is taken to be lost.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running machine and the way to it.
pub struct Qtest {
    /// Files of the test.
    pub dir: TempDir,
    child: Child,
    lines: BufReader<UnixStream>,
    /// Interrupt lines that have come: raised or lowered, and which.
    pub irqs: VecDeque<(bool, u32)>,
}

/// The program that is tested.
pub fn spindle() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spindle"));
    command.stdin(Stdio::null()).env("SPINDLE_LOG", "warn");
    command
}

impl Qtest {
    /// Starts a machine with these arguments; `DIR` in them is the test's directory.
    pub fn start(args: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), args)
    }

    pub fn start_in(dir: TempDir, args: &[&str]) -> Self {
        let path = dir.path().join("qtest");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = spindle();
        command.args(["run", "-accel", "qtest", "--serial", "null", "-m", "64"]);
        command.args(["-qtest", &format!("unix:{}", path.display())]);
        let child = command.args(in_dir(dir.path(), args)).spawn().unwrap();
        let (stream, _) = listener.accept().unwrap();
        Self::over(dir, child, stream)
    }

    pub fn over(dir: TempDir, child: Child, stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, child, lines: BufReader::new(stream), irqs: VecDeque::new() }
    }

    /// Sends a line and returns the answer.
    pub fn send(&mut self, line: &str) -> String {
        let stream = self.lines.get_mut();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.answer()
    }

    /// The connection, for a thread that only sends.
    pub fn clone_stream(&self) -> UnixStream {
        self.lines.get_ref().try_clone().unwrap()
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }

    /// The next line that is no interrupt.
    pub fn answer(&mut self) -> String {
        loop {
            let line = self.line().expect("the machine ended");
            if let Some(line) = line {
                return line;
            }
        }
    }

    /// The next line: `Some(None)` for an interrupt, `None` at the end.
    fn line(&mut self) -> Option<Option<String>> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        let line = line.trim_end_matches('\n').to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["IRQ", verb, number] => {
                assert!(matches!(verb, "raise" | "lower"), "{line}");
                self.irqs.push_back((verb == "raise", number.parse().unwrap()));
                Some(None)
            }
            _ => Some(Some(line)),
        }
    }

    /// Waits for the next change of an interrupt line.
    pub fn irq(&mut self) -> (bool, u32) {
        loop {
            if let Some(irq) = self.irqs.pop_front() {
                return irq;
            }
            let line = self.line().expect("the machine ended");
            assert_eq!(line, None, "nothing was asked");
        }
    }

    /// Sends a line whose answer is plain success.
    pub fn ok(&mut self, line: &str) {
        assert_eq!(self.send(line), "OK", "{line}");
    }

    fn value(&mut self, line: &str) -> u64 {
        let answer = self.send(line);
        let digits = answer.strip_prefix("OK 0x").unwrap_or_else(|| panic!("{line}: {answer}"));
        u64::from_str_radix(digits, 16).unwrap()
    }

    pub fn inb(&mut self, port: u16) -> u64 {
        self.value(&format!("inb {port:#x}"))
    }

    pub fn inw(&mut self, port: u16) -> u64 {
        self.value(&format!("inw {port:#x}"))
    }

    pub fn inl(&mut self, port: u16) -> u64 {
        self.value(&format!("inl {port:#x}"))
    }

    pub fn outb(&mut self, port: u16, value: u64) {
        self.ok(&format!("outb {port:#x} {value:#x}"));
    }

    pub fn outw(&mut self, port: u16, value: u64) {
        self.ok(&format!("outw {port:#x} {value:#x}"));
    }

    pub fn outl(&mut self, port: u16, value: u64) {
        self.ok(&format!("outl {port:#x} {value:#x}"));
    }

    /// A load of 1, 2, 4 or 8 bytes from memory.
    pub fn load(&mut self, at: u64, width: usize) -> u64 {
        self.value(&format!("read{} {at:#x}", letter(width)))
    }

    /// A store of 1, 2, 4 or 8 bytes to memory.
    pub fn store(&mut self, at: u64, width: usize, value: u64) {
        self.ok(&format!("write{} {at:#x} {value:#x}", letter(width)));
    }

    pub fn read(&mut self, at: u64, len: usize) -> Vec<u8> {
        let answer = self.send(&format!("read {at:#x} {len}"));
        let digits = answer.strip_prefix("OK 0x").unwrap();
        assert_eq!(digits.len(), len * 2);
        let byte = |i: usize| u8::from_str_radix(&digits[i * 2..i * 2 + 2], 16).unwrap();
        (0..len).map(byte).collect()
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.ok(&format!("write {at:#x} {} 0x{digits}", bytes.len()));
    }

    /// How many descriptors the process has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Hangs up; returns how the process ended.
    pub fn end(self) -> (TempDir, ExitStatus) {
        let Self { dir, child, lines, .. } = self;
        drop(lines);
        (dir, wait(child))
    }

    /// Waits for an end that was asked for otherwise.
    pub fn ended(mut self) -> (TempDir, ExitStatus) {
        while self.line().is_some() {}
        (self.dir, wait(self.child))
    }

    /// A load from configuration space, through the ports.
    pub fn pci_by_ports(&mut self, slot: u64, function: u64, at: u64) -> u64 {
        self.outl(0xcf8, 1 << 31 | slot << 11 | function << 8 | at);
        self.inl(0xcfc)
    }
}

/// Waits for a process.
pub fn wait(mut child: Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::yield_now();
    }
}

fn in_dir(dir: &Path, args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.replace("DIR", dir.to_str().unwrap())).collect()
}

fn letter(width: usize) -> char {
    match width {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

/// A function in configuration space in memory.
#[derive(Clone, Copy)]
pub struct Function {
    base: u64,
}

impl Function {
    pub fn new(slot: u64, function: u64) -> Self {
        Self { base: 0xb000_0000 + (slot << 15) + (function << 12) }
    }

    pub fn get(self, q: &mut Qtest, at: u64, width: usize) -> u64 {
        q.load(self.base + at, width)
    }

    pub fn set(self, q: &mut Qtest, at: u64, width: usize, value: u64) {
        q.store(self.base + at, width, value);
    }

    /// Gives every memory BAR an address, as a driver without firmware does, and switches memory
    /// decoding and bus mastering on.
    pub fn enable(self, q: &mut Qtest) {
        let mut next = 0xe000_0000_u64;
        let mut bar = 0x10;
        while bar < 0x28 {
            self.set(q, bar, 4, 0xffff_ffff);
            let mask = self.get(q, bar, 4);
            let wide = mask & 7 == 4;
            if mask != 0 && mask & 1 == 0 {
                let size = (!(mask & !0xf) & 0xffff_ffff) + 1;
                next = next.next_multiple_of(size);
                self.set(q, bar, 4, next);
                next += size;
            }
            bar += if wide { 8 } else { 4 };
        }
        self.set(q, 4, 2, 6);
    }

    pub fn bar(self, q: &mut Qtest, index: u64) -> u64 {
        let low = self.get(q, 0x10 + index * 4, 4);
        let high = if low & 6 == 4 { self.get(q, 0x14 + index * 4, 4) } else { 0 };
        high << 32 | low & !0xf
    }

    /// Offsets of the capabilities with this id.
    pub fn capabilities(self, q: &mut Qtest, id: u64) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = self.get(q, 0x34, 1);
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            if self.get(q, at, 1) == id {
                found.push(at);
            }
            at = self.get(q, at + 1, 1);
        }
        found
    }
}
