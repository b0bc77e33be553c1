//! The devices a machine can have, with QEMU's names and properties: one file for each kind, with
//! its table, its typed form and its checks.
mod ahci;
mod check;
mod common;
pub(super) mod compat;
mod ide;
mod nvme;
mod piix;
mod scsi;
mod sd;
mod virtio_blk;
mod virtio_rng;
mod virtio_scsi;

use super::props::Table;
use super::{MachineSpec, SpecError};
pub use ahci::{AhciSpec, CHIPSET, ICH9_AHCI};
pub use common::{BLOCK_SIZE, ErrorPolicy, PciAddr, QUEUE_SIZE, RERROR, VqMapping, WERROR};
pub use ide::{IDE_CD, IDE_HD, IdeCdSpec, IdeHdSpec, IdeIdentity, IdePlace, free_place, free_port};
pub use nvme::{
    NVME, NVME_NS, NVME_SUBSYS, NotHex, NvmeNsSpec, NvmeSizes, NvmeSpec, NvmeSubsysSpec, hex_bytes,
    pci_id,
};
pub use piix::{PIIX3_IDE, PIIX4_IDE, Piix4IdeSpec, PiixIdeSpec, piix};
pub use scsi::{SCSI_CD, SCSI_HD, ScsiCdSpec, ScsiHdSpec, ScsiIdentity, ScsiPlace};
pub use sd::{CardSpec, EMMC, EmmcSpec, SD_CARD, SDHCI_PCI, SdCardSpec, SdhciSpec, in_slot};
use serde::{Deserialize, Serialize};
pub use virtio_blk::{VIRTIO_BLK_PCI, VirtioBlkSpec};
pub use virtio_rng::{VIRTIO_RNG_PCI, VirtioRngSpec};
pub use virtio_scsi::{VIRTIO_SCSI_PCI, VirtioScsiSpec};

/// A device, with every property resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver")]
pub enum DeviceSpec {
    /// A virtio disk on PCI.
    #[serde(rename = "virtio-blk-pci")]
    VirtioBlkPci(VirtioBlkSpec),
    /// A virtio source of random numbers on PCI.
    #[serde(rename = "virtio-rng-pci")]
    VirtioRngPci(VirtioRngSpec),
    /// An NVM Express controller.
    #[serde(rename = "nvme")]
    Nvme(NvmeSpec),
    /// A namespace.
    #[serde(rename = "nvme-ns")]
    NvmeNs(NvmeNsSpec),
    /// An NVM subsystem.
    #[serde(rename = "nvme-subsys")]
    NvmeSubsys(NvmeSubsysSpec),
    /// A virtio SCSI host bus adapter on PCI.
    #[serde(rename = "virtio-scsi-pci")]
    VirtioScsiPci(VirtioScsiSpec),
    /// A SCSI disk.
    #[serde(rename = "scsi-hd")]
    ScsiHd(ScsiHdSpec),
    /// A SCSI CD/DVD drive.
    #[serde(rename = "scsi-cd")]
    ScsiCd(ScsiCdSpec),
    /// A Serial ATA controller.
    #[serde(rename = "ich9-ahci")]
    Ich9Ahci(AhciSpec),
    /// An IDE controller at the legacy ports.
    #[serde(rename = "piix3-ide")]
    Piix3Ide(PiixIdeSpec),
    /// The same with Ultra DMA.
    #[serde(rename = "piix4-ide")]
    Piix4Ide(Piix4IdeSpec),
    /// An ATA disk.
    #[serde(rename = "ide-hd")]
    IdeHd(IdeHdSpec),
    /// An ATAPI CD/DVD drive.
    #[serde(rename = "ide-cd")]
    IdeCd(IdeCdSpec),
    /// An SD host controller.
    #[serde(rename = "sdhci-pci")]
    SdhciPci(SdhciSpec),
    /// An SD memory card.
    #[serde(rename = "sd-card")]
    SdCard(SdCardSpec),
    /// An eMMC device.
    #[serde(rename = "emmc")]
    Emmc(EmmcSpec),
}

/// All device tables.
pub const DEVICES: &[&Table] = &[
    &VIRTIO_BLK_PCI,
    &VIRTIO_SCSI_PCI,
    &SCSI_HD,
    &SCSI_CD,
    &ICH9_AHCI,
    &PIIX3_IDE,
    &PIIX4_IDE,
    &IDE_HD,
    &IDE_CD,
    &NVME,
    &NVME_NS,
    &NVME_SUBSYS,
    &SDHCI_PCI,
    &SD_CARD,
    &EMMC,
    &VIRTIO_RNG_PCI,
];

