//! `piix3-ide` and `piix4-ide`.
use super::super::props::{Kind, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{ADDR, BUS, ID, PciAddr, VQ_MAPPING, VqMapping};
use super::{DeviceSpec, Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// Where the chipset has it, behind its ISA bridge.
pub const PLACE: PciAddr = PciAddr { slot: 1, function: 1 };
/// Channels.
const CHANNELS: u16 = 2;

/// `piix3-ide` and `piix4-ide`: an IDE controller at the legacy ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PiixIdeSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The iothread that serves both channels, unless `iothread_vq_mapping` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// Which iothread serves which channels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iothread_vq_mapping: Vec<VqMapping>,
    /// Channels; 0 before lowering.
    #[serde(default = "channels", skip)]
    pub channels: u16,
}

fn channels() -> u16 {
    CHANNELS
}

/// A PIIX4's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Piix4IdeSpec(pub PiixIdeSpec);

/// The controller of a device, if it is one of these; whether it is a PIIX4's.
#[must_use]
pub fn piix(device: &DeviceSpec) -> Option<(&PiixIdeSpec, bool)> {
    match device {
        DeviceSpec::Piix3Ide(ide) => Some((ide, false)),
        DeviceSpec::Piix4Ide(ide) => Some((&ide.0, true)),
        _ => None,
    }
}

impl PiixIdeSpec {
    fn check_place(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        if self.addr.is_some_and(|addr| addr != PLACE) {
            let reason = "addr: a PIIX has its IDE controller at 01.1, and that is where it is";
            return check::conflict(&self.id, reason);
        }
        let mut all = spec.devices.iter().filter_map(piix);
        match all.find(|(other, _)| other.id != self.id) {
            Some((other, _)) => {
                let reason = format!("'{}' has the legacy ports already", other.id);
                check::conflict(&self.id, &reason)
            }
            None => Ok(()),
        }
    }
}

impl Kindred for PiixIdeSpec {
    fn table(&self) -> &'static Table {
        &PIIX3_IDE
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Pci(Some(PLACE))
    }

    fn drive(&self) -> Option<Drive<'_>> {
        None
    }

    /// The channels.
    fn queues(&self) -> Option<Queues<'_>> {
        Some(Queues {
            count: CHANNELS,
            iothread: self.iothread.as_deref(),
            mapping: &self.iothread_vq_mapping,
        })
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        self.channels = CHANNELS;
        Some(QueuesMut {
            count: &mut self.channels,
            iothread: &mut self.iothread,
            is_mapped: !self.iothread_vq_mapping.is_empty(),
        })
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        self.check_place(spec)?;
        check::iothreads(spec, self)
    }
}

impl Kindred for Piix4IdeSpec {
    fn table(&self) -> &'static Table {
        &PIIX4_IDE
    }

    fn id(&self) -> &str {
        self.0.id()
    }

    fn place(&self) -> Place<'_> {
        self.0.place()
    }

    fn drive(&self) -> Option<Drive<'_>> {
        None
    }

    fn queues(&self) -> Option<Queues<'_>> {
        self.0.queues()
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        self.0.queues_mut()
    }

    fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError> {
        self.0.settle(spec)
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        self.0.check(spec)
    }
}

/// `piix3-ide`: names and defaults as QEMU's.
pub const PIIX3_IDE: Table = Table {
    what: "device",
    name: "piix3-ide",
    help: "IDE controller at the legacy ports, multiword DMA",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("iothread", Kind::Id, "iothread object that serves both channels"),
        prop("iothread-vq-mapping", Kind::Groups(VQ_MAPPING), "iothreads by channel, from 0"),
    ],
};

/// `piix4-ide`: names and defaults as QEMU's.
pub const PIIX4_IDE: Table =
    Table { name: "piix4-ide", help: "IDE controller at the legacy ports, Ultra DMA", ..PIIX3_IDE };
