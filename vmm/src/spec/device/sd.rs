//! `sdhci-pci`, and what its slot holds: `sd-card` and `emmc`.
use super::super::props::{Kind, Prop, Table, prop};
use super::super::{MachineSpec, SpecError};
use super::common::{
    ADDR, BUS, ErrorPolicy, ID, PciAddr, RERROR, SHARE_RW, STATE, WERROR, WRITE_CACHE,
};
use super::{DeviceSpec, Drive, Kindred, Place, Queues, QueuesMut, check};
use serde::{Deserialize, Serialize};

/// `sdhci-pci`: an SD host controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SdhciSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The bus; there is one.
    pub bus: String,
    /// The slot asked for; `None`: the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<PciAddr>,
    /// The version of the specification: 1, 2 or 3.
    pub sd_spec_version: u8,
    /// Whether UHS-I signalling is there: 0 or 1.
    pub uhs: u8,
    /// The capabilities register; `None`: as the version and the slot have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capareg: Option<u64>,
    /// The maximum current capabilities register.
    pub maxcurr: u64,
    /// The iothread that serves the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
    /// There is one slot, and it is served as one queue.
    #[serde(skip, default = "one")]
    slots: u16,
}

fn one() -> u16 {
    1
}

/// What both kinds of cards have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CardSpec {
    /// The device's id: unique, always set after lowering.
    pub id: String,
    /// The controller's bus: always set after lowering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The node with its data.
    pub drive: String,
    /// Serial number: a number of 32 bits, or any text that one is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootindex: Option<u32>,
    /// What a failed write does.
    pub werror: ErrorPolicy,
    /// What a failed read does.
    pub rerror: ErrorPolicy,
    /// Whether other devices may write to the node too.
    pub share_rw: bool,
    /// Whether writes are done before they are durable.
    pub write_cache: bool,
    /// Where its state is kept, or `none`; `None`: beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// `sd-card`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SdCardSpec {
    /// What both kinds have.
    #[serde(flatten)]
    pub card: CardSpec,
    /// The version of the physical layer specification: 2, 3 or 6.
    #[serde(rename = "spec_version")]
    pub spec_version: u8,
}

/// `emmc`. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EmmcSpec {
    /// What both kinds have.
    #[serde(flatten)]
    pub card: CardSpec,
    /// Size of each boot partition, at the start of the image.
    pub boot_partition_size: u64,
    /// Size of the replay protected memory block, behind them.
    pub rpmb_partition_size: u64,
}

impl CardSpec {
    /// The controller's id.
    #[must_use]
    pub fn controller(&self) -> &str {
        let bus = self.bus.as_deref().unwrap_or_default();
        bus.strip_suffix(".0").or_else(|| bus.strip_suffix(".sd-bus")).unwrap_or(bus)
    }

    /// The product serial number.
    #[must_use]
    pub fn serial_number(&self) -> u32 {
        let Some(text) = &self.serial else { return 1 };
        let hex = text.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        // FNV-1a, 32 bits: the same text gives the same number.
        let hash = |text: &str| {
            text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            })
        };
        hex.or_else(|| text.parse().ok()).unwrap_or_else(|| hash(text))
    }

    fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError> {
        // QEMU calls the bus of every controller so.
        if self.bus.as_deref() == Some("sd-bus") {
            self.bus = None;
        }
        if self.bus.is_none() {
            let controllers = spec.devices.iter().filter(|d| matches!(d, DeviceSpec::SdhciPci(_)));
            let free = controllers.clone().find(|d| in_slot(spec, d.id()).is_none());
            self.bus = match free.or_else(|| controllers.clone().next()) {
                Some(controller) => Some(format!("{}.0", controller.id())),
                None => return check::conflict(&self.id, "there is no sdhci-pci before it"),
            };
        }
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        let controller = self.controller();
        if !matches!(spec.device(controller), Some(DeviceSpec::SdhciPci(_))) {
            let bus = self.bus.as_deref().unwrap_or_default();
            return check::conflict(&self.id, &format!("bus: no sdhci-pci has a bus '{bus}'"));
        }
        let others = spec.devices.iter().filter(|device| device.id() != self.id);
        match others.filter_map(card).find(|other| other.controller() == controller) {
            Some(other) => {
                let reason = format!("the slot of '{controller}' is taken by '{}'", other.id);
                check::conflict(&self.id, &reason)
            }
            None => Ok(()),
        }
    }
}

/// The card that a device is.
fn card(device: &DeviceSpec) -> Option<&CardSpec> {
    match device {
        DeviceSpec::SdCard(sd) => Some(&sd.card),
        DeviceSpec::Emmc(emmc) => Some(&emmc.card),
        _ => None,
    }
}

