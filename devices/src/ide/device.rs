//! The controller as a device: a function on PCI with two channels, and the bridge beside it.

use std::sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering::SeqCst};

use spindle_block::{Root, iothread::Handle};

use super::{
    channel::{Channel, Kind},
    ports::{BmPorts, Ports},
    queue::{ChannelQueue, Lane},
    spec::{
        BM_CHANNEL_LEN, BMIBA, BMIBA_LEN, CLASS_IDE, CLASS_ISA, COMMAND_BLOCK, CONTROL_PORT,
        IDE_DECODE, IDETIM, PIIX3_IDE, PIIX3_ISA, PIIX4_IDE, PIIX4_ISA, VENDOR, port,
    },
    timing,
    work::Reset,
};
use crate::{
    Access, Dma, LineIrq, Registers, Space, Window, WindowSink,
    ata::{Drive, DriveConfig},
    device::{Countdown, Done},
    pci::{
        Bar, BarDoorbell, BarKind, BarRegion, Controller, Endpoint, EndpointError, HostBridge,
        Identity, Interrupts, Legacy, LegacyWindows, Parts,
    },
    policy::BlockEvents,
    queue_link::QueueLink,
    scsi::{Ended, Initiator, LogicalUnit, Nexus},
};

/// Which chipset it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Multiword DMA at most.
    Piix3,
    /// With Ultra DMA/33.
    Piix4,
}

impl Model {
    /// The highest Ultra DMA mode that its cable carries.
    #[must_use]
    pub fn udma(self) -> Option<u8> {
        match self {
            Self::Piix3 => None,
            Self::Piix4 => Some(2),
        }
    }
}

/// How a controller is built.
#[derive(Clone)]
pub struct IdeConfig {
    /// The device's id.
    pub id: String,
    /// Which chipset it is of.
    pub model: Model,
    /// Who serves each channel.
    pub iothreads: [Handle; 2],
}

/// Where a controller sits, and what its machine gives it there.
pub struct IdeSlot {
    /// The number under which it declares windows.
    pub device: u32,
    /// Where it declares them.
    pub sink: Arc<dyn WindowSink>,
    /// The interrupt of each channel: ISA 14 and 15.
    pub wires: [Box<dyn LineIrq>; 2],
}

/// A drive cannot be put on the cable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdeError {
    /// There is one.
    #[error("device '{id}' has a drive at channel {channel}, unit {unit} already")]
    InUse {
        /// The controller's id.
        id: String,
        /// 0 or 1.
        channel: u8,
        /// 0 or 1.
        unit: u8,
    },
    /// Cables have two places, and there are two cables.
    #[error("device '{id}' has no channel {channel}, unit {unit}: both are 0 or 1")]
    NoSuchPlace {
        /// The controller's id.
        id: String,
        /// What was asked for.
        channel: u8,
        /// What was asked for.
        unit: u8,
    },
}

/// A channel and the place of its queue half.
#[derive(Clone)]
struct Cable {
    channel: Arc<Channel>,
    link: Arc<QueueLink>,
}

/// A cable with the port through which a drive on it is reached.
type Seat = (Arc<Cable>, Arc<dyn Initiator>);

struct Piix {
    id: String,
    cables: [Cable; 2],
    /// The windows of the command blocks and control ports.
    ports: [Arc<Ports>; 2],
    bm_ports: [Arc<BmPorts>; 2],
    /// What keeps the ports through which units with PACKET are reached.
    initiators: Mutex<Vec<Seat>>,
}

/// A PIIX IDE controller on PCI.
#[derive(Clone)]
pub struct Ide {
    piix: Arc<Piix>,
    function: Arc<Endpoint>,
}

/// The ISA bridge beside the controller: function 0 of its slot, without which nobody looks at
/// function 1.
#[must_use]
pub fn isa_bridge(model: Model) -> Arc<HostBridge> {
    let device = match model {
        Model::Piix3 => PIIX3_ISA,
        Model::Piix4 => PIIX4_ISA,
    };
    let identity = Identity { vendor: VENDOR, device, class: CLASS_ISA, ..Identity::default() };
    HostBridge::with_registers("piix-isa", identity, true, timing::ISA)
}

