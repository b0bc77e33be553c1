//! Figures from inside a guest: spindle against QEMU on the same KVM, images, kernel and command
//! line, in turn. Runs where the KVM is: on the host, or in the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Goal, Row, kvm_stats::Exits, median, process::output};
use crate::lab::{
    guest::{Guest, Running, Vmm},
    job::Job,
};

/// What fio does: a name, which way, with which blocks, and how many requests it keeps in flight.
struct Workload {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
}

const fn workload(
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
) -> Workload {
    Workload { name, rw, block, depth }
}

/// What every controller does, in this order.
const WORKLOADS: &[Workload] = &[
    workload("4K random read QD1", "randread", "4k", 1),
    workload("4K random read QD32", "randread", "4k", 32),
    workload("4K random write QD32", "randwrite", "4k", 32),
    workload("128K sequential read QD4", "read", "128k", 4),
    workload("128K sequential write QD4", "write", "128k", 4),
];
/// Which of them are 4K random reads, at depth 1 and 32.
const QD1: usize = 0;
const QD32: usize = 1;

/// A storage controller of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// virtio-blk.
    VirtioBlk,
    /// NVMe, with shadow doorbells.
    Nvme,
    /// virtio-scsi with one disk.
    VirtioScsi,
    /// AHCI with one drive.
    Ahci,
    /// IDE with one drive.
    Ide,
    /// An SD host controller with one card.
    Sd,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::VirtioBlk, Self::Nvme, Self::VirtioScsi, Self::Ahci, Self::Ide, Self::Sd];

    /// Its name, as `--disk controller=` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::Nvme => "nvme",
            Self::VirtioScsi => "virtio-scsi",
            Self::Ahci => "ahci",
            Self::Ide => "ide",
            Self::Sd => "sd",
        }
    }

    /// The factor over the peer that is aimed at in a workload.
    fn goal(self, workload: usize) -> Option<f64> {
        match (self, workload) {
            (Self::VirtioBlk | Self::VirtioScsi | Self::Nvme, 4) => None,
            (Self::VirtioBlk | Self::VirtioScsi, _) => Some(1.2),
            (Self::Nvme, _) | (Self::Ahci, QD1) => Some(1.3),
            (Self::Ahci, QD32) => Some(2.0),
            (Self::Ide, QD1 | QD32) => Some(1.5),
            (Self::Sd, QD1 | QD32) => Some(3.0),
            (Self::Ahci | Self::Ide | Self::Sd, _) => None,
        }
    }

    /// Whether it has more than one queue.
    fn has_queues(self) -> bool {
        matches!(self, Self::VirtioBlk | Self::Nvme | Self::VirtioScsi)
    }

    /// The guest's name of the disk.
    fn disk(self) -> &'static str {
        match self {
            Self::VirtioBlk => "/dev/vda",
            Self::Nvme => "/dev/nvme0n1",
            Self::VirtioScsi | Self::Ahci | Self::Ide => "/dev/sda",
            Self::Sd => "/dev/mmcblk0",
        }
    }

    /// The guest's drivers.
    fn modules(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio_pci,virtio_blk",
            Self::Nvme => "nvme",
            Self::VirtioScsi => "virtio_pci,virtio_scsi,sd_mod",
            Self::Ahci => "ahci,sd_mod",
            Self::Ide => "ata_piix,sd_mod",
            Self::Sd => "sdhci_pci,mmc_block",
        }
    }

    /// The devices over node `d0`, served by iothread `io0` where the peer's device knows iothreads.
    fn devices(self, vmm: &Vmm, queues: u32) -> Vec<String> {
        match (self, vmm) {
            (Self::VirtioBlk, _) => {
                vec![format!("virtio-blk-pci,drive=d0,iothread=io0,num-queues={queues}")]
            }
            (Self::Nvme, Vmm::Spindle(_)) => {
                vec![format!("nvme,drive=d0,serial=bench,iothread=io0,max_ioqpairs={queues}")]
            }
            (Self::Nvme, Vmm::Qemu) => {
                vec![format!("nvme,drive=d0,serial=bench,max_ioqpairs={queues}")]
            }
            (Self::VirtioScsi, _) => vec![
                format!("virtio-scsi-pci,id=s0,iothread=io0,num_queues={queues}"),
                "scsi-hd,bus=s0.0,drive=d0".into(),
            ],
            (Self::Ahci, Vmm::Spindle(_)) => {
                vec!["ich9-ahci,id=a0,iothread=io0".into(), "ide-hd,bus=a0.0,drive=d0".into()]
            }
            (Self::Ahci, Vmm::Qemu) => {
                vec!["ich9-ahci,id=a0".into(), "ide-hd,bus=a0.0,drive=d0".into()]
            }
            (Self::Ide, Vmm::Spindle(_)) => {
                vec!["piix3-ide,id=i0,iothread=io0".into(), "ide-hd,bus=i0.0,drive=d0".into()]
            }
            (Self::Ide, Vmm::Qemu) => {
                vec!["piix3-ide,id=i0".into(), "ide-hd,bus=i0.0,drive=d0".into()]
            }
            (Self::Sd, Vmm::Spindle(_)) => {
                vec!["sdhci-pci,id=s0,iothread=io0".into(), "sd-card,drive=d0".into()]
            }
            (Self::Sd, Vmm::Qemu) => vec!["sdhci-pci,id=s0".into(), "sd-card,drive=d0".into()],
        }
    }
}