/// Where a device sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// On the PCI bus, in the slot asked for; `None`: in the first free one.
    Pci(Option<PciAddr>),
    /// On the bus of another device, named by it.
    Bus(&'a str),
    /// It only is what others refer to.
    Nowhere,
}

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive<'a> {
    /// The node with its data.
    pub node: &'a str,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
}

/// The request queues of a device and who serves them.
#[derive(Clone, Copy, Debug)]
pub struct Queues<'a> {
    /// How many.
    pub count: u16,
    /// Who serves all of them, unless `mapping` says otherwise.
    pub iothread: Option<&'a str>,
    /// Who serves which.
    pub mapping: &'a [VqMapping],
}

/// The parts of [`Queues`] that lowering fills in.
#[derive(Debug)]
pub struct QueuesMut<'a> {
    /// 0: to be filled in.
    pub count: &'a mut u16,
    /// To be filled in, unless there is a mapping.
    pub iothread: &'a mut Option<String>,
    /// There is a mapping.
    pub is_mapped: bool,
}

/// What every kind of device answers.
pub trait Kindred {
    /// The table its options were checked against.
    fn table(&self) -> &'static Table;
    /// The device's id.
    fn id(&self) -> &str;
    /// Where it sits.
    fn place(&self) -> Place<'_>;
    /// What it is made of, if it is a disk.
    fn drive(&self) -> Option<Drive<'_>>;
    /// Its request queues, if it has any.
    fn queues(&self) -> Option<Queues<'_>>;
    /// As [`Kindred::queues`], to be filled in.
    fn queues_mut(&mut self) -> Option<QueuesMut<'_>>;
    /// Fills in what depends on the devices of `spec`, which come before it.
    ///
    /// # Errors
    ///
    /// There is nothing for it to sit on.
    fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError>;
    /// Checks what the table alone cannot.
    ///
    /// # Errors
    ///
    /// Properties that contradict each other, or that refer to what `spec` does not have.
    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError>;
}

impl DeviceSpec {
    /// What it has in common with all others.
    #[must_use]
    pub fn kind(&self) -> &dyn Kindred {
        match self {
            Self::VirtioBlkPci(d) => d,
            Self::VirtioRngPci(d) => d,
            Self::Nvme(d) => d,
            Self::NvmeNs(d) => d,
            Self::NvmeSubsys(d) => d,
            Self::VirtioScsiPci(d) => d,
            Self::ScsiHd(d) => d,
            Self::ScsiCd(d) => d,
            Self::Ich9Ahci(d) => d,
            Self::Piix3Ide(d) => d,
            Self::Piix4Ide(d) => d,
            Self::IdeHd(d) => d,
            Self::IdeCd(d) => d,
            Self::SdhciPci(d) => d,
            Self::SdCard(d) => d,
            Self::Emmc(d) => d,
        }
    }

    /// As [`DeviceSpec::kind`], to be changed.
    pub fn kind_mut(&mut self) -> &mut dyn Kindred {
        match self {
            Self::VirtioBlkPci(d) => d,
            Self::VirtioRngPci(d) => d,
            Self::Nvme(d) => d,
            Self::NvmeNs(d) => d,
            Self::NvmeSubsys(d) => d,
            Self::VirtioScsiPci(d) => d,
            Self::ScsiHd(d) => d,
            Self::ScsiCd(d) => d,
            Self::Ich9Ahci(d) => d,
            Self::Piix3Ide(d) => d,
            Self::Piix4Ide(d) => d,
            Self::IdeHd(d) => d,
            Self::IdeCd(d) => d,
            Self::SdhciPci(d) => d,
            Self::SdCard(d) => d,
            Self::Emmc(d) => d,
        }
    }

    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.kind().id()
    }

    /// The device's QEMU name.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.kind().table().name
    }

    /// The node it uses, if it is a disk.
    #[must_use]
    pub fn drive(&self) -> Option<&str> {
        self.kind().drive().map(|drive| drive.node)
    }

    /// The slot it asks for.
    #[must_use]
    pub fn addr(&self) -> Option<PciAddr> {
        match self.kind().place() {
            Place::Pci(addr) => addr,
            Place::Bus(_) | Place::Nowhere => None,
        }
    }
}
