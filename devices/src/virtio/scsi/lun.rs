//! Addresses of logical units (virtio 1.2, 5.6.6.1; SAM-5, 4.7).

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LunAddress {
    /// A unit of a target.
    Unit {
        /// Target.
        target: u8,
        /// Number of the unit.
        lun: u16,
    },
    /// The REPORT LUNS well known logical unit.
    ReportLuns,
    /// Nobody.
    Invalid,
}

/// Address methods in the two highest bits of a single-level structure (SAM-5, 4.7.7.4).
const PERIPHERAL: u8 = 0;
const FLAT: u8 = 1;
const REPORT_LUNS: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];

impl LunAddress {
    /// The address in a request.
    pub fn parse(bytes: [u8; 8]) -> Self {
        if bytes == REPORT_LUNS {
            return Self::ReportLuns;
        }
        if bytes[0] != 1 || bytes[4..] != [0; 4] {
            return Self::Invalid;
        }
        let number = u16::from_be_bytes([bytes[2], bytes[3]]);
        let (target, lun) = (bytes[1], number & 0x3fff);
        match bytes[2] >> 6 {
            // Another bus than this one, or a unit.
            PERIPHERAL if lun > 0xff => Self::Invalid,
            PERIPHERAL | FLAT => Self::Unit { target, lun },
            _ => Self::Invalid,
        }
    }
}

/// The single-level structure of a unit: peripheral as long as that is enough, else flat.
fn structure(lun: u16) -> [u8; 2] {
    let flat = if lun > 0xff { u16::from(FLAT) << 14 } else { 0 };
    (flat | lun).to_be_bytes()
}

/// A unit's address as events have it.
pub(super) fn event_lun(target: u8, lun: u16) -> [u8; 8] {
    let [high, low] = structure(lun);
    [1, target, high, low, 0, 0, 0, 0]
}

/// A unit's number as REPORT LUNS has it.
pub(super) fn reported_lun(lun: u16) -> [u8; 8] {
    let [high, low] = structure(lun);
    [high, low, 0, 0, 0, 0, 0, 0]
}
