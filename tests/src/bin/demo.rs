//! `make demo`: boots a Linux from qcow2 with spindle, lets fio write and verify in there, and prints what
//! it measured.
//!
//! Status 0 means that the guest booted, verified its data and powered off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use spindle_block::error::with_causes;
use spindle_tests::lab::guest::{Disk, Ended, Guest, GuestError, Running, Vmm};
use spindle_tests::lab::image::Image;
use spindle_tests::lab::job::Job;
use spindle_tests::lab::kvm::{self, Kvm};
use spindle_tests::lab::{Command, Lab, LabError, Options, RAM_DISK, inside, source_root};

/// In the guest: one measurement a line, `result NAME IOPS KiB/s MICROSECONDS`, then the verification. The
/// fields are those of fio's terse output, version 3 (fio's HOWTO, "Terse output").
const JOB: &str = r#"
echo "guest $(uname -r), $(nproc) CPUs, root on $(awk '$2 == "/" { print $1 }' /proc/mounts | tail -n 1)"
bench() {
    name=$1 first=$2
    shift 2
    fio --name=$name --filename=/root/data --size=16m --direct=1 --ioengine=io_uring --output-format=terse \
        --terse-version=3 "$@" >/tmp/$name || return 1
    awk -F';' -v f=$first -v n=$name '$1 == 3 { print "result", n, $(f + 2), $(f + 1), int($(f + 34)) }' /tmp/$name
}
read=6 write=47
bench verified-16k $write --rw=randwrite --bs=16k --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 || exit 1
echo "data verified"
bench randread-qd1 $read --rw=randread --bs=4k --iodepth=1 --time_based --runtime=2 || exit 2
bench randread-qd32 $read --rw=randread --bs=4k --iodepth=32 --time_based --runtime=2 || exit 2
bench randwrite-qd32 $write --rw=randwrite --bs=4k --iodepth=32 --time_based --runtime=2 || exit 2
bench read-1m $read --rw=read --bs=1m --iodepth=4 --time_based --runtime=2 || exit 2
sync
mount -o remount,ro /
"#;

/// What the guest starts its job with, printed first of all.
const STARTED: &str = "guest ";

fn main() -> ExitCode {
    let result = if std::env::args().any(|word| word == "--inside") {
        run(&PathBuf::from(if inside() { RAM_DISK.to_owned() } else { text(&local_work()) }))
    } else {
        choose().map_err(GuestError::Lab)
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("demo: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn local_work() -> PathBuf {
    source_root().join("build/demo")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs the demo on this machine's KVM if it is one, else in the lab, in which guests that the lab itself
/// lost are started again.
fn choose() -> Result<i32, LabError> {
    let program = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
    match kvm::probe() {
        Kvm::Real => {
            let status = Process::new(&program)
                .arg("--inside")
                .status()
                .map_err(|source| LabError::Start { program: text(&program), source })?;
            Ok(status.code().unwrap_or(1))
        }
        Kvm::Unusable(why) => {
            println!(
                "No guest runs on this machine's KVM ({why}): using the lab, a KVM emulated by QEMU."
            );
            Image::build("guest")?;
            let mut lab = Lab::start(&Options::default())?;
            let command = Command::new([text(&program), "--inside".to_owned()]);
            lab.run_shown(&command, Duration::from_secs(420))
        }
    }
}

/// Boots the guest, waits for it to end and prints the table.
fn run(work: &Path) -> Result<i32, GuestError> {
    let disk = work.join("demo.qcow2");
    let mut attempt = 1;
    let (boot, ended) = loop {
        fs::create_dir_all(work).map_err(LabError::file("create", work))?;
        fs::copy(Image::build("guest")?.file("guest.qcow2"), &disk)
            .map_err(LabError::file("copy the guest image to", &disk))?;
        match boot(work, &disk) {
            Err(error @ GuestError::Lost { .. }) if inside() && attempt < 3 => {
                println!("lab-flake: attempt {attempt}: {error}");
                attempt += 1;
            }
            result => break result?,
        }
    };
    let ended = ended.success()?;
    print_table(boot, &ended);
    let check = Process::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(&disk)
        .status()
        .map_err(|source| LabError::Start { program: "qemu-img".to_owned(), source })?;
    if !check.success() || !ended.console.contains("data verified") {
        return Err(GuestError::Failed("the image or its data is not as it should be".to_owned()));
    }
    println!("data verified (16 MiB, crc32c), powered off, image clean (qemu-img check)");
    Ok(0)
}

fn boot(work: &Path, disk: &Path) -> Result<(Duration, Ended), GuestError> {
    let disk = Disk::new(disk, "qcow2");
    let mut guest = Guest::on_disk(Vmm::spindle(), disk, Job::new(JOB))?.cpus(2);
    guest.limit = Duration::from_secs(200);
    let mut running: Running = guest.start(work)?;
    running.wait_for(STARTED)?;
    let boot = running.age();
    Ok((boot, running.finish()?))
}

fn print_table(boot: Duration, ended: &Ended) {
    let about = ended.console.lines().find_map(|line| line.strip_prefix(STARTED)).unwrap_or("");
    println!("Linux {about} (virtio-blk, qcow2), up in {:.1} s", boot.as_secs_f64());
    println!("{:<16} {:>9} {:>9} {:>12}", "fio in the guest", "IOPS", "MiB/s", "latency µs");
    for line in ended.console.lines() {
        if let ["result", name, iops, kib, latency] = *line.split(' ').collect::<Vec<_>>() {
            let mib = kib.parse::<f64>().unwrap_or(0.0) / 1024.0;
            println!("{name:<16} {iops:>9} {mib:>9.1} {latency:>12}");
        }
    }
}
