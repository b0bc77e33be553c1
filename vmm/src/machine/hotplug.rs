//! Devices that come and go while the machine runs.
//!
//! A function that comes is put on the bus, and an event tells the guest to look. One that shall go is
//! taken off the bus by the guest's own hand, on its vCPU; what it was connected to is let go of here,
//! once nothing is in flight any more.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use spindle_block::error::with_causes;
use spindle_boot::ports::PCI_HOTPLUG_EVENT;
use spindle_devices::{
    Access,
    device::Countdown,
    pci::{Address, PciBus, PciFunction},
    platform::{EjectSink, PciHotplug},
};

use super::{BuildError, Machine, Mailbox, firmware};
use crate::{
    monitor::{Event, QmpError},
    spec::{
        DeviceSpec,
        device::{PciAddr, piix},
        keyval::Options,
    },
};

/// A guest that has not let go of a device after this long may have missed the event: it is told again
/// when somebody asks again.
const UNPLUG_PATIENCE: Duration = Duration::from_secs(5);
/// The command register (PCI 6.2.2).
const COMMAND: Access = Access { offset: 4, width: 2 };
/// Class and sub-class (PCI 6.2.1), and those of an ISA bridge.
const CLASS: Access = Access { offset: 0x0a, width: 2 };
const ISA_BRIDGE: u32 = 0x0601;

