//! The interrupt routing table: what each GSI leads to.
//!
//! KVM takes the table only as a whole, so it is kept here and handed over after each change, under
//! one lock.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use spindle_boot::irq::{IOAPIC_PINS, PIT_GSI};
use spindle_devices::MsiMessage;

/// GSIs (and so routes) that KVM has room for (`KVM_MAX_IRQ_ROUTES`).
const GSIS: u32 = 4096;
/// GSI of the second 8259's cascade: nothing comes in there.
const CASCADE: u32 = 2;

#[derive(Debug, Default)]
struct Table {
    msi: BTreeMap<u32, MsiMessage>,
    free: Vec<u32>,
    next: u32,
}

/// The routes of one machine.
#[derive(Debug)]
pub struct Routes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

impl Routes {
    /// The legacy routes: GSIs 0 to 15 to both 8259s and the I/O APIC, 16 to 23 to the I/O APIC, and
    /// the PIT to I/O APIC pin 2.
    ///
    /// # Errors
    /// When KVM refuses them.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Arc<Self>> {
        let table = Table { next: IOAPIC_PINS, ..Table::default() };
        let routes = Self { vm, table: Mutex::new(table) };
        routes.apply(&routes.lock())?;
        Ok(Arc::new(routes))
    }

    /// Takes `count` GSIs for messages.
    ///
    /// # Errors
    /// When the table is full.
    pub fn allocate(&self, count: u16) -> io::Result<Vec<u32>> {
        let mut table = self.lock();
        let room = table.free.len() + (GSIS - table.next) as usize;
        if room < usize::from(count) {
            return Err(io::Error::other(format!("{count} more interrupt vectors: no GSIs left")));
        }
        Ok((0..count)
            .map(|_| {
                table.free.pop().unwrap_or_else(|| {
                    table.next += 1;
                    table.next - 1
                })
            })
            .collect())
    }

    /// Gives a GSI back; its route goes with the next change.
    pub fn release(&self, gsi: u32) {
        let mut table = self.lock();
        table.msi.remove(&gsi);
        table.free.push(gsi);
    }

    /// Leads `gsi` to `message`.
    ///
    /// # Errors
    /// When KVM refuses the table.
    pub fn set(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut table = self.lock();
        if table.msi.insert(gsi, message) == Some(message) {
            return Ok(());
        }
        self.apply(&table)
    }

    fn apply(&self, table: &Table) -> io::Result<()> {
        let mut entries = legacy();
        entries.extend(table.msi.iter().map(|(gsi, message)| msi(*gsi, *message)));
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::other("more interrupt routes than KVM takes"))?;
        self.vm.set_gsi_routing(&routing).map_err(io::Error::from)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

fn legacy() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::with_capacity(64);
    for gsi in 0..IOAPIC_PINS {
        match gsi {
            0..8 if gsi != CASCADE => entries.push(pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..16 => entries.push(pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
            _ => {}
        }
        match gsi {
            0 => entries.push(pin(0, KVM_IRQCHIP_IOAPIC, PIT_GSI)),
            PIT_GSI => {}
            _ => entries.push(pin(gsi, KVM_IRQCHIP_IOAPIC, gsi)),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_routes_lead_every_line_to_one_pin_of_each_controller() {
        let entries = legacy();
        for gsi in 0..IOAPIC_PINS {
            let pins: Vec<_> = entries
                .iter()
                .filter(|e| e.gsi == gsi)
                // SAFETY: every legacy entry is of the irqchip type.
                .map(|e| unsafe { (e.u.irqchip.irqchip, e.u.irqchip.pin) })
                .collect();
            let want = match gsi {
                0 => vec![(KVM_IRQCHIP_PIC_MASTER, 0), (KVM_IRQCHIP_IOAPIC, 2)],
                2 => vec![],
                1..8 => vec![(KVM_IRQCHIP_PIC_MASTER, gsi), (KVM_IRQCHIP_IOAPIC, gsi)],
                8..16 => vec![(KVM_IRQCHIP_PIC_SLAVE, gsi - 8), (KVM_IRQCHIP_IOAPIC, gsi)],
                _ => vec![(KVM_IRQCHIP_IOAPIC, gsi)],
            };
            assert_eq!(pins, want, "GSI {gsi}");
        }
    }
}
