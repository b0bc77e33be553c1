//! Capabilities: linked structures behind the type 0 header (PCI 6.7).

use crate::register::Register;

/// Capability IDs (PCI Code and ID Assignment Specification 1.11, 2).
pub mod id {
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}

/// One capability as a function is built with it: bytes, and what of them a guest may write.
#[derive(Clone, Debug)]
pub struct Capability {
    /// See [`id`].
    pub id: u8,
    /// What follows ID and next pointer.
    pub body: Vec<u8>,
    /// Which bits of `body` a guest can write; shorter than `body`: none of the rest.
    pub writable: Vec<u8>,
    /// Accesses to bytes of `body` from here on go to the controller
    /// ([`Controller::capability_read`](super::Controller::capability_read)).
    pub live_from: Option<u8>,
}

impl Capability {
    /// A capability that a guest only reads.
    #[must_use]
    pub fn fixed(id: u8, body: Vec<u8>) -> Self {
        Self { id, body, writable: Vec::new(), live_from: None }
    }

    /// Bytes it takes, ID and next pointer included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len() + 2
    }

    /// Never: there are always ID and next pointer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// MSI with up to `vectors` vectors (a power of two, at most 32), addresses of 64 bits, no masks
    /// (PCI 6.8.1).
    #[must_use]
    pub fn msi(vectors: u16) -> Self {
        let capable = (vectors.clamp(1, 32).ilog2() as u16) << 1;
        let mut body = (MSI_64 | capable).to_le_bytes().to_vec();
        // Address, upper address, data.
        body.resize(12, 0);
        let enable = MSI_ENABLE | MSI_ALLOCATED;
        let mut writable = enable.to_le_bytes().to_vec();
        writable.extend([0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        Self { id: id::MSI, body, writable, live_from: None }
    }

    /// PCI Express, as an endpoint integrated in the root complex, with function-level reset
    /// (PCIe 7.5.3).
    #[must_use]
    pub fn express() -> Self {
        let mut body = vec![0; EXPRESS_LEN - 2];
        let mut writable = vec![0; EXPRESS_LEN - 2];
        for register in EXPRESS {
            for i in 0..usize::from(register.width) {
                let at = register.offset as usize - 2 + i;
                body[at] = (register.reset >> (i * 8)) as u8;
                writable[at] = (register.writable >> (i * 8)) as u8;
            }
        }
        Self { id: id::EXPRESS, body, writable, live_from: None }
    }
}

/// MSI message control: enable, vectors allocated (as a power of two, in bits 6:4), 64 bits.
pub(super) const MSI_ENABLE: u16 = 1;
pub(super) const MSI_ALLOCATED: u16 = 7 << 4;
const MSI_64: u16 = 1 << 7;

/// Length of the Express capability of a root complex integrated endpoint, device registers 2
/// included.
const EXPRESS_LEN: usize = 0x3c;
/// Offset of Device Control in the Express capability.
pub(super) const EXPRESS_DEVICE_CONTROL: usize = 0x08;
/// Initiate Function Level Reset: reads as zero (PCIe 7.5.3.4).
pub(super) const INITIATE_FLR: u64 = 1 << 15;

const EXPRESS: &[Register<&str>] = &[
    // Version 2, root complex integrated endpoint.
    Register::read_only("capabilities", 0x02, 2, 0x0092),
    // Role-based error reporting, function-level reset.
    Register::read_only("device capabilities", 0x04, 4, 1 << 28 | 1 << 15),
    Register::read_write("device control", 0x08, 2, 0x2810, 0xffff),
    Register::read_only("device status", 0x0a, 2, 0),
];
