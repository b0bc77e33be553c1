//! The controller as a device.

use std::{io, sync::Arc};

use super::{
    ccc::Coalescing,
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
    /// Ports of each port's multiplier; 0: there are none.
    multiplier: u8,
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
                let kind = (config.staggered, config.multiplier > 0);
                let port = Port::new(number as u8, Bell::new()?, place, kind);
                Ok(Arc::new(port))
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("an eventfd for each port"))?;
        let kind = (config.staggered, config.multiplier > 0);
        // There is at least one: `check` has seen to it.
        let coalescing = Coalescing::new(config.iothreads[0].clone());
        let interrupts_of = Arc::clone(&interrupts);
        let hba = Hba::new(&id, dma, ports, interrupts_of, events, coalescing, kind);
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
            let queue = PortQueue::new(&pci.hba, port, config.multiplier);
            port.place.attach(port.place.epoch(), Box::new(queue));
            if config.multiplier > 0 {
                port.power_up();
            }
        }
        Ok(Self { pci, function, multiplier: config.multiplier })
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

    /// Whether a port has a drive, or a multiplier.
    #[must_use]
    pub fn is_plugged(&self, port: u8) -> bool {
        self.pci.hba.ports.get(usize::from(port)).is_some_and(|port| port.is_present())
    }

    /// Whether there is a place for `unit` at a port.
    fn check_unit(&self, port: u8, unit: u8) -> Result<(), AhciError> {
        if unit < self.multiplier.max(1) {
            return Ok(());
        }
        Err(AhciError::NoUnit { id: self.pci.hba.id.clone(), port, unit })
    }

    fn port(&self, port: u8) -> Result<&Arc<Port>, AhciError> {
        let ports = &self.pci.hba.ports;
        ports.get(usize::from(port)).ok_or_else(|| AhciError::NoPort {
            id: self.pci.hba.id.clone(),
            port,
            last: ports.len() - 1,
        })
    }

    /// Plugs a drive into a port; a running driver sees it come. `place` is that behind the port's
    /// multiplier, or 0 where there is none.
    ///
    /// # Errors
    /// When there is no such place, or it is in use.
    pub fn plug_unit(&self, number: u8, place: u8, plug: Plug) -> Result<(), AhciError> {
        let port = self.port(number)?;
        self.check_unit(number, place)?;
        if if self.multiplier > 0 { port.has_unit(place) } else { port.is_present() } {
            return Err(AhciError::InUse { id: self.pci.hba.id.clone(), port: number });
        }
        let plugged = match plug {
            Plug::Disk(config, root) => {
                Plugged { drive: Drive::disk(config, &root), packet: None, unplugged: None }
            }
            Plug::Packet(config, unit) => {
                let packet = PacketPort::new(port.bell.event());
                let initiator = Arc::downgrade(&packet) as std::sync::Weak<dyn Initiator>;
                let name = match self.multiplier {
                    0 => format!("{}.{number}", self.pci.hba.id),
                    _ => format!("{}.{number}.{place}", self.pci.hba.id),
                };
                let nexus = unit.attach(&name, initiator);
                let drive = Drive::packet_drive(config, &unit, nexus);
                Plugged {
                    drive,
                    packet: Some(packet),
                    unplugged: Some(Box::new(move || unit.detach(nexus))),
                }
            }
        };
        if self.multiplier > 0 {
            let nobody = Countdown::new(Box::new(|| ()));
            port.exchange_behind(place, Some(Box::new(plugged)), nobody);
            return Ok(());
        }
        let change = port.exchange(Some(Box::new(plugged)), Countdown::new(Box::new(|| ())));
        self.pci.hba.interrupt(port, change);
        Ok(())
    }

    /// Plugs a drive into a port without a multiplier.
    ///
    /// # Errors
    /// As [`Ahci::plug_unit`].
    pub fn plug(&self, number: u8, plug: Plug) -> Result<(), AhciError> {
        self.plug_unit(number, 0, plug)
    }

    /// Takes the drive out of a port without a multiplier.
    ///
    /// # Errors
    /// As [`Ahci::unplug_unit`].
    pub fn unplug(&self, number: u8, done: Done) -> Result<(), AhciError> {
        self.unplug_unit(number, 0, done)
    }

    /// Takes the drive out of a port, or from behind its multiplier; a running driver sees it go.
    /// `done` is called, from any thread, once nothing of it is in flight and nothing holds its
    /// medium.
    ///
    /// # Errors
    /// When there is no such place, or it is empty; `done` is called all the same.
    pub fn unplug_unit(&self, number: u8, place: u8, done: Done) -> Result<(), AhciError> {
        let countdown = Countdown::new(done);
        let port = self.port(number)?;
        self.check_unit(number, place)?;
        if self.multiplier > 0 {
            if port.exchange_behind(place, None, countdown) {
                return Ok(());
            }
            return Err(AhciError::Empty { id: self.pci.hba.id.clone(), port: number });
        }
        if !port.is_present() {
            return Err(AhciError::Empty { id: self.pci.hba.id.clone(), port: number });
        }
        let change = port.exchange(None, countdown);
        self.pci.hba.interrupt(port, change);
        Ok(())
    }
}
