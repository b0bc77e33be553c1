//! The chipset's own registers in configuration space. Timings are kept and have no effect: data move
//! as fast as they can.

use super::spec::IDE_DECODE;
use crate::register::Register;

/// IDETIM, without its reserved bits (PIIX, 2.2.11).
const IDETIM_WRITABLE: u64 = 0xf3ff;
/// After power-on the ports are decoded. A chipset leaves that to its firmware; a machine that boots
/// without one has to find its disks.
const IDETIM_RESET: u64 = IDE_DECODE;

/// PIIX3 (PIIX, 2.2.11 and 2.2.12).
pub const PIIX3: &[Register<&str>] = &[
    Register::read_write("IDETIM primary", 0x40, 2, IDETIM_RESET, IDETIM_WRITABLE),
    Register::read_write("IDETIM secondary", 0x42, 2, IDETIM_RESET, IDETIM_WRITABLE),
    Register::read_write("SIDETIM", 0x44, 1, 0, 0xff),
];

/// PIIX4: with Ultra DMA control and timing (PIIX4, 5.1.11 to 5.1.14).
pub const PIIX4: &[Register<&str>] = &[
    Register::read_write("IDETIM primary", 0x40, 2, IDETIM_RESET, IDETIM_WRITABLE),
    Register::read_write("IDETIM secondary", 0x42, 2, IDETIM_RESET, IDETIM_WRITABLE),
    Register::read_write("SIDETIM", 0x44, 1, 0, 0xff),
    Register::read_write("UDMACTL", 0x48, 1, 0, 0x0f),
    Register::read_write("UDMATIM", 0x4a, 2, 0, 0x3333),
];

/// The ISA bridge's interrupt routing, kept for firmware that sets it; the lines of this machine go
/// their own way (PIIX, 2.1.12).
pub const ISA: &[Register<&str>] = &[
    Register::read_write("PIRQRCA", 0x60, 1, 0x80, 0x8f),
    Register::read_write("PIRQRCB", 0x61, 1, 0x80, 0x8f),
    Register::read_write("PIRQRCC", 0x62, 1, 0x80, 0x8f),
    Register::read_write("PIRQRCD", 0x63, 1, 0x80, 0x8f),
];
