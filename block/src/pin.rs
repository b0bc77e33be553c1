//! Pins: what keeps a translation true while a request uses it.
//!
//! A format that hands out a leaf may later want to free or move that cluster. It must not, while
//! requests that were translated before still run. This is a *sleepable read-copy-update*: a
//! request counts itself in under the current parity of its own lane (a counter that no other
//! thread writes), and a grace period is over when both parities were seen empty once. Nobody ever
//! waits for a pin; freed clusters just stay unusable until their grace period ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// The number of an iothread (or of a thread that runs a ring for itself), below [`Lane::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(u16);

impl Lane {
    /// How many lanes there can be at once.
    pub const MAX: usize = 64;

    /// The lane with this number.
    ///
    /// # Panics
    /// When `index` is not below [`Lane::MAX`]: lanes come from the table of iothreads, not from input.
    #[must_use]
    pub fn new(index: usize) -> Self {
        assert!(index < Self::MAX, "lane {index} of {}", Self::MAX);
        Self(index as u16)
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Keeps a translation true until it is dropped. One word and not `Clone`: it is counted on its
/// lane's own cache line.
#[derive(Debug)]
#[must_use = "a translation is only true while its pin is held"]
pub struct Pin(Option<Arc<AtomicU64>>);

impl Pin {
    /// For leaves that never move: plain files.
    pub const NONE: Self = Self(None);

    /// Whether nothing is pinned.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, SeqCst);
        }
    }
}

/// Both parities of one lane, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct LanePins {
    count: [Arc<AtomicU64>; 2],
}

/// The pins of one node.
#[derive(Debug)]
pub struct PinDomain {
    epoch: AtomicU64,
    lanes: Box<[LanePins]>,
}

impl Default for PinDomain {
    fn default() -> Self {
        let lanes = (0..Lane::MAX).map(|_| LanePins::default()).collect();
        Self { epoch: AtomicU64::new(0), lanes }
    }
}

impl PinDomain {
    /// Counts in. Look at the mapping **again** afterwards, with a `SeqCst` load, and use it only if
    /// it has not changed.
    pub fn pin(&self, lane: Lane) -> Pin {
        let parity = (self.epoch.load(SeqCst) & 1) as usize;
        let count = &self.lanes[lane.index()].count[parity];
        count.fetch_add(1, SeqCst);
        Pin(Some(Arc::clone(count)))
    }

    /// Starts a grace period: it covers every pin taken before this call. The caller has already
    /// made the change that new pins will see, with a `SeqCst` store.
    pub fn start_grace(&self) -> Grace {
        Grace { phase: Phase::Inactive }
    }

    /// Whether the grace period is over. Grace periods of one domain that overlap are correct: each
    /// sees both parities empty after it started.
    pub fn grace_over(&self, grace: &mut Grace) -> bool {
        loop {
            match grace.phase {
                Phase::Inactive => {
                    let epoch = self.epoch.load(SeqCst);
                    if !self.empty(epoch.wrapping_add(1)) {
                        return false;
                    }
                    // Somebody else may have flipped since: then look again.
                    let flip = self.epoch.compare_exchange(epoch, epoch + 1, SeqCst, SeqCst);
                    if flip.is_ok() {
                        grace.phase = Phase::Flipped { old: epoch };
                    }
                }
                Phase::Flipped { old } => {
                    if !self.empty(old) {
                        return false;
                    }
                    grace.phase = Phase::Over;
                }
                Phase::Over => return true,
            }
        }
    }

    /// Pins held at this moment.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.lanes.iter().flat_map(|l| &l.count).map(|c| c.load(SeqCst)).sum()
    }

    fn empty(&self, epoch: u64) -> bool {
        let parity = (epoch & 1) as usize;
        self.lanes.iter().all(|lane| lane.count[parity].load(SeqCst) == 0)
    }
}

/// A grace period under way: see [`PinDomain::start_grace`].
#[derive(Debug)]
pub struct Grace {
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for stragglers on the parity that new pins do not use.
    Inactive,
    /// New pins use the other parity; waiting for those of epoch `old`.
    Flipped {
        old: u64,
    },
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_waits_for_every_earlier_pin_and_for_no_later_one() {
        let domain = PinDomain::default();
        let (a, b) = (domain.pin(Lane::new(0)), domain.pin(Lane::new(5)));
        let mut grace = domain.start_grace();
        assert!(!domain.grace_over(&mut grace));
        let later = domain.pin(Lane::new(0));
        drop(a);
        assert!(!domain.grace_over(&mut grace));
        drop(b);
        assert!(domain.grace_over(&mut grace));
        assert_eq!(domain.held(), 1);
        let mut next = domain.start_grace();
        assert!(!domain.grace_over(&mut next));
        drop(later);
        assert!(domain.grace_over(&mut next));
    }

    #[test]
    fn an_unpinned_domain_grants_grace_at_once() {
        let domain = PinDomain::default();
        for _ in 0..5 {
            assert!(domain.grace_over(&mut domain.start_grace()));
        }
    }

    #[test]
    fn overlapping_grace_periods_each_cover_their_own_past() {
        let domain = PinDomain::default();
        let first = domain.pin(Lane::new(1));
        let mut one = domain.start_grace();
        assert!(!domain.grace_over(&mut one));
        let second = domain.pin(Lane::new(1));
        let mut two = domain.start_grace();
        assert!(!domain.grace_over(&mut two));
        drop(first);
        assert!(domain.grace_over(&mut one));
        assert!(!domain.grace_over(&mut two));
        drop(second);
        assert!(domain.grace_over(&mut two));
    }
}