impl Ide {
    /// Builds a controller without drives. `events` hears of failed requests.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(
        config: IdeConfig,
        dma: Dma,
        slot: IdeSlot,
        events: &Arc<dyn BlockEvents>,
    ) -> Result<Self, EndpointError> {
        let id = config.id;
        let channel = |wire| {
            let what = "an eventfd for each channel";
            let failed = |source| EndpointError::Resources { id: id.clone(), what, source };
            Channel::new(wire).map(Arc::new).map_err(failed)
        };
        let [first, second] = slot.wires;
        let channels = [channel(first)?, channel(second)?];
        let cable = |channel: Arc<Channel>, handle: Handle| {
            let link = Arc::new(QueueLink::new(handle));
            let queue = ChannelQueue::new(&channel, &link, dma.clone(), Arc::clone(events));
            link.attach(link.epoch(), Box::new(queue));
            Cable { channel, link }
        };
        let ([primary, secondary], [one, two]) = (channels, config.iothreads);
        let cables = [cable(primary, one), cable(secondary, two)];
        let piix = Arc::new(Piix {
            ports: cables.each_ref().map(|cable| Arc::new(Ports(Arc::clone(&cable.channel)))),
            bm_ports: cables.each_ref().map(|cable| Arc::new(BmPorts(Arc::clone(&cable.channel)))),
            id: id.clone(),
            cables,
            initiators: Mutex::default(),
        });
        let (device, registers) = match config.model {
            Model::Piix3 => (PIIX3_IDE, timing::PIIX3),
            Model::Piix4 => (PIIX4_IDE, timing::PIIX4),
        };
        let parts = Parts {
            id,
            identity: Identity { vendor: VENDOR, device, class: CLASS_IDE, ..Identity::default() },
            bars: vec![Bar { index: BMIBA, kind: BarKind::Io, size: BMIBA_LEN }],
            capabilities: Vec::new(),
            msix: None,
            pin: 0,
            interrupts: Interrupts::new(Vec::new(), None),
            controller: Arc::clone(&piix) as _,
        };
        let legacy = Legacy { registers, windows: Arc::clone(&piix) as _ };
        let function = Endpoint::with_legacy(parts, slot.device, slot.sink, false, Some(legacy))?;
        Ok(Self { piix, function })
    }

    /// The PCI function, for the bus and for the machine's pauses and resets.
    #[must_use]
    pub fn function(&self) -> Arc<Endpoint> {
        Arc::clone(&self.function)
    }

    fn cable(&self, channel: u8, unit: u8) -> Result<&Cable, IdeError> {
        let cable = self.piix.cables.get(usize::from(channel)).filter(|_| unit < 2);
        let id = self.piix.id.clone();
        cable.ok_or(IdeError::NoSuchPlace { id, channel, unit })
    }

    fn insert(&self, channel: u8, unit: u8, kind: Kind, drive: Drive) -> Result<(), IdeError> {
        let cable = self.cable(channel, unit)?;
        let in_use = IdeError::InUse { id: self.piix.id.clone(), channel, unit };
        let inserted = cable.channel.insert(usize::from(unit), kind, Lane::new(drive));
        if inserted { Ok(()) } else { Err(in_use) }
    }

    /// Puts a disk on a cable. Drives do not come while the machine runs.
    ///
    /// # Errors
    /// When there is no such place, or a drive is there.
    pub fn add_disk(
        &self,
        channel: u8,
        unit: u8,
        config: DriveConfig,
        root: &Arc<Root>,
    ) -> Result<(), IdeError> {
        self.insert(channel, unit, Kind::Disk, Drive::disk(config, root))
    }

    /// Puts a CD/DVD drive on a cable.
    ///
    /// # Errors
    /// As [`Ide::add_disk`].
    pub fn add_drive(
        &self,
        channel: u8,
        unit: u8,
        config: DriveConfig,
        unit_behind: &Arc<LogicalUnit>,
    ) -> Result<(), IdeError> {
        let cable = Arc::new(self.cable(channel, unit)?.clone());
        let port: Arc<dyn Initiator> =
            Arc::new(PacketPort { cable: Arc::downgrade(&cable), unit: usize::from(unit) });
        let name = format!("{}.{channel}.{unit}", self.piix.id);
        let nexus = unit_behind.attach(&name, Arc::downgrade(&port));
        let drive = Drive::packet_drive(config, unit_behind, nexus);
        let result = self.insert(channel, unit, Kind::Packet, drive);
        match result {
            Ok(()) => {
                let lock = self.piix.initiators.lock();
                lock.unwrap_or_else(PoisonError::into_inner).push((cable, port));
            }
            Err(_) => unit_behind.detach(nexus),
        }
        result
    }
}