/// Where the guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Raw,
    Qcow2,
    Null,
}

/// What one workload in one guest came to.
#[derive(Clone, Copy, Debug)]
struct Sample {
    iops: f64,
    exits_per_io: f64,
}

/// All figures of `controller`. `dir` is on the disk that images are measured on.
///
/// # Errors
/// The first measurement that could not be made.
pub fn run(
    dir: &Path,
    controller: Controller,
    rounds: usize,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Row>, String> {
    let raw = dir.join("bench.raw");
    let qcow2 = dir.join("bench.qcow2");
    make_images(&raw, &qcow2)?;
    let mut rows = Vec::new();
    let media = [(Medium::Null, PathBuf::new()), (Medium::Raw, raw), (Medium::Qcow2, qcow2)];
    let name = controller.name();
    let mut null = None;
    for (medium, path) in &media {
        progress(&format!("{name} on {medium:?}"));
        let setup = Setup { controller, medium: *medium, path, queues: 1 };
        let figures = compare(&setup, rounds, dir)?;
        let null = null.get_or_insert_with(|| figures.clone());
        rows.extend(judge(&setup, &figures, null));
    }
    if controller.has_queues() {
        progress("two queues against one");
        rows.push(two_queues(controller, &media[1].1, rounds, dir)?);
    }
    Ok(rows)
}

/// A guest's disk.
#[derive(Clone, Copy, Debug)]
struct Setup<'a> {
    controller: Controller,
    medium: Medium,
    path: &'a Path,
    queues: u32,
}

fn make_images(raw: &Path, qcow2: &Path) -> Result<(), String> {
    let size = 256 << 20;
    let fill = || -> std::io::Result<()> {
        let mut file = fs::File::create(raw)?;
        let block = vec![0x5a; 1 << 20];
        for _ in 0..size >> 20 {
            std::io::Write::write_all(&mut file, &block)?;
        }
        file.sync_all()
    };
    fill().map_err(|e| format!("cannot make {}: {e}", raw.display()))?;
    output(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(raw).arg(qcow2))?;
    Ok(())
}

/// The words that give a guest one data disk, with one iothread.
fn disk_words(vmm: &Vmm, setup: &Setup<'_>) -> Vec<String> {
    let path = setup.path.display();
    let node = match setup.medium {
        Medium::Null => "driver=null-co,node-name=d0,size=268435456".to_owned(),
        Medium::Raw | Medium::Qcow2 => {
            let format = if setup.medium == Medium::Raw { "raw" } else { "qcow2" };
            format!(
                "driver={format},node-name=d0,cache.direct=on,discard=unmap,file.driver=file,\
                 file.filename={path},file.aio=io_uring,file.cache.direct=on,file.discard=unmap"
            )
        }
    };
    let mut words: Vec<String> =
        ["-object", "iothread,id=io0", "-blockdev", &node].map(str::to_owned).to_vec();
    for device in setup.controller.devices(vmm, setup.queues) {
        words.extend(["-device".to_owned(), device]);
    }
    words
}

fn job(controller: Controller) -> Job {
    let mut script = String::from("#!/bin/sh\ncd /tmp\n");
    for Workload { name, rw, block, depth } in WORKLOADS {
        // Terse version 3: field 8 is read IOPS, field 49 write IOPS.
        let field = if rw.ends_with("read") { 8 } else { 49 };
        let disk = controller.disk();
        script.push_str(&format!(
            "echo \"<<bench: begin {name}>>\"\n\
             v=$(fio --name=x --filename={disk} --rw={rw} --bs={block} --direct=1 \
             --iodepth={depth} --ioengine=io_uring --norandommap --time_based --ramp_time=1 \
             --runtime=3 --output-format=terse | cut -d';' -f{field})\n\
             echo \"<<bench: end {name} = $v>>\"\n"
        ));
    }
    Job::new(script)
}

