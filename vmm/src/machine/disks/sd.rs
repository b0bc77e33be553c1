//! `sdhci-pci`, and the card in its slot.

use std::sync::Arc;

use spindle_devices::{
    device::Done,
    sd::{CardConfig, CardKind, SdVersion},
    sdhci::{Sdhci, SdhciConfig, SdhciVersion, SlotKind},
};

use super::{Controller, Disk, DiskDevice, Made, Medium, Scope, Site, events::policy};
use crate::{
    machine::BuildError,
    monitor::schema::IoStatus,
    spec::device::{CardSpec, DeviceSpec, Drive, Kindred, SdhciSpec},
};

/// A card is in blocks of this many bytes.
const BLOCK: u32 = 512;

/// A card as a disk.
struct Card(Sdhci);

impl DiskDevice for Card {
    /// A card has the size that it was made with.
    fn resized(&self) {}

    fn leave(&self, done: Done) {
        self.0.remove(done);
    }
}

/// Builds a controller; `embedded` where its slot is for a device that stays.
pub(super) fn build(sdhci: &SdhciSpec, embedded: bool, site: Site<'_>) -> Result<Made, BuildError> {
    let Site { scope, slot } = site;
    let mut iothreads = scope.iothreads.of_queues(sdhci as &dyn Kindred)?;
    let iothread = iothreads.pop().ok_or_else(|| BuildError::Misplaced(sdhci.id.clone()))?;
    let config = SdhciConfig {
        version: match sdhci.sd_spec_version {
            1 => SdhciVersion::V1,
            2 => SdhciVersion::V2,
            _ => SdhciVersion::V3,
        },
        uhs: sdhci.uhs != 0,
        slot: if embedded { SlotKind::Embedded } else { SlotKind::Removable },
        capabilities: sdhci.capareg,
        max_current: sdhci.maxcurr,
        ..SdhciConfig::new(&sdhci.id, iothread)
    };
    let device = Sdhci::new(config, scope.ground.dma.clone(), slot, scope.failures())?;
    Ok(Made { function: device.function(), disks: Vec::new(), controller: Controller::Sd(device) })
}

/// Puts a card into the slot of a controller.
pub(super) fn add(
    device: &DeviceSpec,
    sdhci: &Sdhci,
    scope: &Scope<'_>,
) -> Result<Disk, BuildError> {
    let (card, kind): (&CardSpec, _) = match device {
        DeviceSpec::SdCard(sd) => {
            let version = match sd.spec_version {
                2 => SdVersion::V2,
                3..=5 => SdVersion::V3,
                _ => SdVersion::V6,
            };
            (&sd.card, CardKind::Sd(version))
        }
        DeviceSpec::Emmc(emmc) => {
            let (boot, rpmb) = (emmc.boot_partition_size, emmc.rpmb_partition_size);
            (&emmc.card, CardKind::Emmc { boot, rpmb })
        }
        _ => return Err(BuildError::Misplaced(device.id().to_owned())),
    };
    let drive = Drive { node: &card.drive, share_rw: card.share_rw };
    let lease = scope.attach(&card.id, drive, BLOCK)?;
    let root = Arc::clone(lease.root());
    if !card.write_cache {
        root.set_policy(|policy| policy.write_through = true);
    }
    let info = root.info();
    let config = CardConfig {
        kind,
        size: info.size,
        serial: card.serial_number(),
        read_only: info.read_only,
        state: scope.states.of(scope.graph, &card.drive, card.state.as_deref())?,
    };
    let medium = Medium::new(lease, sdhci.function())?;
    let policies = (policy(card.werror), policy(card.rerror));
    sdhci
        .insert(config, root, Some(policies))
        .map_err(|source| BuildError::Card { id: card.id.clone(), source })?;
    Ok(Disk {
        id: card.id.clone(),
        function: card.controller().to_owned(),
        medium: Some(medium),
        device: Arc::new(Card(sdhci.clone())),
        io_status: IoStatus::Ok,
        write_cache: card.write_cache,
        drive: None,
        own_node: None,
        leaving: false,
    })
}
