//! How interrupt lines are wired to the I/O APIC's inputs (global system interrupts, GSIs).
//!
//! ISA interrupt N is GSI N, except that the timer, IRQ 0, is GSI 2 as on a PC: whoever routes the
//! interrupt controllers must lead the PIT's output to I/O APIC pin 2.

/// Number of inputs of the I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// The GSI of the PIT's output (ISA IRQ 0).
pub const PIT_GSI: u32 = 2;
/// The GSI of the ACPI system control interrupt: level, active high.
pub const SCI_GSI: u32 = 9;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u8 = 1;
/// ISA interrupt of COM1.
pub const COM1_IRQ: u8 = 4;
/// ISA interrupt of the real-time clock.
pub const RTC_IRQ: u8 = 8;
/// The first GSI that PCI INTx uses; the eight from here are level-triggered and shared.
pub const PCI_GSI_FIRST: u32 = 16;
/// Number of GSIs that PCI INTx uses.
pub const PCI_GSI_COUNT: u32 = 8;

/// The GSI that the INTx pin of a device on PCI bus 0 is wired to.
///
/// `device` is the device number (0 to 31), `pin` counts from 0 for INTA to 3 for INTD. Neighbouring
/// devices, and the pins of one device, get different lines: 16 + (device + pin) mod 8.
pub const fn gsi_for(device: u8, pin: u8) -> u32 {
    PCI_GSI_FIRST + (device as u32 + pin as u32) % PCI_GSI_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pci_line_is_an_ioapic_pin_and_the_four_pins_of_a_device_differ() {
        for device in 0..32 {
            let mut lines: Vec<u32> = (0..4).map(|pin| gsi_for(device, pin)).collect();
            assert!(lines.iter().all(|gsi| (16..24).contains(gsi)));
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), 4);
        }
        assert_eq!(gsi_for(0, 0), 16);
        assert_eq!(gsi_for(3, 1), 20);
        assert_eq!(gsi_for(31, 3), 18);
    }
}
