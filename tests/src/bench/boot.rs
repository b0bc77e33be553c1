//! How fast a guest starts, and what it costs: spindle against QEMU.
//!
//! *First instruction*: the kernel's own image with its entry points patched to write a character to
//! the serial port, which both put on their standard output. *Init*: until the first line of a script that is the guest's `/init`.

use std::{
    fs,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{Goal, Row, interleave, kvm_stats::Exits, median};
use crate::lab::{
    guest::{Guest, Vmm},
    image::Image,
    job::Job,
};

/// What the patched kernel says on the serial port.
const SIGN: u8 = b'K';

/// From the start of the process to the kernel's first instruction. Needs no KVM on which a kernel boots, only one
/// that comes to its entry; `on` says which KVM that is, if not the one of all other figures.
///
/// # Errors
/// The first measurement that could not be made.
pub fn start(work: &Path, rounds: usize, on: &str) -> Result<Vec<Row>, String> {
    let image = Image::build("guest").map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for (name, patched) in [
        ("ELF by PVH", patch_elf(&image.file("vmlinux"), work)?),
        ("bzImage", patch_bzimage(&image.file("vmlinuz"), work)?),
    ] {
        let (ours, peer) = interleave(
            rounds * 3,
            || first_instruction(&Vmm::spindle(), &patched),
            || first_instruction(&Vmm::Qemu, &patched),
        )?;
        rows.push(Row {
            name: format!("start to first kernel instruction, {name}{on}"),
            ours,
            peer: Some(peer),
            unit: "ms".into(),
            goal: Goal::RatioAtMost(0.1),
        });
    }
    Ok(rows)
}

/// All figures of this part. `work` is a scratch directory.
///
/// # Errors
/// The first measurement that could not be made.
pub fn run(work: &Path, rounds: usize, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, String> {
    progress("start to the kernel's first instruction");
    let mut rows = start(work, rounds, "")?;
    let image = Image::build("guest").map_err(|e| e.to_string())?;
    progress("start to /init");
    for (name, kernel, goal) in
        [("bzImage", image.file("vmlinuz"), 0.65), ("ELF by PVH", image.file("vmlinux"), 0.85)]
    {
        let (mut exits_ours, mut exits_peer) = (Vec::new(), Vec::new());
        let (ours, peer) = interleave(
            rounds,
            || init(&Vmm::spindle(), &kernel, &mut exits_ours, work),
            || init(&Vmm::Qemu, &kernel, &mut exits_peer, work),
        )?;
        rows.push(Row {
            name: format!("start to /init, {name}"),
            ours,
            peer: Some(peer),
            unit: "ms".into(),
            goal: Goal::RatioAtMost(goal),
        });
        for (what, of) in [
            ("exits until /init", (|e: &Exits| e.total as f64) as fn(&Exits) -> f64),
            ("exits to user space until /init", |e| e.to_user as f64),
        ] {
            rows.push(Row {
                name: format!("{what}, {name}"),
                ours: median(exits_ours.iter().map(of).collect()),
                peer: Some(median(exits_peer.iter().map(of).collect())),
                unit: "exits".into(),
                goal: Goal::RatioAtMost(0.5),
            });
        }
    }
    progress("resident memory");
    rows.push(resident(work)?);
    Ok(rows)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn save(work: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, String> {
    let path = work.join(name);
    fs::write(&path, bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

fn le(bytes: &[u8], at: usize, len: usize) -> Result<u64, String> {
    let field = bytes.get(at..at + len).ok_or("the kernel is truncated")?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn put(bytes: &mut [u8], at: usize, code: &[u8]) -> Result<(), String> {
    bytes.get_mut(at..at + code.len()).ok_or("the kernel is truncated")?.copy_from_slice(code);
    Ok(())
}

/// `mov dx, 0x3f8; mov al, SIGN; out dx, al; out 0x80, al; hlt` in 16-bit code. Nobody is at port 80h, but to write
/// there leaves the guest, and with that the character, which may be collected, comes out.
const SAY_16: [u8; 9] = [0xba, 0xf8, 0x03, 0xb0, SIGN, 0xee, 0xe6, 0x80, 0xf4];
/// The same in 32- and 64-bit code.
const SAY: [u8; 10] = [0x66, 0xba, 0xf8, 0x03, 0xb0, SIGN, 0xee, 0xe6, 0x80, 0xf4];

/// Finds the PVH entry (Xen note 18) and patches what the file has there.
fn patch_elf(kernel: &Path, work: &Path) -> Result<PathBuf, String> {
    let mut elf = read(kernel)?;
    let (table, size, count) =
        (le(&elf, 32, 8)? as usize, le(&elf, 54, 2)? as usize, le(&elf, 56, 2)? as usize);
    let header = |n: usize| table + n * size;
    let mut entry = None;
    for n in 0..count {
        // PT_NOTE
        if le(&elf, header(n), 4)? != 4 {
            continue;
        }
        let mut at = le(&elf, header(n) + 8, 8)? as usize;
        let end = at + le(&elf, header(n) + 32, 8)? as usize;
        while at + 12 <= end {
            let (name, desc) = (le(&elf, at, 4)? as usize, le(&elf, at + 4, 4)? as usize);
            let kind = le(&elf, at + 8, 4)?;
            let value = at + 12 + name.next_multiple_of(4);
            if kind == 18 && elf.get(at + 12..at + 15) == Some(b"Xen") {
                entry = Some(le(&elf, value, desc.min(8))?);
            }
            at = value + desc.next_multiple_of(4);
        }
    }
    let entry = entry.ok_or("the kernel has no PVH entry")?;
    for n in 0..count {
        let (offset, paddr, filesz) = (
            le(&elf, header(n) + 8, 8)?,
            le(&elf, header(n) + 24, 8)?,
            le(&elf, header(n) + 32, 8)?,
        );
        // PT_LOAD
        if le(&elf, header(n), 4)? == 1 && (paddr..paddr + filesz).contains(&entry) {
            put(&mut elf, (entry - paddr + offset) as usize, &SAY)?;
            return save(work, "vmlinux-exit", &elf);
        }
    }
    Err("no segment holds the PVH entry".into())
}

/// Patches the real-mode entry and the 64-bit entry.
fn patch_bzimage(kernel: &Path, work: &Path) -> Result<PathBuf, String> {
    let mut image = read(kernel)?;
    // 200h: a short jump over the setup header to the real-mode code.
    let target = 0x202 + le(&image, 0x201, 1)? as usize;
    put(&mut image, target, &SAY_16)?;
    let setup = (le(&image, 0x1f1, 1)? as usize + 1) * 512;
    put(&mut image, setup + 0x200, &SAY)?;
    save(work, "vmlinuz-exit", &image)
}

fn words(vmm: &Vmm, kernel: &Path) -> (PathBuf, Vec<String>) {
    let kernel = kernel.display().to_string();
    match vmm {
        Vmm::Spindle(program) => {
            let words = ["run", "--serial", "stdio", "-m", "512M", "--kernel", &kernel];
            (program.clone(), words.iter().map(|w| (*w).to_owned()).collect())
        }
        Vmm::Qemu => {
            let words = [
                "-accel",
                "kvm",
                "-M",
                "q35",
                "-cpu",
                "host",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-m",
                "512M",
                "-kernel",
                &kernel,
                "-serial",
                "stdio",
            ];
            ("qemu-system-x86_64".into(), words.iter().map(|w| (*w).to_owned()).collect())
        }
    }
}

/// Milliseconds from the start of the process to the character of the patched kernel.
fn first_instruction(vmm: &Vmm, kernel: &Path) -> Result<f64, String> {
    let (program, words) = words(vmm, kernel);
    let start = Instant::now();
    let mut child = Command::new(&program)
        .args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", program.display()))?;
    let output = child.stdout.take().ok_or("no pipe to the process")?;
    // Waits without polling: in the lab every tick of a timer is dear.
    let (said, heard) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        let found = BufReader::new(output).bytes().map_while(Result::ok).any(|byte| byte == SIGN);
        let _ = said.send(found.then(|| start.elapsed()));
    });
    let time = heard.recv_timeout(Duration::from_secs(60)).ok().flatten();
    let _ = child.kill();
    let _ = child.wait();
    let _ = listener.join();
    time.map(|time| time.as_secs_f64() * 1e3)
        .ok_or_else(|| format!("{} {words:?} never came to the kernel", program.display()))
}

/// Milliseconds from the start of the process to the first line of `/init`.
fn init(vmm: &Vmm, kernel: &Path, exits: &mut Vec<Exits>, work: &Path) -> Result<f64, String> {
    let script = "#!/bin/busybox sh\necho '<<bench: init>>'\nread x\n";
    let mut last = String::new();
    for _ in 0..3 {
        let mut guest =
            Guest::initramfs(vmm.clone(), Job::new(script)).map_err(|e| e.to_string())?;
        guest.kernel = kernel.to_path_buf();
        guest.append = "rdinit=/job.sh".into();
        let start = Instant::now();
        let mut running = guest.start(work).map_err(|e| e.to_string())?;
        match running.wait_for("<<bench: init>>") {
            Ok(()) => {
                let time = start.elapsed().as_secs_f64() * 1e3;
                exits.push(Exits::of(running.id())?);
                running.kill();
                return Ok(time);
            }
            Err(error) => {
                eprintln!("lab-flake: {error}");
                last = error.to_string();
            }
        }
    }
    Err(last)
}

/// MiB resident beyond the guest's memory, after boot: one 10 GiB disk, one iothread, two vCPUs.
fn resident(work: &Path) -> Result<Row, String> {
    let disk = work.join("resident.qcow2");
    let create = ["create", "-q", "-f", "qcow2"];
    super::process::output(Command::new("qemu-img").args(create).arg(&disk).arg("10G"))?;
    let script = "#!/bin/sh\necho '<<bench: booted>>'\nsleep 60\n";
    let guest = Guest::initramfs(Vmm::spindle(), Job::new(script))
        .map_err(|e| e.to_string())?
        .cpus(2)
        .disk(crate::lab::guest::Disk::new(&disk, "qcow2"));
    let memory = u64::from(guest.memory_mib) << 10;
    let mut running = guest.start(work).map_err(|e| e.to_string())?;
    running.wait_for("<<bench: booted>>").map_err(|e| e.to_string())?;
    let path = format!("/proc/{}/smaps", running.id());
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    running.kill();
    Ok(Row {
        name: "resident beyond guest memory, after boot".into(),
        ours: resident_kib(&text, memory) as f64 / 1024.0,
        peer: None,
        unit: "MiB".into(),
        goal: Goal::AtMost(12.0),
    })
}

/// Sums `Rss` over all mappings but those as large as the guest's memory (KiB).
fn resident_kib(smaps: &str, guest_kib: u64) -> u64 {
    let (mut size, mut sum) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next(), words.next().and_then(|v| v.parse::<u64>().ok()));
        match (key, value) {
            (Some("Size:"), Some(kib)) => size = kib,
            (Some("Rss:"), Some(kib)) if size < guest_kib => sum += kib,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_does_not_count_as_resident() {
        let smaps = "7f00-7f01 rw-p\nSize: 524288 kB\nRss: 90000 kB\n\
                     5500-5501 r-xp\nSize: 3000 kB\nRss: 1500 kB\nPss: 7 kB\n\
                     5600-5601 rw-p\nSize: 40 kB\nRss: 24 kB\n";
        assert_eq!(resident_kib(smaps, 524_288), 1524);
    }
}
