//! The form in which reservations are stored. It is read with suspicion: a file may be anything.

use super::{REGISTRATIONS_MAX, Registration, Reservation, Table, kind};

/// What the stored form starts with; the digit is its version.
const MAGIC: &[u8; 8] = b"SCSI-PR1";
/// Longest name of a port, in bytes.
const PORT_MAX: usize = 1024;

pub(super) fn encode(table: &Table) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let name = |bytes: &mut Vec<u8>, port: &str| {
        let port = &port.as_bytes()[..port.len().min(PORT_MAX)];
        bytes.extend((port.len() as u16).to_le_bytes());
        bytes.extend(port);
    };
    bytes.push(table.through_power_loss.into());
    bytes.extend(table.generation.to_le_bytes());
    bytes.extend((table.registrations.len() as u16).to_le_bytes());
    for registration in &table.registrations {
        bytes.extend(registration.key.to_le_bytes());
        name(&mut bytes, &registration.port);
    }
    match &table.reservation {
        Some(reservation) => {
            bytes.push(reservation.kind);
            name(&mut bytes, &reservation.port);
        }
        None => bytes.push(0),
    }
    bytes
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        Some(self.take(len)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn name(&mut self) -> Option<String> {
        let len = self.number(2)? as usize;
        if len > PORT_MAX {
            return None;
        }
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}

/// `None`: these bytes are not, or not wholly, what [`encode`] writes.
pub(super) fn decode(bytes: &[u8]) -> Option<Table> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let mut table = Table {
        through_power_loss: reader.number(1)? == 1,
        generation: reader.number(4)? as u32,
        ..Table::default()
    };
    let count = reader.number(2)? as usize;
    if count > REGISTRATIONS_MAX {
        return None;
    }
    for _ in 0..count {
        let key = reader.number(8)?;
        let port = reader.name()?;
        if key == 0 || table.registration(&port).is_some() {
            return None;
        }
        table.registrations.push(Registration { port, key });
    }
    let kind = reader.number(1)? as u8;
    if kind != 0 {
        let port = reader.name()?;
        let held = kind::is_valid(kind) && table.registration(&port).is_some();
        if !held {
            return None;
        }
        table.reservation = Some(Reservation { port, kind });
    }
    reader.0.is_empty().then_some(table)
}
