//! PERSISTENT RESERVE OUT (SPC-5, 6.16).

use super::{
    super::{sense::Sense, spec::asc},
    Notices, REGISTRATIONS_MAX, Registration, Reservation, Table, kind, transport_id,
};

/// Service actions (SPC-5, 6.16.2).
mod action {
    pub const REGISTER: u8 = 0;
    pub const RESERVE: u8 = 1;
    pub const RELEASE: u8 = 2;
    pub const CLEAR: u8 = 3;
    pub const PREEMPT: u8 = 4;
    pub const PREEMPT_AND_ABORT: u8 = 5;
    pub const REGISTER_AND_IGNORE: u8 = 6;
    pub const REGISTER_AND_MOVE: u8 = 7;
}

/// SPEC_I_PT in byte 20.
const SPEC_I_PT: u8 = 0x08;
/// Length of the basic parameter list, in bytes (SPC-5, 6.16.3).
const LIST_LEN: usize = 24;

/// A command and its parameter list.
pub(super) struct Request {
    action: u8,
    kind: u8,
    key: u64,
    action_key: u64,
    through_power_loss: bool,
    unregister: bool,
    /// TransportID of REGISTER AND MOVE.
    target: Vec<u8>,
    /// TransportIDs of REGISTER with SPEC_I_PT, each with its place in the parameter list.
    others: Option<Vec<(u16, [u8; TRANSPORT_ID_LEN])>>,
}

/// Length of the TransportIDs that ports have, in bytes (SPC-5, 7.6.4.7).
const TRANSPORT_ID_LEN: usize = 24;

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    pub notices: Notices,
    /// Names of the ports whose commands are to be ended.
    pub ended: Vec<String>,
}

