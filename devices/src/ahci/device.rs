//! The controller as a device.

use std::{io, sync::Arc};

use super::{
    config::{AhciConfig, AhciError, Plug},
    hba::Hba,
    pci::AhciPci,
    port::{Plugged, Port},
    queue::PortQueue,
    spec::{ABAR, CLASS, IDP_BAR, IDP_INDEX, IDP_LEN, PCI_IDS, PORT_BASE, PORT_LEN},
};
use crate::{
    Dma,
    ata::{Drive, initiator::PacketPort},
    device::{Countdown, Done},
    doorbell::Bell,
    pci::{Bar, BarKind, Capability, Endpoint, EndpointError, Identity, Interrupts, Parts, Slot},
    policy::BlockEvents,
    queue_link::QueueLink,
    scsi::Initiator,
};

/// The Serial ATA capability (SATA 1.3 for PCI; PCI Code and ID Assignment 1.11, 2): revision 1.0,
/// and the index-data pair.
const SATA_CAPABILITY: u8 = 0x12;
/// Revision of ICH9, as QEMU has it.
const REVISION: u8 = 0x02;

/// An AHCI controller on PCI.
#[derive(Clone)]
pub struct Ahci {
    pci: Arc<AhciPci>,
    function: Arc<Endpoint>,
}

impl Ahci {
    /// Builds a controller with empty ports. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the configuration makes no sense, or the machine has no interrupt vectors or
    /// descriptors left.
    pub fn new(
        config: AhciConfig,
        dma: Dma,
        slot: Slot,
        events: Arc<dyn BlockEvents>,
    ) -> Result<Self, AhciError> {
        config.check()?;
        let id = config.id.clone();
        let failed = |what| {
            let id = id.clone();
            move |source| EndpointError::Resources { id, what, source }
        };
        let vectors = u16::from(config.msi);
        let irqs = slot.vectors.vectors(vectors).map_err(failed("interrupt vectors"))?;
        let (pin, line) = slot.wire.map_or((0, None), |(pin, line)| (pin, Some(line)));
        let interrupts = Interrupts::new(irqs, line);
        let ports = config
            .iothreads
            .iter()
            .enumerate()
            .map(|(number, iothread)| {
                let place = Arc::new(QueueLink::new(iothread.clone()));
                let port = Port::new(number as u8, Bell::new()?, place, config.staggered);
                Ok(Arc::new(port))
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("an eventfd for each port"))?;
        let staggered = config.staggered;
        let hba = Hba::new(&id, dma, ports, Arc::clone(&interrupts), events, staggered);
        let pci = AhciPci::new(hba);
        let mut capabilities = Vec::new();
        if config.msi {
            capabilities.push(Capability::msi(1));
        }
        // Where the pair lies: the BAR (4 is I/O BAR 4's code 0x8) and its offset in dwords.
        let place = 0x8 | (IDP_INDEX as u32 / 4) << 4;
        let mut body = vec![0x10, 0x00];
        body.extend(place.to_le_bytes());
        capabilities.push(Capability::fixed(SATA_CAPABILITY, body));
        let len = (PORT_BASE + pci.hba.ports.len() as u64 * PORT_LEN).next_power_of_two();
        let parts = Parts {
            id,
            identity: Identity {
                vendor: PCI_IDS.0,
                device: PCI_IDS.1,
                revision: REVISION,
                class: CLASS,
                subsystem_vendor: 0x1af4,
                subsystem: 0x1100,
            },
            bars: vec![
                Bar { index: IDP_BAR, kind: BarKind::Io, size: IDP_LEN },
                Bar { index: ABAR, kind: BarKind::Memory32, size: len.max(0x1000) },
            ],
            capabilities,
            msix: None,
            pin,
            interrupts,
            controller: Arc::clone(&pci) as _,
        };
        let function = Endpoint::new(parts, slot.device, slot.sink, slot.multifunction)
            .map_err(AhciError::from)?;
        for port in &pci.hba.ports {
            let queue = PortQueue::new(&pci.hba, port);
            port.place.attach(port.place.epoch(), Box::new(queue));
        }
        Ok(Self { pci, function })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    /// How many ports it has.
    #[must_use]
    pub fn ports(&self) -> u8 {
        self.pci.hba.ports.len() as u8
    }

    /// Whether a port has a drive.
    #[must_use]
    pub fn is_plugged(&self, port: u8) -> bool {
        self.pci.hba.ports.get(usize::from(port)).is_some_and(|port| port.is_present())
    }

    fn port(&self, port: u8) -> Result<&Arc<Port>, AhciError> {
        let ports = &self.pci.hba.ports;
        ports.get(usize::from(port)).ok_or_else(|| AhciError::NoPort {
            id: self.pci.hba.id.clone(),
            port,
            last: ports.len() - 1,
        })
    }

    /// Plugs a drive into a port; a running driver sees it come.
    ///
    /// # Errors
    /// When there is no such port, or it is in use.
    pub fn plug(&self, number: u8, plug: Plug) -> Result<(), AhciError> {
        let port = self.port(number)?;
        if port.is_present() {
            return Err(AhciError::InUse { id: self.pci.hba.id.clone(), port: number });
        }
        let plugged = match plug {
            Plug::Disk(config, root) => {
                Plugged { drive: Drive::disk(config, &root), packet: None, unplugged: None }
            }
            Plug::Packet(config, unit) => {
                let packet = PacketPort::new(port.bell.event());
                let initiator = Arc::downgrade(&packet) as std::sync::Weak<dyn Initiator>;
                let nexus = unit.attach(&format!("{}.{number}", self.pci.hba.id), initiator);
                let drive = Drive::packet_drive(config, &unit, nexus);
                Plugged {
                    drive,
                    packet: Some(packet),
                    unplugged: Some(Box::new(move || unit.detach(nexus))),
                }
            }
        };
        let change = port.exchange(Some(Box::new(plugged)), Countdown::new(Box::new(|| ())));
        self.pci.hba.interrupt(port, change);
        Ok(())
    }

    /// Takes the drive out of a port; a running driver sees it go. `done` is called, from any
    /// thread, once nothing of it is in flight and nothing holds its medium.
    ///
    /// # Errors
    /// When there is no such port, or it is empty; `done` is called all the same.
    pub fn unplug(&self, number: u8, done: Done) -> Result<(), AhciError> {
        let countdown = Countdown::new(done);
        let port = self.port(number)?;
        if !port.is_present() {
            return Err(AhciError::Empty { id: self.pci.hba.id.clone(), port: number });
        }
        let change = port.exchange(None, countdown);
        self.pci.hba.interrupt(port, change);
        Ok(())
    }
}