/// The port through which a unit with PACKET is reached.
struct PacketPort {
    cable: Weak<Cable>,
    unit: usize,
}

impl Initiator for PacketPort {
    /// There is one initiator on a cable: whoever ends its commands is itself.
    fn end_all(&self, _nexus: Nexus, _why: Ended, _token: Countdown) {}

    fn changed(&self, _nexus: Nexus, _code: u16) {}

    /// A drive has one command at a time, and what waits for others is one.
    fn barrier(&self, _nexus: Nexus, _token: Countdown) {}

    /// A drive has one command at a time: none was begun before.
    fn settle(&self, _nexus: Nexus, _token: Countdown) {}

    fn overwritten(&self, _nexus: Nexus) {}

    fn refresh(&self, _nexus: Nexus, token: Countdown) {
        let Some(cable) = self.cable.upgrade() else { return };
        cable.channel.mail().refresh.push((self.unit, token));
        cable.channel.ring();
    }
}

impl LegacyWindows for Piix {
    fn windows(&self, config: &dyn Fn(u64, u8) -> u64) -> Vec<Window> {
        let mut windows = Vec::new();
        for channel in 0..2 {
            if config(IDETIM[channel], 2) & IDE_DECODE == 0 {
                continue;
            }
            let window = |base: u64, len: u64, target_offset: u64, coalesce: bool| Window {
                space: Space::Port,
                base,
                len,
                coalesce,
                target: Arc::clone(&self.ports[channel]) as Arc<dyn Registers>,
                target_offset,
            };
            let block = COMMAND_BLOCK[channel];
            windows.push(window(block, 1, port::DATA, false));
            // A taskfile does nothing until its command comes.
            windows.push(window(block + 1, 6, port::ERROR, true));
            windows.push(window(block + 7, 1, port::COMMAND, false));
            windows.push(window(CONTROL_PORT[channel], 1, port::CONTROL, false));
        }
        windows
    }
}

impl Controller for Piix {
    fn regions(self: Arc<Self>, bar: u8) -> Vec<BarRegion> {
        if bar != BMIBA {
            return Vec::new();
        }
        let mut regions = Vec::new();
        for (base, ports) in (0..).step_by(BM_CHANNEL_LEN as usize).zip(&self.bm_ports) {
            // The address of a table does nothing until the bus master is started.
            for (offset, coalesce) in [(0, false), (BM_CHANNEL_LEN / 2, true)] {
                regions.push(BarRegion {
                    offset: base + offset,
                    len: BM_CHANNEL_LEN / 2,
                    coalesce,
                    target: Arc::clone(ports) as _,
                    target_offset: offset,
                });
            }
        }
        regions
    }

    fn doorbells(&self, _bar: u8) -> Vec<BarDoorbell> {
        Vec::new()
    }

    fn capability_read(&self, _capability: usize, _access: Access) -> u32 {
        0
    }

    fn capability_write(&self, _capability: usize, _access: Access, _value: u32) {}

    fn bus_master(&self, on: bool) {
        for cable in &self.cables {
            cable.channel.bus_master.store(on, SeqCst);
            if on {
                cable.channel.ring();
            }
        }
    }

    fn pause(&self, done: Done) {
        let countdown = Countdown::new(done);
        self.cables.iter().for_each(|cable| cable.link.pause(countdown.clone()));
    }

    fn resume(&self) {
        self.cables.iter().for_each(|cable| cable.link.resume());
    }

    /// The drives are busy from now on, and nothing that was asked for is begun any more. What is in
    /// flight ends; then the channels are as after power-on.
    fn reset(&self, done: Done) {
        let countdown = Countdown::new(done);
        for cable in &self.cables {
            cable.channel.bus_master.store(false, SeqCst);
            cable.channel.change(|state| state.begin_reset(Reset::Hardware));
            cable.channel.mail().reset.push(countdown.clone());
            cable.channel.ring();
        }
    }
}