/// Takes functions off the bus.
pub(super) struct Ejector {
    pub(super) pci: Arc<PciBus>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl EjectSink for Ejector {
    fn eject(&self, slot: u8) {
        let first = self.pci.get(Address { slot, function: 0 });
        if first.is_some_and(|first| first.config_read(CLASS) == ISA_BRIDGE) {
            log::warn!("the guest has ejected slot {slot:02x}: the chipset that is there stays");
            return;
        }
        for function in 0..8 {
            let Some(gone) = self.pci.remove(Address { slot, function }) else { continue };
            // Its windows go now, its requests when they have ended.
            gone.config_write(COMMAND, 0);
            self.mailbox.call(Box::new(move |machine| machine.unplug(gone)));
        }
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> QmpError {
    QmpError::generic(with_causes(error))
}

impl Machine {
    /// `device_add`.
    pub(super) fn device_add(&mut self, options: Options) -> Result<(), QmpError> {
        if self.is_ending() {
            return Err(QmpError::generic("The machine is about to end"));
        }
        let device = self.spec.added_device(options)?;
        let place = match &device {
            DeviceSpec::IdeHd(disk) => Some(&disk.place),
            DeviceSpec::IdeCd(drive) => Some(&drive.place),
            _ => None,
        };
        if let Some(ide) = place.map(|at| at.controller().0).filter(|ide| self.is_chipset(ide)) {
            let desc =
                format!("Device '{ide}' does not support hotplugging of drives on its cables");
            return Err(QmpError::generic(desc));
        }
        let fits = |addr: &PciAddr| addr.function == 0 && PciHotplug::is_pluggable(addr.slot);
        if let Some(addr) = device.addr().filter(|addr| !fits(addr)) {
            return Err(failed(&BuildError::NotPluggable(String::from(addr))));
        }
        let at = self.disks.add(&self.spec, &device, &mut self.board).map_err(|e| failed(&e))?;
        self.spec.devices.push(device);
        firmware::set_boot_order(&self.spec, &self.board);
        if let Some(at) = at {
            self.board.hotplug.inserted(at.slot);
            self.board.pm.raise_general_event(PCI_HOTPLUG_EVENT);
            // The main loop looks whether an interrupt line is new.
            self.mailbox.call(Box::new(|_| ()));
        }
        Ok(())
    }

    /// `device_del`: asks the guest; an event tells when it is done.
    pub(super) fn device_del(&mut self, id: &str) -> Result<(), QmpError> {
        let again =
            || QmpError::generic(format!("Device {id} is already in the process of unplug"));
        if self.is_chipset(id) {
            let desc = format!(
                "Device '{id}' does not support unplugging: it is a part of the chipset, as the ISA \
                 bridge in its slot is"
            );
            return Err(QmpError::generic(desc));
        }
        let Some(function) = self.disks.function_mut(id) else {
            return self.disk_del(id, again);
        };
        let at = function.at;
        if !PciHotplug::is_pluggable(at.slot) {
            return Err(failed(&BuildError::NotPluggable(at.to_string())));
        }
        let now = Instant::now();
        if function.asked.is_some_and(|asked| now.duration_since(asked) < UNPLUG_PATIENCE) {
            return Err(again());
        }
        let shares = |other: &Address| other.slot == at.slot && *other != at;
        if self.board.pci.functions().iter().any(|(other, _)| shares(other)) {
            let desc = format!("Device '{id}' shares its slot: a slot is unplugged as a whole");
            return Err(QmpError::generic(desc));
        }
        function.asked = Some(now);
        self.board.hotplug.removing(at.slot);
        self.board.pm.raise_general_event(PCI_HOTPLUG_EVENT);
        Ok(())
    }

    /// Whether it is an IDE controller of the chipset.
    fn is_chipset(&self, id: &str) -> bool {
        self.spec.device(id).is_some_and(|device| piix(device).is_some())
    }

    /// `device_del` for what sits on another device's bus: it goes by itself.
    fn disk_del(&mut self, id: &str, again: impl Fn() -> QmpError) -> Result<(), QmpError> {
        let (known, described) = (self.disks.disk(id).is_some(), self.spec.device(id).is_some());
        if self.disks.disk(id).is_some_and(|disk| self.is_chipset(&disk.function)) {
            let desc = format!(
                "Device '{id}' does not support unplugging: drives do not leave the cable of an IDE \
                 controller"
            );
            return Err(QmpError::generic(desc));
        }
        let disk = self.disks.disk_mut(id).filter(|_| described);
        let Some(disk) = disk else {
            // What a guest has made for itself goes by its hand alone.
            return Err(if known || described {
                QmpError::generic(format!("Device '{id}' does not support unplugging"))
            } else {
                QmpError::device_not_found(format!("Device '{id}' not found"))
            });
        };
        if disk.leaving {
            return Err(again());
        }
        disk.leaving = true;
        let root = disk.root().map(str::to_owned);
        // Filled in once no request can come any more: until it has left, nothing of it may hang.
        let unhindered = Arc::new(Mutex::new(None));
        let held = Arc::clone(&unhindered);
        let (device, mailbox, id) =
            (Arc::clone(&disk.device), Arc::clone(&self.mailbox), id.to_owned());
        device.leave(Box::new(move || {
            mailbox.call(Box::new(move |machine| {
                held.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(node) = machine.disks.remove_disk(&id) {
                    machine.forget_node(node);
                }
                machine.deleted(&[id]);
            }));
        }));
        // An empty drive has no root. What is called back is on this thread, and comes later.
        if let Some(Ok(nodes)) = root.map(|root| self.disks.graph.unhinder(&root)) {
            *unhindered.lock().unwrap_or_else(PoisonError::into_inner) = Some(nodes);
        }
        Ok(())
    }

    /// Devices are gone.
    fn deleted(&mut self, ids: &[String]) {
        for id in ids {
            self.spec.devices.retain(|device| device.id() != id);
            self.tell(Event::DeviceDeleted { device: id.clone() });
        }
        firmware::set_boot_order(&self.spec, &self.board);
    }

    /// A function is off the bus: lets its requests end, then lets go of what it was connected to.
    fn unplug(&mut self, function: Arc<dyn PciFunction>) {
        let id = function.id().to_owned();
        let roots = self.disks.roots_of(&id);
        let mailbox = Arc::clone(&self.mailbox);
        let drained = self.disks.graph.drain(&roots, move |drain| {
            let mailbox_then = Arc::clone(&mailbox);
            mailbox.call(Box::new(move |_| {
                // A device that nobody holds does not finish its reset.
                let held = Arc::clone(&function);
                function.reset(Box::new(move || {
                    mailbox_then.call(Box::new(move |machine| {
                        machine.vacate(id, (held, drain));
                    }));
                }));
            }));
        });
        if let Err(e) = drained {
            log::error!("cannot drain a device that is unplugged: {e}");
        }
    }

    /// Nothing of function `id` is in flight any more: its disks leave it, and then all is gone.
    fn vacate(&mut self, id: String, held: impl Send + 'static) {
        let (mailbox, name) = (Arc::clone(&self.mailbox), id.clone());
        let left = Countdown::new(Box::new(move || {
            mailbox.call(Box::new(move |machine| {
                if machine.is_running() {
                    machine.accelerator.forget();
                }
                let own = machine.disks.behind(&name).filter_map(|disk| disk.own_node.clone());
                let own: Vec<String> = own.collect();
                let gone = machine.disks.remove(&name);
                own.into_iter().for_each(|node| machine.forget_node(node));
                machine.deleted(&gone);
                drop(held);
            }));
        }));
        for disk in self.disks.behind(&id) {
            let left = left.clone();
            disk.device.leave(Box::new(move || drop(left)));
        }
    }
}
