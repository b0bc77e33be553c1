//! Frame information structures: what a port receives into memory, and what it sends (SATA 10.5).

use super::spec::fis::{
    COMMAND, DEVICE_BITS, DEVICE_REGISTER, DMA_SETUP, HOST_REGISTER, INTERRUPT, NOTIFICATION,
    PIO_SETUP, SRST, TO_HOST,
};
use crate::ata::{Ending, Taskfile, spec::status};

/// Device to Host Register FIS.
pub type DeviceRegister = [u8; 20];
/// PIO Setup FIS.
pub type PioSetup = [u8; 20];
/// DMA Setup FIS.
pub type DmaSetup = [u8; 28];
/// Set Device Bits FIS.
pub type DeviceBits = [u8; 8];

/// What a Host to Device Register FIS asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A command.
    Command(Taskfile),
    /// The control field was written: whether SRST is set in it.
    Control(bool),
    /// It is not such a FIS.
    Other,
}

/// Takes a command FIS apart (SATA 10.5.5). Bytes that were not sent are zero.
#[inline]
pub fn parse(fis: &[u8; 20]) -> Sent {
    if fis[0] != HOST_REGISTER {
        return Sent::Other;
    }
    if fis[1] & COMMAND == 0 {
        return Sent::Control(fis[15] & SRST != 0);
    }
    let bytes = |a: u8, b: u8| u16::from(a) | u16::from(b) << 8;
    let lba = [fis[4], fis[5], fis[6], fis[8], fis[9], fis[10], 0, 0];
    Sent::Command(Taskfile {
        command: fis[2],
        features: bytes(fis[3], fis[11]),
        count: bytes(fis[12], fis[13]),
        lba: u64::from_le_bytes(lba),
        device: fis[7],
        icc: fis[14],
        auxiliary: u32::from_le_bytes([fis[16], fis[17], fis[18], fis[19]]),
    })
}

/// The registers at their places, which two FISes share.
fn registers(kind: u8, flags: u8, ending: &Ending) -> [u8; 20] {
    let mut fis = [0; 20];
    let lba = ending.lba.to_le_bytes();
    fis[0] = kind;
    fis[1] = flags;
    fis[2] = ending.status;
    fis[3] = ending.error;
    fis[4..7].copy_from_slice(&lba[..3]);
    fis[7] = ending.device;
    fis[8..11].copy_from_slice(&lba[3..6]);
    fis[12..14].copy_from_slice(&ending.count.to_le_bytes());
    fis
}

/// SATA 10.5.6.
#[inline]
pub fn device_register(ending: &Ending, interrupt: bool) -> DeviceRegister {
    registers(DEVICE_REGISTER, if interrupt { INTERRUPT } else { 0 }, ending)
}

/// SATA 10.5.11: the last block of a transfer, of `len` bytes; `ending` is what comes after it.
pub fn pio_setup(ending: &Ending, to_host: bool, interrupt: bool, len: u16) -> PioSetup {
    let flags = if to_host { TO_HOST } else { 0 } | if interrupt { INTERRUPT } else { 0 };
    let ready = Ending { status: status::DRDY | status::DSC | status::DRQ, ..*ending };
    let mut fis = registers(PIO_SETUP, flags, &ready);
    fis[15] = ending.status;
    fis[16..18].copy_from_slice(&len.to_le_bytes());
    fis
}

/// SATA 10.5.9: the data of a queued command.
#[inline]
pub fn dma_setup(tag: u8, to_host: bool, len: u32) -> DmaSetup {
    let mut fis = [0; 28];
    fis[0] = DMA_SETUP;
    fis[1] = if to_host { TO_HOST } else { 0 };
    fis[4] = tag;
    fis[20..24].copy_from_slice(&len.to_le_bytes());
    fis
}

/// SATA 10.5.7: something has changed that the host wants to know (SATA 13.8).
pub fn notification() -> DeviceBits {
    let mut fis = device_bits(status::DRDY | status::DSC, 0, 0);
    fis[1] |= NOTIFICATION;
    fis
}

/// SATA 10.5.7: these tags are done.
#[inline]
pub fn device_bits(status: u8, error: u8, tags: u32) -> DeviceBits {
    let mut fis = [0; 8];
    fis[0] = DEVICE_BITS;
    fis[1] = INTERRUPT;
    // Bits 7 and 3, BSY and DRQ, are not in it.
    fis[2] = status & 0x77;
    fis[3] = error;
    fis[4..8].copy_from_slice(&tags.to_le_bytes());
    fis
}