/// One guest, all workloads.
fn measure(vmm: &Vmm, setup: &Setup<'_>, work: &Path) -> Result<Vec<Sample>, String> {
    let job = job(setup.controller);
    let mut guest = Guest::initramfs(vmm.clone(), job).map_err(|e| e.to_string())?.cpus(2);
    guest.append = format!("spindle.modules={}", setup.controller.modules());
    guest.extra = disk_words(vmm, setup);
    let mut running = guest.start(work).map_err(|e| e.to_string())?;
    let mut samples = Vec::new();
    for Workload { name, .. } in WORKLOADS {
        let lost = |e: crate::lab::guest::GuestError| format!("{vmm:?}, {setup:?}, {name}: {e}");
        running.wait_for(&format!("<<bench: begin {name}>>")).map_err(lost)?;
        running.run_on(Duration::from_millis(1500)).map_err(lost)?;
        let before = Exits::of(running.id())?;
        running.run_on(Duration::from_millis(2000)).map_err(lost)?;
        let after = Exits::of(running.id())?;
        running.wait_for(&format!("<<bench: end {name}")).map_err(lost)?;
        running.wait_for(&format!("<<bench: end {name} = ")).map_err(lost)?;
        let iops = figure(&running, name)?;
        let exits_per_io = (after.total - before.total) as f64 / (iops * 2.0);
        samples.push(Sample { iops, exits_per_io });
    }
    running.finish().map_err(|e| e.to_string())?;
    Ok(samples)
}

fn figure(running: &Running, name: &str) -> Result<f64, String> {
    let wanted = format!("<<bench: end {name} = ");
    for _ in 0..100 {
        let text = running.console();
        let value = text.split(&wanted).nth(1).and_then(|t| t.split_once(">>"));
        if let Some((value, _)) = value {
            return value.trim().parse().map_err(|e| format!("{name}: {value:?}: {e}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("{name}: the guest printed no figure"))
}

/// Runs one guest, again if the lab lost it.
fn measure_patiently(vmm: &Vmm, setup: &Setup<'_>, work: &Path) -> Result<Vec<Sample>, String> {
    let mut last = String::new();
    for _ in 0..3 {
        match measure(vmm, setup, work) {
            Ok(samples) => return Ok(samples),
            Err(error) => {
                eprintln!("lab-flake: {error}");
                last = error;
            }
        }
    }
    Err(last)
}

/// The medians of one workload, ours and the peer's.
#[derive(Clone, Copy, Debug)]
struct Figures {
    iops: [f64; 2],
    exits_per_io: [f64; 2],
}

/// Guests of both in turn, and the medians of each workload.
fn compare(setup: &Setup<'_>, rounds: usize, work: &Path) -> Result<Vec<Figures>, String> {
    let mut all: [Vec<Vec<Sample>>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let who = (round + turn) % 2;
            let vmm = if who == 0 { Vmm::spindle() } else { Vmm::Qemu };
            all[who].push(measure_patiently(&vmm, setup, work)?);
        }
    }
    let mid = |n: usize, f: fn(&Sample) -> f64| {
        [0, 1].map(|who: usize| median(all[who].iter().map(|samples| f(&samples[n])).collect()))
    };
    let figures =
        |n| Figures { iops: mid(n, |s| s.iops), exits_per_io: mid(n, |s| s.exits_per_io) };
    Ok((0..WORKLOADS.len()).map(figures).collect())
}

/// The rows of a medium. `null` has the figures of the disk that takes no time, and is not judged
/// itself.
fn judge(setup: &Setup<'_>, figures: &[Figures], null: &[Figures]) -> Vec<Row> {
    let (controller, medium) = (setup.controller, setup.medium);
    let mut rows = Vec::new();
    let all = figures.iter().zip(null).zip(WORKLOADS).enumerate();
    for (index, ((figures, null), Workload { name, .. })) in all {
        let name = format!("{} on {medium:?}, {name}", controller.name());
        let null = null.iops[0] / null.iops[1];
        let goal = controller.goal(index).filter(|_| medium != Medium::Null);
        rows.push(Row {
            name: name.clone(),
            ours: figures.iops[0],
            peer: Some(figures.iops[1]),
            unit: "IOPS".into(),
            goal: goal.map_or(Goal::None, |goal| Goal::RatioAtLeastOrNull { goal, null }),
        });
        rows.push(Row {
            name: format!("{name}, exits per I/O"),
            ours: figures.exits_per_io[0],
            peer: Some(figures.exits_per_io[1]),
            unit: "exits".into(),
            goal: Goal::RatioAtMost(1.0),
        });
    }
    rows
}

fn two_queues(
    controller: Controller,
    path: &Path,
    rounds: usize,
    work: &Path,
) -> Result<Row, String> {
    let (mut two, mut one) = (Vec::new(), Vec::new());
    let setup = |queues| Setup { controller, medium: Medium::Raw, path, queues };
    for _ in 0..rounds {
        let vmm = Vmm::spindle();
        two.push(measure_patiently(&vmm, &setup(2), work)?[QD32].iops);
        one.push(measure_patiently(&vmm, &setup(1), work)?[QD32].iops);
    }
    Ok(Row {
        name: format!("{}, 4K random read QD32, two queues against one", controller.name()),
        ours: median(two),
        peer: Some(median(one)),
        unit: "IOPS".into(),
        goal: Goal::RatioAtLeast(0.95),
    })
}
