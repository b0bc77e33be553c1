//! Persistent reservations: PERSISTENT RESERVE IN and OUT (SPC-5, 5.14, 6.15 and 6.16).
//!
//! An I_T nexus is known by the name of its initiator port, which is the same after a restart of
//! the machine. A command changes a copy of the table, as a whole or not at all; with APTPL it is
//! answered once the table is stored.

mod conflict;
mod out;
mod saved;

use std::{
    io,
    sync::{Arc, PoisonError},
};

use super::{
    inquiry::local_name,
    sense::Sense,
    spec::asc,
    unit::{LogicalUnit, Nexus},
};
use crate::state_file::{DiskState, Section};

/// Reservation types (SPC-5, 6.15.3.4).
pub(super) mod kind {
    pub const WRITE_EXCLUSIVE: u8 = 1;
    pub const EXCLUSIVE_ACCESS: u8 = 3;
    pub const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;
    pub const EXCLUSIVE_ACCESS_REGISTRANTS: u8 = 6;
    pub const WRITE_EXCLUSIVE_ALL: u8 = 7;
    pub const EXCLUSIVE_ACCESS_ALL: u8 = 8;

    /// Whether there is such a type.
    pub fn is_valid(kind: u8) -> bool {
        matches!(kind, WRITE_EXCLUSIVE | EXCLUSIVE_ACCESS) || matches!(kind, 5..=8)
    }

    /// Whether every registrant holds such a reservation.
    pub fn is_all(kind: u8) -> bool {
        matches!(kind, WRITE_EXCLUSIVE_ALL | EXCLUSIVE_ACCESS_ALL)
    }

    /// Whether such a reservation lets every registrant in.
    pub fn is_for_registrants(kind: u8) -> bool {
        is_all(kind) || matches!(kind, WRITE_EXCLUSIVE_REGISTRANTS | EXCLUSIVE_ACCESS_REGISTRANTS)
    }
}

/// Service actions of PERSISTENT RESERVE IN (SPC-5, 6.15.1).
mod read {
    pub const KEYS: u8 = 0;
    pub const RESERVATION: u8 = 1;
    pub const CAPABILITIES: u8 = 2;
    pub const FULL_STATUS: u8 = 3;
}

/// Most registrations: what is stored stays small.
const REGISTRATIONS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registration {
    port: String,
    key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reservation {
    /// Who made it; with "all registrants" types every registrant holds it.
    port: String,
    kind: u8,
}

/// Registrations and the reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    /// They survive a power loss.
    through_power_loss: bool,
    /// PRGENERATION.
    generation: u32,
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
}

/// See the module.
pub(super) struct Reservations {
    state: Option<Arc<DiskState>>,
    table: Table,
}

/// What a PERSISTENT RESERVE OUT has to wait for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReserveOutcome {
    /// Initiators whose commands are to be ended first.
    pub ended: Vec<Nexus>,
    /// The table is to be stored first.
    pub store: bool,
}

/// The section of the state file, and the version of its layout.
const SECTION: &str = "scsi-reservations";
const SECTION_VERSION: u16 = 1;

/// Whom a change of the table concerns: name of the port, code of the unit attention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Notices(Vec<(String, u16)>);

impl Table {
    fn registration(&self, port: &str) -> Option<&Registration> {
        self.registrations.iter().find(|registration| registration.port == port)
    }

    fn is_holder(&self, port: &str) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if kind::is_all(reservation.kind) {
                self.registration(port).is_some()
            } else {
                reservation.port == port
            }
        })
    }

    fn holder_key(&self) -> Option<u64> {
        let reservation = self.reservation.as_ref()?;
        // All of them, so none in particular (SPC-5, 6.15.3.2).
        if kind::is_all(reservation.kind) {
            return Some(0);
        }
        self.registration(&reservation.port).map(|registration| registration.key)
    }

    fn header(&self, body: &[u8]) -> Vec<u8> {
        let mut data = self.generation.to_be_bytes().to_vec();
        data.extend((body.len() as u32).to_be_bytes());
        data.extend(body);
        data
    }

    fn keys(&self) -> Vec<u8> {
        let keys: Vec<u8> = self.registrations.iter().flat_map(|r| r.key.to_be_bytes()).collect();
        self.header(&keys)
    }

    fn reservation_data(&self) -> Vec<u8> {
        let mut body = Vec::new();
        if let (Some(reservation), Some(key)) = (&self.reservation, self.holder_key()) {
            body.extend(key.to_be_bytes());
            body.extend([0, 0, 0, 0, 0, reservation.kind, 0, 0]);
        }
        self.header(&body)
    }

    fn full_status(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for registration in &self.registrations {
            let holder = self.is_holder(&registration.port);
            let held = self.reservation.as_ref().filter(|_| holder).map_or(0, |r| r.kind);
            let id = transport_id(&registration.port);
            body.extend(registration.key.to_be_bytes());
            body.extend([0, 0, 0, 0, u8::from(holder), held, 0, 0, 0, 0]);
            // There is one target port.
            body.extend(1u16.to_be_bytes());
            body.extend((id.len() as u32).to_be_bytes());
            body.extend(id);
        }
        self.header(&body)
    }
}

