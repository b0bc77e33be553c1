//! Reservations: which hosts may use a namespace (Base 7.2 to 7.5, 8.19). Pure state.

use super::status::Status;
use crate::state_file::{Fields, Section, Truncated};

/// The section of the state that has them, if they persist through power loss.
pub const SECTION: &str = "nvme/reservations";
const VERSION: u16 = 1;
/// Most registrants: more than controllers that a machine can have.
const REGISTRANTS_MAX: usize = 256;

/// A host: by its identifier, or, where it has given none, by the controller that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Its identifier.
    Id([u8; 16]),
    /// The controller.
    Controller(u16),
}

/// A host that has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// The host.
    pub host: Host,
    /// Its key.
    pub key: u64,
    /// The controller that it registered through last.
    pub cntlid: u16,
}

/// Reservation types (Base figure 466).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 2,
    WriteExclusiveRegistrants = 3,
    ExclusiveAccessRegistrants = 4,
    WriteExclusiveAll = 5,
    ExclusiveAccessAll = 6,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrants,
        Self::ExclusiveAccessRegistrants,
        Self::WriteExclusiveAll,
        Self::ExclusiveAccessAll,
    ];

    /// The type with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_number(number: u32) -> Result<Self, Status> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number).ok_or(Status::INVALID_FIELD)
    }

    /// Every registrant holds it.
    fn is_for_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Only its holder may do what it excludes others from.
    fn is_personal(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    fn excludes_reads(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }
}

/// What other hosts are told (Base figure 260).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Notice {
    RegistrationPreempted = 1,
    ReservationReleased = 2,
    ReservationPreempted = 3,
}

/// Who is told what.
pub type Notices = Vec<(Host, Notice)>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    registrants: Vec<Registrant>,
    /// The reservation: its type, and its holder where it is not for all.
    held: Option<(Kind, Host)>,
    /// Persist through power loss.
    pub persist: bool,
}

/// What an Acquire command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquire {
    /// Acquires a free reservation.
    Acquire,
    /// Takes it, and the registrations with a key, away.
    Preempt(u64),
}

impl Reservations {
    /// Whether a host may read, or write, as things are.
    #[must_use]
    pub fn allows(&self, host: Host, write: bool) -> bool {
        let Some((kind, holder)) = self.held else { return true };
        if !write && !kind.excludes_reads() {
            return true;
        }
        if kind.is_personal() { holder == host } else { self.find(host).is_some() }
    }