fn be64(list: &[u8], at: usize) -> u64 {
    list[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Request {
    pub fn parse(
        action: u8,
        scope: u8,
        kind: u8,
        list: &[u8],
        can_persist: bool,
    ) -> Result<Self, Sense> {
        if action > action::REGISTER_AND_MOVE {
            return Err(Sense::cdb_field(1, Some(4)));
        }
        let reserves = matches!(
            action,
            action::RESERVE | action::RELEASE | action::PREEMPT | action::PREEMPT_AND_ABORT
        );
        if reserves && scope != 0 {
            return Err(Sense::cdb_field(2, Some(7)));
        }
        if reserves && !kind::is_valid(kind) {
            return Err(Sense::cdb_field(2, Some(3)));
        }
        let moves = action == action::REGISTER_AND_MOVE;
        if list.len() < LIST_LEN {
            return Err(Sense::parameter_length());
        }
        let specified = !moves && list[20] & SPEC_I_PT != 0;
        if !moves && !specified && list.len() != LIST_LEN {
            return Err(Sense::parameter_length());
        }
        let (key, action_key) = (be64(list, 0), be64(list, 8));
        let (flags_at, unregister) = if moves { (17, list[17] & 2 != 0) } else { (20, false) };
        let flags = list[flags_at];
        // Only REGISTER names other ports. ALL_TG_PT says nothing new: there is one target port.
        if specified && action != action::REGISTER {
            return Err(Sense::parameter(20, Some(3)));
        }
        let others = if specified { Some(transport_ids(list)?) } else { None };
        let registers = matches!(action, action::REGISTER | action::REGISTER_AND_IGNORE) || moves;
        let through_power_loss = registers && flags & 1 != 0;
        if through_power_loss && !can_persist {
            return Err(Sense::parameter(flags_at as u16, Some(0)));
        }
        let mut target = Vec::new();
        if moves {
            let len = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
            target = list
                .get(24..)
                .filter(|id| id.len() == len)
                .ok_or(Sense::parameter_length())?
                .to_vec();
            if action_key == 0 {
                return Err(Sense::parameter(8, None));
            }
        }
        Ok(Self { action, kind, key, action_key, through_power_loss, unregister, target, others })
    }

    /// Applies it for `port`. `None` is a conflict. `known` are the ports that exist.
    pub fn apply(
        &self,
        table: &mut Table,
        port: &str,
        known: &[String],
    ) -> Result<Option<Outcome>, Sense> {
        let mut outcome = Outcome::default();
        let registered = table.registration(port).map(|registration| registration.key);
        let ignores = self.action == action::REGISTER_AND_IGNORE;
        let first = self.action == action::REGISTER && registered.is_none();
        // An unregistered nexus may only register, and names no key for it.
        let matches = if first { self.key == 0 } else { registered == Some(self.key) };
        if !ignores && !matches {
            return Ok(None);
        }
        let done = match self.action {
            action::REGISTER | action::REGISTER_AND_IGNORE => {
                self.register(table, (port, known), &mut outcome)?;
                true
            }
            action::RESERVE => self.reserve(table, port),
            action::RELEASE => {
                self.release(table, port, &mut outcome)?;
                true
            }
            action::CLEAR => {
                outcome.notices.tell(table, port, asc::RESERVATIONS_PREEMPTED, |_| true);
                table.registrations.clear();
                table.reservation = None;
                table.generation = table.generation.wrapping_add(1);
                true
            }
            action::PREEMPT | action::PREEMPT_AND_ABORT => {
                self.preempt(table, port, &mut outcome)?
            }
            _ => self.register_and_move(table, port, known)?,
        };
        Ok(done.then_some(outcome))
    }

    fn register(
        &self,
        table: &mut Table,
        (port, known): (&str, &[String]),
        outcome: &mut Outcome,
    ) -> Result<(), Sense> {
        let place = table.registrations.iter().position(|r| r.port == port);
        if place.is_some() && self.others.is_some() {
            // Whoever is registered already registers nobody else (SPC-5, table 69).
            return Err(Sense::parameter(20, Some(3)));
        }
        match place {
            Some(_) if self.action_key == 0 => unregister(table, port, outcome),
            Some(place) => table.registrations[place].key = self.action_key,
            // Nobody is there, and nobody comes.
            None if self.action_key == 0 => return Ok(()),
            None => add(table, port, self.action_key)?,
        }
        for (at, id) in self.others.iter().flatten() {
            let other = known.iter().find(|name| transport_id(name) == *id);
            let other = other.ok_or(Sense::parameter(*at, None))?;
            // A port that has a key keeps it.
            if table.registration(other).is_none() {
                add(table, other, self.action_key)?;
            }
        }
        table.through_power_loss = self.through_power_loss;
        table.generation = table.generation.wrapping_add(1);
        Ok(())
    }

    fn reserve(&self, table: &mut Table, port: &str) -> bool {
        match &table.reservation {
            Some(reservation) => table.is_holder(port) && reservation.kind == self.kind,
            None => {
                table.reservation = Some(Reservation { port: port.to_owned(), kind: self.kind });
                true
            }
        }
    }

    fn release(&self, table: &mut Table, port: &str, outcome: &mut Outcome) -> Result<(), Sense> {
        let Some(reservation) = &table.reservation else { return Ok(()) };
        if !table.is_holder(port) {
            return Ok(());
        }
        if reservation.kind != self.kind {
            return Err(Sense::illegal(asc::INVALID_RELEASE));
        }
        let kind = reservation.kind;
        table.reservation = None;
        outcome.notices.released(table, port, kind);
        Ok(())
    }

    /// SPC-5, 5.14.11.2.6: takes registrations away, and the reservation where they held it.
    fn preempt(&self, table: &mut Table, port: &str, outcome: &mut Outcome) -> Result<bool, Sense> {
        let held = table.reservation.as_ref().map(|reservation| reservation.kind);
        let all = held.is_some_and(kind::is_all);
        let takes = match held {
            Some(_) if all => self.action_key == 0,
            Some(_) => table.holder_key() == Some(self.action_key),
            None => false,
        };
        if self.action_key == 0 && !all {
            return Err(Sense::parameter(8, None));
        }
        let matching = |r: &Registration| {
            if self.action_key == 0 { true } else { r.key == self.action_key }
        };
        if self.action_key != 0 && !table.registrations.iter().any(matching) {
            return Ok(false);
        }
        let gone = |r: &Registration| r.port != port && matching(r);
        outcome.notices.tell(table, port, asc::REGISTRATIONS_PREEMPTED, gone);
        if self.action == action::PREEMPT_AND_ABORT {
            let ended = table.registrations.iter().filter(|r| gone(r));
            outcome.ended = ended.map(|registration| registration.port.clone()).collect();
        }
        table.registrations.retain(|registration| !gone(registration));
        if takes {
            table.reservation = Some(Reservation { port: port.to_owned(), kind: self.kind });
            // Those who stay learn that the rules have changed.
            if held.is_some_and(|held| held != self.kind) {
                outcome.notices.tell(table, port, asc::RESERVATIONS_RELEASED, |_| true);
            }
        } else if let Some(reservation) = &mut table.reservation
            && all
        {
            // Whoever made it may be gone; it belongs to all who stay.
            port.clone_into(&mut reservation.port);
        }
        table.generation = table.generation.wrapping_add(1);
        Ok(true)
    }

    fn register_and_move(
        &self,
        table: &mut Table,
        port: &str,
        known: &[String],
    ) -> Result<bool, Sense> {
        let Some(reservation) = table.reservation.clone() else { return Ok(false) };
        if kind::is_all(reservation.kind) || reservation.port != port {
            return Ok(false);
        }
        let target = known.iter().find(|name| transport_id(name)[..] == self.target[..]);
        let target = target.filter(|name| *name != port).ok_or(Sense::parameter(24, None))?;
        match table.registrations.iter_mut().find(|r| r.port == *target) {
            Some(registration) => registration.key = self.action_key,
            None => add(table, target, self.action_key)?,
        }
        table.reservation = Some(Reservation { port: target.clone(), kind: reservation.kind });
        if self.unregister {
            table.registrations.retain(|registration| registration.port != port);
        }
        table.through_power_loss = self.through_power_loss;
        table.generation = table.generation.wrapping_add(1);
        Ok(true)
    }
}

/// The additional parameter data of SPEC_I_PT: their length, then TransportIDs (SPC-5, 6.16.3).
fn transport_ids(list: &[u8]) -> Result<Vec<(u16, [u8; TRANSPORT_ID_LEN])>, Sense> {
    const AT: usize = LIST_LEN + 4;
    let rest = list.get(AT..).ok_or(Sense::parameter_length())?;
    let len = u32::from_be_bytes([list[24], list[25], list[26], list[27]]) as usize;
    if rest.len() != len {
        return Err(Sense::parameter_length());
    }
    let mut ids = Vec::new();
    for (i, id) in rest.chunks(TRANSPORT_ID_LEN).enumerate() {
        let at = (AT + i * TRANSPORT_ID_LEN) as u16;
        ids.push((at, id.try_into().map_err(|_| Sense::parameter(at, None))?));
    }
    Ok(ids)
}

fn add(table: &mut Table, port: &str, key: u64) -> Result<(), Sense> {
    if table.registrations.len() >= REGISTRATIONS_MAX {
        return Err(Sense::illegal(asc::INSUFFICIENT_REGISTRATIONS));
    }
    table.registrations.push(Registration { port: port.to_owned(), key });
    Ok(())
}

/// SPC-5, 5.14.11.2.3: a reservation goes with its last holder.
fn unregister(table: &mut Table, port: &str, outcome: &mut Outcome) {
    let held = table.is_holder(port);
    table.registrations.retain(|registration| registration.port != port);
    let Some(kind) = table.reservation.as_ref().map(|reservation| reservation.kind) else { return };
    if held && (!kind::is_all(kind) || table.registrations.is_empty()) {
        table.reservation = None;
        outcome.notices.released(table, port, kind);
    }
}
