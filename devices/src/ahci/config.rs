//! How a controller is built, and what is plugged into it.

use std::sync::Arc;

use spindle_block::{Root, iothread::Handle};

use super::spec::{PORTS_MAX, multiplier::CONTROL_PORT};
use crate::{ata::DriveConfig, pci::EndpointError, scsi::LogicalUnit};

/// A controller. The names are those of QEMU's `ich9-ahci` properties, where it has them.
#[derive(Clone)]
pub struct AhciConfig {
    /// The device's id.
    pub id: String,
    /// The iothread of each port: as many as there are ports, 1 to 32.
    pub iothreads: Vec<Handle>,
    /// Drives spin up only when the driver says so, one by one (AHCI 10.1.1).
    pub staggered: bool,
    /// Offer MSI.
    pub msi: bool,
    /// Ports of the multiplier that each port has, 1 to 15; 0: there are none.
    pub multiplier: u8,
}

impl AhciConfig {
    /// A controller with as many ports as iothreads are given.
    #[must_use]
    pub fn new(id: &str, iothreads: Vec<Handle>) -> Self {
        Self { id: id.to_owned(), iothreads, staggered: false, msi: true, multiplier: 0 }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), AhciError> {
        let ports = self.iothreads.len();
        if !(1..=usize::from(PORTS_MAX)).contains(&ports) {
            Err(AhciError::Ports { id: self.id.clone(), ports })
        } else if self.multiplier > CONTROL_PORT {
            Err(AhciError::Multiplier { id: self.id.clone(), ports: self.multiplier })
        } else {
            Ok(())
        }
    }
}

/// What is plugged into a port.
#[derive(Clone)]
pub enum Plug {
    /// A disk over a root.
    Disk(DriveConfig, Arc<Root>),
    /// A drive with PACKET over a unit.
    Packet(DriveConfig, Arc<LogicalUnit>),
}

/// Why a controller cannot be built, or a drive plugged in.
#[derive(Debug, thiserror::Error)]
pub enum AhciError {
    /// The number of ports.
    #[error("AHCI controller '{id}' cannot have {ports} ports: 1 to {PORTS_MAX} are possible")]
    Ports {
        /// The device's id.
        id: String,
        /// How many were asked for.
        ports: usize,
    },
    /// No multiplier has so many ports.
    #[error(
        "the port multipliers of AHCI controller '{id}' cannot have {ports} ports: 15 is the most"
    )]
    Multiplier {
        /// The device's id.
        id: String,
        /// How many were asked for.
        ports: u8,
    },
    /// There is no such place behind a port.
    #[error("port {port} of AHCI controller '{id}' has no unit {unit}")]
    NoUnit {
        /// The device's id.
        id: String,
        /// The port.
        port: u8,
        /// The unit that was asked for.
        unit: u8,
    },
    /// There is no such port.
    #[error("AHCI controller '{id}' has no port {port}: its ports are 0 to {last}")]
    NoPort {
        /// The device's id.
        id: String,
        /// The port that was asked for.
        port: u8,
        /// The last one.
        last: usize,
    },
    /// Something is plugged in there.
    #[error("port {port} of AHCI controller '{id}' is in use")]
    InUse {
        /// The device's id.
        id: String,
        /// The port.
        port: u8,
    },
    /// Nothing is plugged in there.
    #[error("port {port} of AHCI controller '{id}' is empty")]
    Empty {
        /// The device's id.
        id: String,
        /// The port.
        port: u8,
    },
    /// The function.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}