    /// Whether nobody is kept from anything.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.held.is_none()
    }

    /// Whether a host is registered.
    #[must_use]
    pub fn knows(&self, host: Host) -> bool {
        self.find(host).is_some()
    }

    fn find(&self, host: Host) -> Option<&Registrant> {
        self.registrants.iter().find(|registrant| registrant.host == host)
    }

    fn is_holder(&self, host: Host) -> bool {
        self.held.is_some_and(|(kind, holder)| {
            if kind.is_for_all() { self.find(host).is_some() } else { holder == host }
        })
    }

    /// A registrant with this key; any key if none is given.
    fn registered(&self, host: Host, key: Option<u64>) -> Result<(), Status> {
        let registrant = self.find(host).ok_or(Status::RESERVATION_CONFLICT)?;
        let right = key.is_none_or(|key| key == registrant.key);
        if right { Ok(()) } else { Err(Status::RESERVATION_CONFLICT) }
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Register: a new key.
    ///
    /// # Errors
    /// When the host is registered with another key.
    pub fn register(&mut self, host: Host, cntlid: u16, key: u64) -> Result<(), Status> {
        match self.find(host) {
            Some(registrant) if registrant.key == key => return Ok(()),
            Some(_) => return Err(Status::RESERVATION_CONFLICT),
            None if self.registrants.len() >= REGISTRANTS_MAX => return Err(Status::INTERNAL),
            None => self.registrants.push(Registrant { host, key, cntlid }),
        }
        self.next_generation();
        Ok(())
    }

    /// Register: another key.
    ///
    /// # Errors
    /// When the host is not registered, or with another key than `current`.
    pub fn replace(
        &mut self,
        host: Host,
        cntlid: u16,
        current: Option<u64>,
        key: u64,
    ) -> Result<(), Status> {
        self.registered(host, current)?;
        for registrant in self.registrants.iter_mut().filter(|r| r.host == host) {
            (registrant.key, registrant.cntlid) = (key, cntlid);
        }
        self.next_generation();
        Ok(())
    }

    /// Register: no key any more.
    ///
    /// # Errors
    /// As [`Reservations::replace`].
    pub fn unregister(&mut self, host: Host, current: Option<u64>) -> Result<Notices, Status> {
        self.registered(host, current)?;
        let notices = self.forget(|registrant| registrant.host == host, None);
        self.next_generation();
        Ok(notices)
    }

    /// Unregisters those that `gone` names; a reservation that loses its holder is released. Those
    /// that are left are told, and those that are gone get `notice`.
    fn forget(&mut self, gone: impl Fn(&Registrant) -> bool, notice: Option<Notice>) -> Notices {
        let mut notices = Vec::new();
        self.registrants.retain(|registrant| {
            let go = gone(registrant);
            if go {
                notices.extend(notice.map(|notice| (registrant.host, notice)));
            }
            !go
        });
        let Some((kind, holder)) = self.held else { return notices };
        let lost = if kind.is_for_all() {
            self.registrants.is_empty()
        } else {
            self.find(holder).is_none()
        };
        if lost {
            self.held = None;
            if !kind.is_personal() {
                let told = self.registrants.iter().map(|r| (r.host, Notice::ReservationReleased));
                notices.extend(told);
            }
        }
        notices
    }

    /// Acquire.
    ///
    /// # Errors
    /// When the host is not registered with `key`, or somebody is in the way.
    pub fn acquire(
        &mut self,
        host: Host,
        key: u64,
        kind: Kind,
        action: Acquire,
    ) -> Result<Notices, Status> {
        self.registered(host, Some(key))?;
        match (action, self.held) {
            (Acquire::Acquire, None) => {
                self.held = Some((kind, host));
                Ok(Vec::new())
            }
            (Acquire::Acquire, Some((now, _))) if now == kind && self.is_holder(host) => {
                Ok(Vec::new())
            }
            (Acquire::Acquire, Some(_)) => Err(Status::RESERVATION_CONFLICT),
            (Acquire::Preempt(other), held) => self.preempt(host, kind, other, held),
        }
    }

    fn preempt(
        &mut self,
        host: Host,
        kind: Kind,
        other: u64,
        held: Option<(Kind, Host)>,
    ) -> Result<Notices, Status> {
        let for_all = held.is_some_and(|(now, _)| now.is_for_all());
        if other == 0 && !for_all {
            return Err(Status::INVALID_FIELD);
        }
        // Key 0 means all others, of a reservation for all registrants.
        let all_others = other == 0;
        let named = |r: &Registrant| if all_others { r.host != host } else { r.key == other };
        if !all_others && !self.registrants.iter().any(named) {
            return Err(Status::RESERVATION_CONFLICT);
        }
        let takes = match held {
            Some(_) if for_all => all_others,
            Some((_, holder)) => self.find(holder).is_some_and(named),
            None => false,
        };
        let changed = takes && held.is_some_and(|(now, _)| now != kind);
        // A host that names its own key keeps its registration.
        let mut notices =
            self.forget(|r| named(r) && r.host != host, Some(Notice::RegistrationPreempted));
        if takes {
            for notice in &mut notices {
                let was_holder = held.is_some_and(|(_, holder)| holder == notice.0);
                if for_all || was_holder {
                    notice.1 = Notice::ReservationPreempted;
                }
            }
            notices.retain(|notice| notice.1 != Notice::ReservationReleased);
            if changed {
                let left = self.registrants.iter().filter(|r| r.host != host);
                notices.extend(left.map(|r| (r.host, Notice::ReservationReleased)));
            }
            self.held = Some((kind, host));
        }
        self.next_generation();
        Ok(notices)
    }

    /// Release: the reservation, if the host holds it.
    ///
    /// # Errors
    /// When the host is not registered with `key`, or the type is another.
    pub fn release(&mut self, host: Host, key: u64, kind: Kind) -> Result<Notices, Status> {
        self.registered(host, Some(key))?;
        if !self.is_holder(host) {
            return Ok(Vec::new());
        }
        if self.held.is_some_and(|(now, _)| now != kind) {
            return Err(Status::INVALID_FIELD);
        }
        self.held = None;
        if kind.is_personal() {
            return Ok(Vec::new());
        }
        let others = self.registrants.iter().filter(|r| r.host != host);
        Ok(others.map(|r| (r.host, Notice::ReservationReleased)).collect())
    }

    /// Release: everything.
    ///
    /// # Errors
    /// When the host is not registered with `key`.
    pub fn clear(&mut self, host: Host, key: u64) -> Result<Notices, Status> {
        self.registered(host, Some(key))?;
        let others = self.registrants.iter().filter(|r| r.host != host);
        let notices = others.map(|r| (r.host, Notice::ReservationPreempted)).collect();
        self.registrants.clear();
        self.held = None;
        self.next_generation();
        Ok(notices)
    }

    /// A controller was reset: what its host has registered without an identifier is gone.
    pub fn controller_reset(&mut self, cntlid: u16) -> Notices {
        self.forget(|registrant| registrant.host == Host::Controller(cntlid), None)
    }

    /// Reservation Report (Base figures 468 and 470).
    #[must_use]
    pub fn report(&self, extended: bool) -> Vec<u8> {
        let mut bytes = vec![0; if extended { 64 } else { 24 }];
        bytes[..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4] = self.held.map_or(0, |(kind, _)| kind as u8);
        bytes[5..7].copy_from_slice(&(self.registrants.len() as u16).to_le_bytes());
        bytes[9] = u8::from(self.persist);
        for registrant in &self.registrants {
            let id = match registrant.host {
                Host::Id(id) => id,
                Host::Controller(_) => [0; 16],
            };
            let mut entry = vec![0; if extended { 64 } else { 24 }];
            entry[..2].copy_from_slice(&registrant.cntlid.to_le_bytes());
            entry[2] = u8::from(self.is_holder(registrant.host));
            if extended {
                entry[8..16].copy_from_slice(&registrant.key.to_le_bytes());
                entry[16..32].copy_from_slice(&id);
            } else {
                entry[8..16].copy_from_slice(&id[..8]);
                entry[16..24].copy_from_slice(&registrant.key.to_le_bytes());
            }
            bytes.extend(entry);
        }
        bytes
    }

    /// What survives power loss.
    #[must_use]
    pub fn section(&self) -> Section {
        let mut bytes = self.generation.to_le_bytes().to_vec();
        let kept: Vec<_> = self
            .registrants
            .iter()
            .filter_map(|r| match r.host {
                Host::Id(id) => Some((id, r.key, r.cntlid)),
                Host::Controller(_) => None,
            })
            .collect();
        let holder = self.held.and_then(|(kind, host)| match host {
            Host::Id(id) => Some((kind as u8, id)),
            Host::Controller(_) => None,
        });
        let (kind, id) = holder.unwrap_or((0, [0; 16]));
        bytes.push(kind);
        bytes.extend(id);
        bytes.extend((kept.len() as u16).to_le_bytes());
        for (id, key, cntlid) in kept {
            bytes.extend(id);
            bytes.extend(key.to_le_bytes());
            bytes.extend(cntlid.to_le_bytes());
        }
        Section { version: VERSION, bytes }
    }

    /// What a section holds; nothing where it makes no sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Self {
        section
            .filter(|section| section.version == VERSION)
            .and_then(|section| Self::parse(&section.bytes).ok())
            .unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut fields = Fields::new(bytes);
        let mut all = Self { generation: fields.u32()?, persist: true, ..Self::default() };
        let (kind, holder) = (fields.u8()?, Host::Id(fields.array()?));
        for _ in 0..usize::from(fields.u16()?).min(REGISTRANTS_MAX) {
            let (host, key) = (Host::Id(fields.array()?), fields.u64()?);
            let cntlid = fields.u16()?;
            if all.find(host).is_none() {
                all.registrants.push(Registrant { host, key, cntlid });
            }
        }
        if let Ok(kind) = Kind::from_number(kind.into()) {
            let there = if kind.is_for_all() {
                !all.registrants.is_empty()
            } else {
                all.find(holder).is_some()
            };
            all.held = there.then_some((kind, holder));
        }
        Ok(all)
    }
}
