//! The form in which reservations are stored. It is read with suspicion: a file may be anything.

use super::{REGISTRATIONS_MAX, Registration, Reservation, Table, kind};
use crate::state_file::Fields;

/// Longest name of a port, in bytes.
const PORT_MAX: usize = 1024;

pub(super) fn encode(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
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

fn name(fields: &mut Fields<'_>) -> Option<String> {
    let len = usize::from(fields.u16().ok()?);
    if len > PORT_MAX {
        return None;
    }
    String::from_utf8(fields.take(len).ok()?.to_vec()).ok()
}

/// `None`: these bytes are not, or not wholly, what [`encode`] writes.
pub(super) fn decode(bytes: &[u8]) -> Option<Table> {
    let mut fields = Fields::new(bytes);
    let mut table = Table {
        through_power_loss: fields.u8().ok()? == 1,
        generation: u32::from_le_bytes(fields.array().ok()?),
        ..Table::default()
    };
    let count = usize::from(fields.u16().ok()?);
    if count > REGISTRATIONS_MAX {
        return None;
    }
    for _ in 0..count {
        let key = u64::from_le_bytes(fields.array().ok()?);
        let port = name(&mut fields)?;
        if key == 0 || table.registration(&port).is_some() {
            return None;
        }
        table.registrations.push(Registration { port, key });
    }
    let kind = fields.u8().ok()?;
    if kind != 0 {
        let port = name(&mut fields)?;
        let held = kind::is_valid(kind) && table.registration(&port).is_some();
        if !held {
            return None;
        }
        table.reservation = Some(Reservation { port, kind });
    }
    fields.is_empty().then_some(table)
}
