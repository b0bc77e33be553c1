//! `virtio-rng-pci`.
use super::super::props::{Kind, Table, prop};
use super::super::{MachineSpec, ObjectSpec, SpecError};
use super::common::{ADDR, BUS, EVENT_IDX, ID, INDIRECT_DESC, PciAddr, QUEUE_RESET, U32};
use super::{Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// `virtio-rng-pci`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioRngSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The object random bytes come from; `None`: the host's getrandom(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rng: Option<String>,
    /// Bytes the guest may have in each period.
    pub max_bytes: u64,
    /// The period, in milliseconds.
    pub period: u32,
    /// Whether VIRTIO_F_EVENT_IDX is offered.
    #[serde(rename = "event_idx")]
    pub event_idx: bool,
    /// Whether VIRTIO_F_INDIRECT_DESC is offered.
    #[serde(rename = "indirect_desc")]
    pub indirect_desc: bool,
    /// Whether VIRTIO_F_RING_RESET is offered.
    #[serde(rename = "queue_reset")]
    pub queue_reset: bool,
    /// MSI-X vectors; `None`: one for the queue and one for configuration changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<u16>,
}

impl Kindred for VirtioRngSpec {
    fn table(&self) -> &'static Table {
        &VIRTIO_RNG_PCI
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

    fn queues(&self) -> Option<Queues<'_>> {
        None
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        None
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check::vectors(&self.id, "vectors", self.vectors, 2)?;
        match self.rng.as_deref() {
            Some(name) => match spec.object(name) {
                Some(ObjectSpec::RngBuiltin(_) | ObjectSpec::RngRandom(_)) => Ok(()),
                _ => Err(SpecError::Conflict(format!(
                    "device '{}': rng: no rng object '{name}'",
                    self.id
                ))),
            },
            None => Ok(()),
        }
    }
}

/// `virtio-rng-pci`: names and defaults as QEMU's.
pub const VIRTIO_RNG_PCI: Table = Table {
    what: "device",
    name: "virtio-rng-pci",
    help: "virtio source of random numbers",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("rng", Kind::Id, "rng-random or rng-builtin object; default: the host's getrandom"),
        prop(
            "max-bytes",
            Kind::Uint { min: 1, max: i64::MAX as u64 },
            "bytes the guest may have in each period",
        )
        .or("9223372036854775807"),
        prop("period", Kind::Uint { min: 1, max: U32 }, "period in milliseconds").or("65536"),
        EVENT_IDX,
        INDIRECT_DESC,
        QUEUE_RESET,
        prop("vectors", Kind::Uint { min: 0, max: 2048 }, "MSI-X vectors; default: 2"),
    ],
};
