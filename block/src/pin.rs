//! Pins: what keeps a translation true while a request uses it.
//!
//! A format that hands out a leaf may later want to free or move that cluster. It must not, while
//! requests that were translated before still run. This is a *sleepable read-copy-update*: a
//! request counts itself in under the current parity of its own lane (a counter that no other
//! thread writes), and a grace period is over when both parities were seen empty once. Nobody ever
//! waits for a pin; freed clusters just stay unusable until their grace period ends.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// The number of an iothread (or of a thread that runs a ring for itself), below [`Lane::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(u16);

impl Lane {
    /// How many lanes there can be at once.
    #[cfg(not(loom))]
    pub const MAX: usize = 64;
    /// How many lanes there can be at once: few enough for a model.
    #[cfg(loom)]
    pub const MAX: usize = 2;

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

// make test runs these: tests/loom.
#[cfg(all(test, loom))]
mod models {
    use loom::{cell::UnsafeCell, thread};

    use super::*;

    /// A cluster with the entry that points to it. The entry changes and is looked at by
    /// read-modify-write operations, because the model checker takes sequentially consistent stores
    /// and loads for releases and acquires; see [`crate::inbox`].
    struct Cluster {
        entry: AtomicU64,
        data: UnsafeCell<u32>,
    }

    impl Cluster {
        fn new() -> Self {
            Self { entry: AtomicU64::new(1), data: UnsafeCell::new(7) }
        }

        /// What a request does: pins, looks again, and uses what it found.
        fn read(&self, pins: &PinDomain, lane: usize) {
            let pin = pins.pin(Lane::new(lane));
            if self.entry.fetch_or(0, SeqCst) == 1 {
                // SAFETY: nobody writes while the pin is held, which is what the model checks.
                assert_eq!(self.data.with(|data| unsafe { *data }), 7);
            }
            drop(pin);
        }

        /// What freeing does: takes the entry away, waits, and lets somebody else write there.
        fn free(&self, pins: &PinDomain) {
            self.entry.swap(0, SeqCst);
            let mut grace = pins.start_grace();
            while !pins.grace_over(&mut grace) {
                thread::yield_now();
            }
            // SAFETY: nobody reads any more, which is what the model checks.
            self.data.with_mut(|data| unsafe { *data = 8 });
        }
    }

    #[test]
    fn no_cluster_is_reused_under_a_pin() {
        loom::model(|| {
            let shared = Arc::new((PinDomain::default(), Cluster::new()));
            let reader = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1.read(&shared.0, 0);
                    shared.1.read(&shared.0, 0);
                })
            };
            shared.1.free(&shared.0);
            reader.join().expect("reader");
            assert_eq!(shared.0.held(), 0);
        });
    }

    #[test]
    fn grace_periods_that_overlap_cover_every_lane() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let shared = Arc::new((PinDomain::default(), [Cluster::new(), Cluster::new()]));
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.1[1].free(&shared.0))
            };
            let reader = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1[0].read(&shared.0, 1);
                    shared.1[1].read(&shared.0, 0);
                })
            };
            shared.1[0].free(&shared.0);
            other.join().expect("the other grace period");
            reader.join().expect("reader");
        });
    }
}

#[cfg(all(test, not(loom)))]
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
