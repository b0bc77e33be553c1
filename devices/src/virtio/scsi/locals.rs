//! The units as one queue sees them: looked up without a lock shared with others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    hba::{Hba, Seat, targets},
    lun::LunAddress,
};
use crate::scsi::UnitHandle;

/// A unit, and this queue's handle on it.
pub(super) struct Local {
    pub seat: Arc<Seat>,
    pub handle: UnitHandle,
    /// Slots that name it.
    pub users: u32,
    /// It was taken away.
    gone: bool,
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The unit with this index.
    Unit(u16),
    /// A target that has other units.
    NoUnit(u8),
    /// The REPORT LUNS well known logical unit.
    ReportLuns,
    /// Nobody.
    Nobody,
}

/// See the module.
pub(super) struct Locals {
    generation: u64,
    entries: Vec<Option<Local>>,
    index: HashMap<(u8, u16), u16>,
    targets: BTreeSet<u8>,
    /// The last one found, and how the request named it.
    last: Option<([u8; 8], u16)>,
}

impl Locals {
    pub fn new() -> Self {
        Self {
            generation: 0,
            entries: Vec::new(),
            index: HashMap::new(),
            targets: BTreeSet::new(),
            last: None,
        }
    }

    /// Looks again if units have come or gone.
    #[inline]
    pub fn refresh(&mut self, hba: &Hba) {
        if hba.generation() != self.generation {
            self.reload(hba);
        }
    }

    fn reload(&mut self, hba: &Hba) {
        self.generation = hba.generation();
        self.last = None;
        let seats = hba.seats();
        self.targets = targets(&seats);
        self.index.clear();
        for (i, entry) in self.entries.iter_mut().enumerate() {
            let Some(local) = entry else { continue };
            let at = (local.seat.target, local.seat.lun);
            if seats.get(&at).is_some_and(|seat| Arc::ptr_eq(seat, &local.seat)) {
                self.index.insert(at, i as u16);
            } else if local.users == 0 {
                *entry = None;
            } else {
                local.gone = true;
            }
        }
        for (at, seat) in seats {
            if self.index.contains_key(&at) {
                continue;
            }
            let free = self.entries.iter().position(Option::is_none);
            let place = free.unwrap_or_else(|| {
                self.entries.push(None);
                self.entries.len() - 1
            });
            let handle = seat.unit.handle();
            self.entries[place] = Some(Local { seat, handle, users: 0, gone: false });
            self.index.insert(at, place as u16);
        }
    }

    /// The unit that a request names.
    #[inline]
    pub fn find(&mut self, lun: [u8; 8]) -> Found {
        if let Some((last, index)) = self.last
            && last == lun
        {
            return Found::Unit(index);
        }
        match LunAddress::parse(lun) {
            LunAddress::Unit { target, lun: number } => match self.index.get(&(target, number)) {
                Some(index) => {
                    self.last = Some((lun, *index));
                    Found::Unit(*index)
                }
                None if self.targets.contains(&target) => Found::NoUnit(target),
                None => Found::Nobody,
            },
            LunAddress::ReportLuns => Found::ReportLuns,
            LunAddress::Invalid => Found::Nobody,
        }
    }

    #[inline]
    pub fn get(&mut self, index: u16) -> Option<&mut Local> {
        self.entries.get_mut(usize::from(index))?.as_mut()
    }

    /// A slot that named a unit is free: a unit that is gone goes with its last user.
    #[inline]
    pub fn release(&mut self, index: u16) {
        let Some(local) = self.get(index) else { return };
        local.users -= 1;
        if local.users == 0 && local.gone {
            self.entries[usize::from(index)] = None;
        }
    }

    /// Whether a unit that a slot names was taken away.
    pub fn is_gone(&self, index: u16) -> bool {
        self.entries.get(usize::from(index)).and_then(Option::as_ref).is_none_or(|l| l.gone)
    }

    /// All units that are there.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Local> {
        self.entries.iter_mut().flatten()
    }
}
