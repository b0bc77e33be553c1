//! `virtio-rng-pci`.

use std::time::Duration;

use spindle_devices::virtio::{VirtioRng, VirtioRngConfig};

use super::{Controller, Made, Site};
use crate::{machine::BuildError, spec::VirtioRngSpec};

/// Builds the source of random numbers.
pub(super) fn build(rng: &VirtioRngSpec, site: Site<'_>) -> Result<Made, BuildError> {
    let config = VirtioRngConfig {
        id: rng.id.clone(),
        iothread: site.scope.iothreads.control()?,
        max_bytes: rng.max_bytes,
        period: Duration::from_millis(rng.period.into()),
        event_idx: rng.event_idx,
        indirect_desc: rng.indirect_desc,
        queue_reset: rng.queue_reset,
        vectors: rng.vectors,
    };
    let device = VirtioRng::new(config, site.scope.ground.dma.clone(), site.slot)?;
    let function = device.function();
    Ok(Made { function, disks: Vec::new(), controller: Controller::Closed })
}
