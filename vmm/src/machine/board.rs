//! The board: what every machine has, where it lies, and the lines that lead to its interrupt
//! controllers.

use std::{fs::File, sync::Arc};

use spindle_boot::{
    MemoryMap, irq,
    memory_map::{ECAM, PCI_WINDOW_32},
    ports,
};
use spindle_devices::{
    Device, Dma, Registers, Space, Window, WindowSink, Windows,
    pci::{Address, BarWindows, ConfigPorts, Ecam, HostBridge, Identity, PciBus},
    platform::{
        AcpiPm, DebugConsole, DebugExit, FwCfg, I8042, PciHotplug, Pvpanic, ResetControl, Rtc,
        SerialPort, fw_cfg, i8042, pci_hotplug, serial::Output,
    },
};
use vmm_sys_util::eventfd::EventFd;

use super::{BuildError, Mailbox, hotplug::Ejector};
use crate::accel::{Accelerator, InterruptLines};

/// Port of the pvpanic device, where QEMU has it too.
const PVPANIC: u64 = 0x505;
/// Ports of the firmware configuration device, where QEMU has it too.
const FW_CFG: u16 = 0x510;
/// Ports for PCI devices: above all that a PC has at fixed places.
const PCI_PORTS: std::ops::Range<u64> = 0xC000..0x1_0000;
/// ICH9's LPC bridge.
const LPC: Identity = Identity { vendor: 0x8086, device: 0x2918, class: 0x06_01_00, ..NOBODY };
const LPC_ADDRESS: Address = Address { slot: 0x1F, function: 0 };
const NOBODY: Identity =
    Identity { vendor: 0, device: 0, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };
/// Number under which the board's own windows are declared; those of PCI functions follow.
const BOARD: u32 = 0;
/// The first number for PCI functions.
pub(super) const FUNCTIONS: u32 = 1;

/// The devices that every machine has.
pub struct Board {
    pub(super) serial: Arc<SerialPort>,
    pub(super) pm: Arc<AcpiPm>,
    pub(super) pci: Arc<PciBus>,
    pub(super) hotplug: Arc<PciHotplug>,
    pub(super) lines: Arc<dyn InterruptLines>,
    pub(super) fw_cfg: Arc<FwCfg>,
    reset_control: Arc<ResetControl>,
    config_ports: Arc<ConfigPorts>,
    windows: BarWindows,
}

/// What the board is connected to.
pub(super) struct Connections<'a> {
    pub(super) accelerator: &'a dyn Accelerator,
    pub(super) map: &'a MemoryMap,
    pub(super) dma: &'a Dma,
    pub(super) fw_cfg: Vec<fw_cfg::Item>,
    pub(super) mailbox: &'a Arc<Mailbox>,
    pub(super) serial_output: Box<dyn Output>,
    pub(super) serial_room: Arc<EventFd>,
    /// Where firmware's messages go, if somebody wants them.
    pub(super) firmware_log: Option<File>,
    pub(super) debug_exit: Option<u16>,
}