/// The TransportID of an initiator port: that of SAS, with a locally assigned address (SPC-5,
/// 7.6.4.7).
fn transport_id(port: &str) -> [u8; 24] {
    let mut id = [0; 24];
    id[0] = 0x06;
    id[4..12].copy_from_slice(&local_name(port).to_be_bytes());
    id
}

impl Reservations {
    /// Those that were stored, if any.
    pub fn load(state: Option<Arc<DiskState>>) -> Self {
        let stored = state.as_ref().and_then(|state| state.get(SECTION));
        let known = stored.filter(|section| section.version == SECTION_VERSION);
        let table = known.and_then(|section| saved::decode(&section.bytes)).unwrap_or_default();
        Self { state, table }
    }

    /// Whether there is a reservation.
    pub fn is_reserved(&self) -> bool {
        self.table.reservation.is_some()
    }

    /// The answer to PERSISTENT RESERVE IN.
    pub fn read(&self, action: u8) -> Result<Vec<u8>, Sense> {
        match action {
            read::KEYS => Ok(self.table.keys()),
            read::RESERVATION => Ok(self.table.reservation_data()),
            read::CAPABILITIES => Ok(self.capabilities()),
            read::FULL_STATUS => Ok(self.table.full_status()),
            _ => Err(Sense::cdb_field(1, Some(4))),
        }
    }

    /// REPORT CAPABILITIES (SPC-5, 6.15.4).
    fn capabilities(&self) -> Vec<u8> {
        let can_persist = u8::from(self.state.is_some());
        let persists = u8::from(self.table.through_power_loss);
        // SIP_C, ATP_C. TMV: the mask of types is valid: all six.
        vec![0, 8, 0x0c | can_persist, 0x80 | persists, 0xea, 0x01, 0, 0]
    }

    /// What is to be stored, and where.
    fn to_store(&self) -> Option<(Arc<DiskState>, Section)> {
        let state = Arc::clone(self.state.as_ref()?);
        let kept = if self.table.through_power_loss { &self.table } else { &Table::default() };
        Some((state, Section { version: SECTION_VERSION, bytes: saved::encode(kept) }))
    }
}

impl LogicalUnit {
    /// PERSISTENT RESERVE OUT: service action, scope and type, and the parameter list. `None` is a
    /// conflict; otherwise, what has to happen before it is answered.
    pub(super) fn reserve(
        &self,
        nexus: Nexus,
        (action, scope, kind): (u8, u8, u8),
        list: &[u8],
    ) -> Result<Option<ReserveOutcome>, Sense> {
        self.change(|state| {
            let port = state.port(nexus);
            let known: Vec<String> =
                state.nexuses.iter().flatten().map(|n| n.port.clone()).collect();
            let can_persist = state.reservations.state.is_some();
            let request = out::Request::parse(action, scope, kind, list, can_persist)?;
            let mut table = state.reservations.table.clone();
            let Some(outcome) = request.apply(&mut table, &port, &known)? else { return Ok(None) };
            let store = table != state.reservations.table
                && (table.through_power_loss || state.reservations.table.through_power_loss);
            state.reservations.table = table;
            for (whom, code) in &outcome.notices.0 {
                state.attention(*code, |other, port| port == whom && other != nexus);
            }
            let named = |name: &str| outcome.ended.iter().any(|ended| ended == name);
            let all = state.nexuses.iter().enumerate();
            let ended = all.filter_map(|(i, other)| {
                let index = Nexus(i as u32);
                (index != nexus && named(&other.as_ref()?.port)).then_some(index)
            });
            Ok(Some(ReserveOutcome { ended: ended.collect(), store }))
        })
    }

    /// Stores the table as it is now. `saved` is called once it is durable, or could not be made
    /// so.
    pub(super) fn store_reservations(&self, saved: impl FnOnce(io::Result<()>) + Send + 'static) {
        let _order = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        match self.lock().reservations.to_store() {
            Some((state, section)) => state.put(SECTION, section, Box::new(saved)),
            None => saved(Ok(())),
        }
    }

    /// The table could not be stored: it does not survive a power loss, and says so.
    pub(super) fn reservations_not_stored(&self) {
        self.change(|state| state.reservations.table.through_power_loss = false);
    }
}

impl Notices {
    /// A notice for the registrants that `whom` picks, but for `but`.
    fn tell(&mut self, table: &Table, but: &str, code: u16, whom: impl Fn(&Registration) -> bool) {
        let others = table.registrations.iter().filter(|r| r.port != but && whom(r));
        self.0.extend(others.map(|registration| (registration.port.clone(), code)));
    }

    /// The reservation of `kind` is gone: those whom it let in learn of it (SPC-5, 5.14.11.2).
    fn released(&mut self, table: &Table, by: &str, kind: u8) {
        if kind::is_for_registrants(kind) {
            self.tell(table, by, asc::RESERVATIONS_RELEASED, |_| true);
        }
    }
}