/// What the slot of a controller holds.
#[must_use]
pub fn in_slot<'a>(spec: &'a MachineSpec, controller: &str) -> Option<&'a DeviceSpec> {
    let here = |device: &&DeviceSpec| card(device).is_some_and(|c| c.controller() == controller);
    spec.devices.iter().find(here)
}

impl Kindred for SdhciSpec {
    fn table(&self) -> &'static Table {
        &SDHCI_PCI
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
        Some(Queues { count: 1, iothread: self.iothread.as_deref(), mapping: &[] })
    }

    fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
        Some(QueuesMut { count: &mut self.slots, iothread: &mut self.iothread, is_mapped: false })
    }

    fn settle(&mut self, _spec: &MachineSpec) -> Result<(), SpecError> {
        Ok(())
    }

    fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
        check::iothreads(spec, self)
    }
}

macro_rules! kindred {
    ($spec:ty, $table:expr) => {
        impl Kindred for $spec {
            fn table(&self) -> &'static Table {
                &$table
            }

            fn id(&self) -> &str {
                &self.card.id
            }

            fn place(&self) -> Place<'_> {
                Place::Bus(self.card.controller())
            }

            fn drive(&self) -> Option<Drive<'_>> {
                Some(Drive { node: &self.card.drive, share_rw: self.card.share_rw })
            }

            fn queues(&self) -> Option<Queues<'_>> {
                None
            }

            fn queues_mut(&mut self) -> Option<QueuesMut<'_>> {
                None
            }

            fn settle(&mut self, spec: &MachineSpec) -> Result<(), SpecError> {
                self.card.settle(spec)
            }

            fn check(&self, spec: &MachineSpec) -> Result<(), SpecError> {
                self.card.check(spec)
            }
        }
    };
}

kindred!(SdCardSpec, SD_CARD);
kindred!(EmmcSpec, EMMC);

const SLOT: Prop = prop("bus", Kind::Id, "bus of a controller, ID.0; default: the first free one");
const DRIVE: Prop = prop("drive", Kind::Id, "block node with the data").required();
const SERIAL: Prop = prop("serial", Kind::Str { len_max: 20 }, "serial number; a text becomes one");
const ON_WRITE: Prop = prop("werror", WERROR, "on a failed write").or("enospc");
const ON_READ: Prop = prop("rerror", RERROR, "on a failed read").or("report");
const PARTITION_MAX: u64 = 32640 << 10;

/// `sdhci-pci`: names as QEMU's; version 3 with UHS-I is the default.
pub const SDHCI_PCI: Table = Table {
    what: "device",
    name: "sdhci-pci",
    help: "SD host controller (SDHCI 3.0)",
    props: &[
        ID,
        BUS,
        ADDR,
        prop("sd-spec-version", Kind::Uint { min: 1, max: 3 }, "version of the specification")
            .alias(&["spec-version"])
            .or("3"),
        prop("uhs", Kind::Uint { min: 0, max: 1 }, "UHS-I signalling, with version 3").or("1"),
        prop(
            "capareg",
            Kind::Uint { min: 0, max: u64::MAX },
            "capabilities register; default: what there is",
        ),
        prop("maxcurr", Kind::Uint { min: 0, max: u64::MAX }, "maximum current register").or("0"),
        prop("iothread", Kind::Id, "iothread object that serves the controller"),
    ],
};

/// `sd-card`: names as QEMU's, and some more.
pub const SD_CARD: Table = Table {
    what: "device",
    name: "sd-card",
    help: "SD memory card: SDSC, SDHC or SDXC, by its size",
    props: &[
        ID,
        SLOT,
        DRIVE,
        prop("spec_version", Kind::Uint { min: 2, max: 6 }, "physical layer: 2, 3 or 6").or("6"),
        SERIAL,
        super::common::BOOTINDEX,
        ON_WRITE,
        ON_READ,
        SHARE_RW,
        WRITE_CACHE,
        STATE,
    ],
};

/// `emmc`: names as QEMU's, and some more.
pub const EMMC: Table = Table {
    what: "device",
    name: "emmc",
    help: "eMMC 5.1 device",
    props: &[
        ID,
        SLOT,
        DRIVE,
        prop(
            "boot-partition-size",
            Kind::Size { min: 0, max: PARTITION_MAX },
            "each of the two boot partitions; the image begins with them",
        )
        .or("0"),
        prop(
            "rpmb-partition-size",
            Kind::Size { min: 0, max: 16 << 20 },
            "replay protected memory block; it lies behind the boot partitions",
        )
        .or("0"),
        SERIAL,
        super::common::BOOTINDEX,
        ON_WRITE,
        ON_READ,
        SHARE_RW,
        WRITE_CACHE,
        STATE,
    ],
};
