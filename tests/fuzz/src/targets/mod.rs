//! The targets.

mod ahci;
mod ide;
mod images;
mod kernel;
mod nvme;
mod options;
mod qcow2;
mod qmp;
mod scsi;
mod sdhci;
mod virtio;

/// Something that reads hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads one input. Panics where something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to start from: sound ones.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its inputs are made of.
    pub words: &'static [&'static str],
    /// The longest input that makes sense, in bytes.
    pub len_max: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "virtio-registers",
        run: virtio::registers,
        seeds: virtio::seeds,
        words: &[],
        len_max: 1024,
    },
    Target {
        name: "virtio-rings",
        run: virtio::rings,
        seeds: virtio::seeds,
        words: &[],
        len_max: 1024,
    },
    Target { name: "nvme", run: nvme::run, seeds: nvme::seeds, words: &[], len_max: 1024 },
    Target { name: "ahci", run: ahci::run, seeds: ahci::seeds, words: &[], len_max: 1024 },
    Target {
        name: "ahci-multiplier",
        run: ahci::multiplier,
        seeds: ahci::seeds,
        words: &[],
        len_max: 1024,
    },
    Target { name: "ide", run: ide::run, seeds: ide::seeds, words: &[], len_max: 1024 },
    Target { name: "sdhci", run: sdhci::run, seeds: sdhci::seeds, words: &[], len_max: 1024 },
    Target { name: "scsi", run: scsi::run, seeds: scsi::seeds, words: &[], len_max: 1024 },
    Target {
        name: "qcow2-header",
        run: qcow2::header,
        seeds: qcow2::header_seeds,
        words: &["raw", "qcow2"],
        len_max: 4096,
    },
    Target {
        name: "qcow2-image",
        run: qcow2::image,
        seeds: qcow2::image_seeds,
        words: &[],
        len_max: 512,
    },
    Target { name: "vmdk", run: images::vmdk, seeds: images::seeds, words: &[], len_max: 512 },
    Target { name: "vdi", run: images::vdi, seeds: images::seeds, words: &[], len_max: 512 },
    Target { name: "vpc", run: images::vpc, seeds: images::seeds, words: &[], len_max: 512 },
    Target { name: "vhdx", run: images::vhdx, seeds: images::seeds, words: &[], len_max: 512 },
    Target {
        name: "parallels",
        run: images::parallels,
        seeds: images::seeds,
        words: &[],
        len_max: 512,
    },
    Target { name: "qed", run: images::qed, seeds: images::seeds, words: &[], len_max: 512 },
    Target { name: "luks", run: images::luks, seeds: images::seeds, words: &[], len_max: 512 },
    Target {
        name: "qcow",
        run: images::qcow,
        seeds: images::qcow_seeds,
        words: &[],
        len_max: 8192,
    },
    Target {
        name: "bochs",
        run: images::bochs,
        seeds: images::bochs_seeds,
        words: &[],
        len_max: 8192,
    },
    Target {
        name: "cloop",
        run: images::cloop,
        seeds: images::cloop_seeds,
        words: &[],
        len_max: 8192,
    },
    Target {
        name: "dmg",
        run: images::dmg,
        seeds: images::dmg_seeds,
        words: &["<data>", "</data>", "bWlzaA"],
        len_max: 8192,
    },
    Target {
        name: "options",
        run: options::run,
        seeds: options::seeds,
        words: options::WORDS,
        len_max: 4096,
    },
    Target { name: "qmp", run: qmp::run, seeds: qmp::seeds, words: qmp::WORDS, len_max: 8192 },
    Target {
        name: "kernel",
        run: kernel::run,
        seeds: kernel::seeds,
        words: &["HdrS", "\u{7f}ELF", "Xen\0"],
        len_max: 16384,
    },
];

/// Seeds for targets that read programs: bytes of many lengths, the same every time.
fn programs() -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut random = |len: usize| (0..len).map(|_| rng.u8(..)).collect();
    let mut all: Vec<Vec<u8>> = [16, 64, 128, 256, 400].into_iter().map(&mut random).collect();
    all.push(vec![0; 64]);
    all
}