impl Board {
    /// Makes the devices and puts them on the bus.
    pub(super) fn new(to: Connections<'_>) -> Result<Self, BuildError> {
        let resources = |what| move |source| BuildError::Resources { what, source };
        let (lines, clocks) = (to.accelerator.lines(), to.accelerator.clocks());
        let power = || Arc::clone(to.mailbox) as Arc<dyn spindle_devices::PowerSink>;

        let irq = lines.isa(irq::COM1_IRQ).map_err(resources("the serial port's interrupt"))?;
        let serial = Arc::new(SerialPort::new(irq, to.serial_output, to.serial_room));

        let sci = lines.source(irq::SCI_GSI).map_err(resources("the system control interrupt"))?;
        let pm = Arc::new(AcpiPm::new(sci, power(), clocks.monotonic));
        let reset_control = Arc::new(ResetControl::new(power()));
        let pci = PciBus::new();
        pci.add(Address { slot: 0, function: 0 }, HostBridge::new())?;
        pci.add(LPC_ADDRESS, HostBridge::bare("lpc", LPC, true))?;
        let ejector = Ejector { pci: Arc::clone(&pci), mailbox: Arc::clone(to.mailbox) };
        let hotplug = Arc::new(PciHotplug::new(Arc::new(ejector)));
        let config_ports =
            ConfigPorts::new(Arc::clone(&pci), Some(Arc::clone(&reset_control) as _));
        let rtc = Arc::new(Rtc::new(clocks.wall));
        let keyboard = Arc::new(I8042::new(power()));
        let fw_cfg = Arc::new(FwCfg::new(to.fw_cfg, to.dma.clone()));

        let port = |base: u16, len: u64, target: Arc<dyn Registers>| window(base, len, target, 0);
        let mut ranges = vec![
            // Drivers look at another register after what they send, so characters can be collected.
            Window { coalesce: true, ..port(ports::COM1, 1, Arc::clone(&serial) as _) },
            window(ports::COM1 + 1, SerialPort::PORTS - 1, Arc::clone(&serial) as _, 1),
            port(ports::PM_BASE, ports::PM_SIZE.into(), Arc::clone(&pm) as _),
            // The address register does nothing until the data register is used. A reset at CF9h, in
            // the middle of it, comes with the next exit or the next tick.
            Window { coalesce: true, ..port(ports::PCI_CONFIG, 4, Arc::clone(&config_ports) as _) },
            window(ports::PCI_CONFIG + 4, 4, Arc::clone(&config_ports) as _, 4),
            port(ports::PCI_HOTPLUG, pci_hotplug::PORTS, Arc::clone(&hotplug) as _),
            port(ports::RTC, Rtc::PORTS, rtc),
            window(ports::I8042_DATA, 1, Arc::clone(&keyboard) as _, i8042::DATA),
            window(ports::I8042_COMMAND, 1, keyboard, i8042::COMMAND),
            window(FW_CFG, FwCfg::PORTS, Arc::clone(&fw_cfg) as _, fw_cfg::SELECTOR),
            window(FW_CFG + 4, FwCfg::DMA_PORTS, Arc::clone(&fw_cfg) as _, fw_cfg::DMA_ADDRESS),
            port(PVPANIC as u16, 1, Arc::new(Pvpanic::new(power()))),
            Window {
                space: Space::Memory,
                base: ECAM.start,
                len: ECAM.len(),
                coalesce: false,
                target: Ecam::new(Arc::clone(&pci)),
                target_offset: 0,
            },
        ];
        if let Some(base) = to.debug_exit {
            ranges.push(port(base, DebugExit::PORTS, Arc::new(DebugExit::new(power()))));
        }
        if let Some(file) = to.firmware_log {
            let console = Arc::new(DebugConsole::new(Box::new(file)));
            ranges.push(port(DebugConsole::PORT, 1, console));
        }
        to.accelerator.bus().set(BOARD, Windows { ranges, doorbells: Vec::new() });
        let high = to.map.pci_window_64();
        let windows = BarWindows {
            low: PCI_WINDOW_32.start..PCI_WINDOW_32.end,
            high: high.map_or(0..0, |w| w.start..w.end),
            ports: PCI_PORTS,
        };
        Ok(Self { serial, pm, pci, hotplug, lines, fw_cfg, reset_control, config_ports, windows })
    }

    /// Gives every PCI function its addresses, as firmware would.
    pub(super) fn assign_addresses(&self) -> Result<(), BuildError> {
        Ok(self.windows.clone().assign(&self.pci)?)
    }

    /// Every device on the PCI bus.
    pub(super) fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.pci.functions().into_iter().map(|(_, f)| f as Arc<dyn Device>).collect()
    }

    /// A reset of the machine, after that of the devices on the PCI bus.
    pub(super) fn reset(&self) {
        self.serial.reset();
        self.pm.reset();
        self.hotplug.reset();
        self.reset_control.reset();
        self.config_ports.reset();
        self.fw_cfg.reset();
    }
}

fn window(base: u16, len: u64, target: Arc<dyn Registers>, target_offset: u64) -> Window {
    let base = u64::from(base);
    Window { space: Space::Port, base, len, coalesce: false, target, target_offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spindle_devices::platform::acpi_pm;

    #[test]
    fn the_devices_are_where_the_tables_say() {
        assert_eq!(u64::from(ports::PM1A_EVENT_OFFSET), acpi_pm::PM1_STATUS);
        assert_eq!(u64::from(ports::PM1A_CONTROL_OFFSET), acpi_pm::PM1_CONTROL);
        assert_eq!(u64::from(ports::PM_TIMER_OFFSET), acpi_pm::PM_TIMER);
        assert_eq!(u64::from(ports::GPE0_OFFSET), acpi_pm::GPE0);
        assert_eq!(u64::from(ports::GPE0_LEN), acpi_pm::GPE0_LEN);
        assert_eq!(ports::S5_SLEEP_TYPE, acpi_pm::SLEEP_TYPE_S5);
        assert_eq!(
            u64::from(ports::I8042_COMMAND - ports::I8042_DATA),
            i8042::COMMAND - i8042::DATA
        );
        assert_eq!(u64::from(ports::PCI_HOTPLUG_SIZE), pci_hotplug::PORTS);
        assert!(PCI_PORTS.start > u64::from(ports::PCI_HOTPLUG + ports::PCI_HOTPLUG_SIZE));
    }
}
