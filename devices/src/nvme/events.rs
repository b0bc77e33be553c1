//! Asynchronous events (Base 5.2): what has happened that the host has not heard of.

use std::collections::{BTreeSet, VecDeque};

use super::spec::event;

/// Most events that wait for a request; later ones of the same kind are the same event anyway.
const PENDING_MAX: usize = 32;
/// Most entries of the changed namespace list (Base 5.16.1.5).
pub const CHANGED_MAX: usize = 1024;

/// Asynchronous Event Configuration bits (Base 5.27.1.8).
pub mod enable {
    /// Critical warnings of the health log.
    pub const HEALTH: u32 = 0xff;
    /// Namespace attribute notices.
    pub const NAMESPACES: u32 = 1 << 8;
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    /// Feature 0Bh.
    pub enabled: u32,
    pending: VecDeque<u32>,
    /// Event types, as bits, that were reported and whose log the host has not read.
    reported: u8,
    changed: BTreeSet<u32>,
    overflow: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            enabled: enable::NAMESPACES | enable::HEALTH,
            pending: VecDeque::new(),
            reported: 0,
            changed: BTreeSet::new(),
            overflow: false,
        }
    }
}

fn kind(event: u32) -> u8 {
    (event & 7) as u8
}

impl Events {
    /// As after a reset: what was not heard of is forgotten.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Notes an event, unless it is there already or the host does not want it. Returns whether it
    /// could be reported.
    pub fn raise(&mut self, event: u32) -> bool {
        let wanted = match event {
            event::NAMESPACES => self.enabled & enable::NAMESPACES != 0,
            event::TEMPERATURE => self.enabled & enable::HEALTH != 0,
            _ => true,
        };
        if !wanted || self.pending.contains(&event) || self.pending.len() >= PENDING_MAX {
            return false;
        }
        self.pending.push_back(event);
        true
    }

    /// Whether there is an event to report.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.pending.iter().any(|event| self.reported & 1 << kind(*event) == 0)
    }

    /// The next event to report: those of its type wait until the host has read the log.
    pub fn take(&mut self) -> Option<u32> {
        let open = |event: &u32| self.reported & 1 << kind(*event) == 0;
        let at = self.pending.iter().position(open)?;
        let event = self.pending.remove(at)?;
        self.reported |= 1 << kind(event);
        Some(event)
    }

    /// The host has read a log page: its events may be reported again.
    pub fn log_read(&mut self, log: u8) {
        let of_log = [
            event::INVALID_DOORBELL,
            event::TEMPERATURE,
            event::NAMESPACES,
            event::RESERVATION,
            event::SANITIZE,
        ];
        for event in of_log {
            if (event >> 16) as u8 == log {
                self.reported &= !(1 << kind(event));
            }
        }
    }

    /// A namespace came, went or changed.
    pub fn namespace_changed(&mut self, nsid: u32) {
        if self.changed.len() >= CHANGED_MAX {
            self.overflow = true;
        } else {
            self.changed.insert(nsid);
        }
    }

    /// The changed namespace list; the host has it now if `clear`. A single FFFFFFFFh where there
    /// are more than fit.
    pub fn changed_namespaces(&mut self, clear: bool) -> Vec<u32> {
        let list =
            if self.overflow { vec![0xffff_ffff] } else { self.changed.iter().copied().collect() };
        if clear {
            self.changed.clear();
            self.overflow = false;
        }
        list
    }
}
