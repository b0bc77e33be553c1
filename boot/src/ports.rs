//! The I/O ports that the machine's tables promise, for whoever emulates what is behind them.

/// ACPI power management block (ICH9's PMBASE): 128 ports from here.
pub const PM_BASE: u16 = 0x600;
/// Number of ports of the power management block.
pub const PM_SIZE: u16 = 0x80;
/// Offset of the PM1a event block: status (16 bits), then enable (16 bits).
pub const PM1A_EVENT_OFFSET: u16 = 0x00;
/// Length of the PM1a event block in bytes.
pub const PM1A_EVENT_LEN: u8 = 4;
/// Offset of the PM1a control register (16 bits). Its SCI_EN bit always reads 1: there is no SMI command
/// port to switch ACPI on with.
pub const PM1A_CONTROL_OFFSET: u16 = 0x04;
/// Length of the PM1a control register in bytes.
pub const PM1A_CONTROL_LEN: u8 = 2;
/// Offset of the PM timer: 24 bits at 3.579545 MHz in a 32-bit port, upper byte zero.
pub const PM_TIMER_OFFSET: u16 = 0x08;
/// Length of the PM timer port in bytes.
pub const PM_TIMER_LEN: u8 = 4;
/// Offset of general purpose event block 0: status bytes, then as many enable bytes.
pub const GPE0_OFFSET: u16 = 0x20;
/// Length of general purpose event block 0 in bytes, for 64 events.
pub const GPE0_LEN: u8 = 16;
/// SLP_TYP that means soft off (S5) when written to PM1a control together with SLP_EN. It is QEMU's
/// value, which firmware for its machines writes without looking at `_S5_`.
pub const S5_SLEEP_TYPE: u8 = 0;

/// The reset control register (ICH9's RST_CNT).
pub const RESET_CONTROL: u16 = 0xCF9;
/// What ACPI writes to [`RESET_CONTROL`]: system reset and reset CPU. Linux by itself also writes 0x0E
/// (with full reset); bit 2 going from 0 to 1 is what resets.
pub const RESET_VALUE: u8 = 0x06;

/// PCI configuration address port; eight ports with the data port after it.
pub const PCI_CONFIG: u16 = 0xCF8;

/// The first serial port, a 16550: eight ports.
pub const COM1: u16 = 0x3F8;
/// The debug-exit port: a byte written here ends the program with it as its exit status.
pub const DEBUG_EXIT: u16 = 0xF4;
/// The pvpanic device, where QEMU has it: one port.
pub const PVPANIC: u16 = 0x505;
/// Keyboard controller, data port.
pub const I8042_DATA: u16 = 0x60;
/// Keyboard controller, command and status port; writing 0xFE resets the machine.
pub const I8042_COMMAND: u16 = 0x64;
/// Real-time clock and CMOS memory: index and data port, eight ports decoded.
pub const RTC: u16 = 0x70;

/// ACPI PCI hot-plug registers, where QEMU's ICH9 has them: a bit for each slot in 32-bit registers, of
/// slots that got a function, of those that shall lose theirs, and of those that the guest ejects.
pub const PCI_HOTPLUG: u16 = 0xCC0;
/// Number of ports at [`PCI_HOTPLUG`].
pub const PCI_HOTPLUG_SIZE: u16 = 0x18;
/// The general purpose event that tells of changes there, as with QEMU.
pub const PCI_HOTPLUG_EVENT: u8 = 1;
