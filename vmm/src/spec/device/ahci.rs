//! `ich9-ahci`.
use super::super::props::{Kind, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{ADDR, BUS, ID, PciAddr, VQ_MAPPING, VqMapping};
use super::{Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// Where the chipset has it; the first one is there unless it wants it otherwise.
pub const CHIPSET: PciAddr = PciAddr { slot: 0x1f, function: 2 };

/// `ich9-ahci`: a Serial ATA controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AhciSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// Ports, 1 to 32.
    pub ports: u16,
    /// The iothread that serves all ports, unless `iothread_vq_mapping` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// Which iothread serves which ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iothread_vq_mapping: Vec<VqMapping>,
    /// Whether MSI is offered.
    #[serde(rename = "x-msi")]
    pub msi: bool,
    /// Whether drives spin up one by one, when the driver says so.
    #[serde(rename = "x-staggered-spin-up")]
    pub staggered: bool,
    /// Ports of the port multiplier at each port, up to 15; 0: there are none.
    #[serde(rename = "x-port-multiplier", default)]
    pub multiplier: u8,
}

impl Kindred for AhciSpec {
    fn table(&self) -> &'static Table {
        &ICH9_AHCI
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self) -> Place<'_> {
        Place::Pci(self.addr)
    }

    fn drive(&self) -> Option<Drive<'_>> {
        None
    }

    /// The ports.
    fn queues(&self) -> Option<Queues<'_>> {
        Some(Queues {
            count: self.ports,
            iothread: self.iothread.as_deref(),
            mapping: &self.iothread_vq_mapping,
        })
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        Some(QueuesMut {
            count: &mut self.ports,
            iothread: &mut self.iothread,
            is_mapped: !self.iothread_vq_mapping.is_empty(),
        })
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check::iothreads(spec, self)
    }
}

/// `ich9-ahci`: names and defaults as QEMU's, where it has them.
pub const ICH9_AHCI: Table = Table {
    what: "device",
    name: "ich9-ahci",
    help: "Serial ATA controller (AHCI 1.3.1)",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("ports", Kind::Uint { min: 1, max: 32 }, "ports").or("6"),
        prop("iothread", Kind::Id, "iothread object that serves all ports"),
        prop("iothread-vq-mapping", Kind::Groups(VQ_MAPPING), "iothreads by port, from 0"),
        prop("x-msi", Kind::Bool, "offer MSI").or("on"),
        prop("x-staggered-spin-up", Kind::Bool, "drives spin up when the driver says so").or("off"),
        prop(
            "x-port-multiplier",
            Kind::Uint { min: 0, max: 15 },
            "ports of a port multiplier at each port",
        )
        .or("0"),
    ],
};
