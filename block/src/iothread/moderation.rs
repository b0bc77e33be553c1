//! Interrupt moderation: how many completions of a queue one interrupt speaks for.
//!
//! An interrupt costs a guest several exits, and so does the doorbell it rings when it goes on after
//! one. A device that answers at once would interrupt for every request of a deep queue while the
//! guest is still busy submitting the next. So an interrupt may wait as long as requests keep
//! arriving, for as many completions as waiting has brought before; the iothread looks for those
//! requests meanwhile, and none of them needs a doorbell.
//!
//! What is learned, and what bounds it:
//! - `batch`, the completions worth waiting for. It is 1 for a guest that waits for every request, and
//!   such a guest pays for rare probes only.
//! - `gap`, the time between arrivals. When three times that has passed without one, the guest has nothing
//!   to add and gets its interrupt; in no case does a completion wait longer than [`HOLD_MAX`].
//! - While others are in flight, a quarter of them is all that is held back: a device that takes its
//!   time is never left without work.

use std::time::{Duration, Instant};

/// Most completions that one interrupt waits for.
pub const BATCH_MAX: u32 = 32;
/// The longest time that a completion is held back.
pub const HOLD_MAX: Duration = Duration::from_millis(1);
/// Arrivals further apart than this have nothing to do with each other.
const GAP_MAX: Duration = Duration::from_micros(250);
/// What is assumed before anything was seen.
const GAP_FIRST: Duration = Duration::from_micros(16);
/// Fewest and most interrupts between probes for a larger batch.
const PROBE: (u32, u32) = (4, 512);

/// What to do about completions that the guest was not interrupted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Interrupt it.
    Raise,
    /// Look again for more, until then.
    Hold(Instant),
}

/// See the module.
#[derive(Debug)]
pub struct Moderation {
    /// Completions since the last interrupt.
    owed: u32,
    /// When the first of them was looked at.
    since: Option<Instant>,
    /// When requests were last taken.
    arrival: Option<Instant>,
    gap: Duration,
    batch: u32,
    /// The batch that was last reached.
    proven: u32,
    /// Interrupts since the last probe, and how many there are to be.
    quiet: u32,
    probe_after: u32,
}

impl Default for Moderation {
    fn default() -> Self {
        Self {
            owed: 0,
            since: None,
            arrival: None,
            gap: GAP_FIRST,
            batch: 1,
            proven: 1,
            quiet: 0,
            probe_after: PROBE.0,
        }
    }
}

impl Moderation {
    /// Requests were taken.
    #[inline]
    pub fn arrived(&mut self, now: Instant) {
        if let Some(before) = self.arrival.replace(now) {
            let gap = now.saturating_duration_since(before);
            // Between batches it is the guest's time to react that would be measured.
            let one_batch = self.since.is_some() || self.batch == 1;
            if gap <= GAP_MAX && one_batch {
                self.gap = (self.gap * 7 + gap) / 8;
            }
        }
    }

    /// A request has ended.
    #[inline]
    pub fn ended(&mut self) {
        self.owed = self.owed.saturating_add(1);
    }

    /// What to do now, with `in_flight` requests still under way.
    #[inline]
    pub fn judge(&mut self, now: Instant, in_flight: u32) -> Verdict {
        let most = if in_flight == 0 { self.batch } else { self.batch.min(in_flight / 4) };
        if self.owed == 0 || self.owed >= most {
            // Nothing was learned where others in flight were the bound.
            if self.owed >= self.batch {
                self.reached();
            }
            return Verdict::Raise;
        }
        let since = *self.since.get_or_insert(now);
        let last = self.arrival.map_or(since, |arrival| arrival.max(since));
        let until = (last + self.gap * 3).min(since + HOLD_MAX);
        if now < until {
            return Verdict::Hold(until);
        }
        self.missed();
        Verdict::Raise
    }

    /// The interrupt was raised, or there was nothing to raise one for.
    #[inline]
    pub fn raised(&mut self) {
        self.owed = 0;
        self.since = None;
    }

    /// As many completions came as were waited for: now and then, wait for more.
    fn reached(&mut self) {
        if self.batch > self.proven {
            // A probe that paid: the next one follows at once.
            self.proven = self.batch;
            self.probe_after = PROBE.0;
            self.quiet = self.probe_after;
        }
        self.quiet += 1;
        if self.quiet >= self.probe_after && self.batch < BATCH_MAX {
            self.quiet = 0;
            self.batch = (self.batch * 2).min(BATCH_MAX);
        }
    }

    /// Fewer came.
    #[cold]
    fn missed(&mut self) {
        if self.batch > self.proven && self.owed >= self.proven {
            // A probe that did not pay, or only in part.
            self.probe_after = (self.probe_after * 2).min(PROBE.1);
            self.batch = self.owed.max(1);
        } else {
            self.batch = (self.batch.min(self.proven) + self.owed) / 2;
            self.batch = self.batch.max(1);
        }
        self.proven = self.batch;
        self.quiet = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that keeps up to `depth` requests outstanding and needs `think` from one submission to
    /// the next, over a device that answers at once.
    struct Guest {
        now: Instant,
        depth: u32,
        think: Duration,
        moderation: Moderation,
        interrupts: u32,
        held: Duration,
        longest: Duration,
    }

    impl Guest {
        fn new(depth: u32, think: Duration) -> Self {
            Self {
                now: Instant::now(),
                depth,
                think,
                moderation: Moderation::default(),
                interrupts: 0,
                held: Duration::ZERO,
                longest: Duration::ZERO,
            }
        }

        /// Until `requests` were made.
        fn run(&mut self, requests: u32) {
            let (mut outstanding, mut oldest) = (0, self.now);
            for _ in 0..requests {
                self.now += self.think;
                self.moderation.arrived(self.now);
                self.moderation.ended();
                oldest = if outstanding == 0 { self.now } else { oldest };
                outstanding += 1;
                let mut at = self.now;
                loop {
                    match self.moderation.judge(at, 0) {
                        Verdict::Raise => {
                            self.longest = self.longest.max(at - oldest);
                            self.moderation.raised();
                            self.interrupts += 1;
                            outstanding = 0;
                            break;
                        }
                        // It has more to submit before that.
                        Verdict::Hold(until)
                            if outstanding < self.depth && until >= self.now + self.think =>
                        {
                            break;
                        }
                        Verdict::Hold(until) => {
                            assert!(until > at);
                            if outstanding == self.depth {
                                self.held += until - self.now;
                                self.now = until;
                            }
                            at = until;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_deep_queue_gets_an_interrupt_for_many() {
        for think in [2, 20, 100] {
            let mut guest = Guest::new(32, Duration::from_micros(think));
            guest.run(1000);
            (guest.interrupts, guest.longest) = (0, Duration::ZERO);
            guest.run(3200);
            let most = if think == 100 { 400 } else { 110 };
            assert!(guest.interrupts <= most, "{think} µs: {} interrupts", guest.interrupts);
            assert!(guest.longest <= HOLD_MAX + guest.think, "{:?}", guest.longest);
        }
    }

    #[test]
    fn a_guest_that_waits_for_each_request_is_hardly_ever_kept_waiting() {
        for think in [10, 80, 800] {
            let mut guest = Guest::new(1, Duration::from_micros(think));
            guest.run(2000);
            guest.held = Duration::ZERO;
            let start = guest.now;
            guest.run(10_000);
            let share = guest.held.as_secs_f64() / (guest.now - start).as_secs_f64();
            assert!(share < 0.01, "{think} µs: {share}");
            assert_eq!(guest.interrupts, 12_000);
        }
    }

    #[test]
    fn depths_between_are_found_and_a_change_is_followed() {
        let mut guest = Guest::new(6, Duration::from_micros(5));
        guest.run(2000);
        guest.interrupts = 0;
        guest.run(600);
        assert!((100..=130).contains(&guest.interrupts), "{}", guest.interrupts);
        guest.depth = 1;
        guest.run(20);
        guest.held = Duration::ZERO;
        guest.run(1000);
        assert!(guest.held < Duration::from_micros(1000), "{:?}", guest.held);
    }

    #[test]
    fn a_device_that_takes_its_time_keeps_three_quarters_of_its_work() {
        let mut moderation = Moderation { batch: 32, proven: 32, ..Moderation::default() };
        let now = Instant::now();
        moderation.arrived(now);
        for owed in 1..=7 {
            moderation.ended();
            let raised = moderation.judge(now, 32 - owed) == Verdict::Raise;
            assert_eq!(raised, owed == 7 || owed >= (32 - owed) / 4, "{owed}");
        }
        assert_eq!(moderation.batch, 32, "it says nothing about the guest");
        let mut moderation = Moderation { batch: 32, ..Moderation::default() };
        moderation.ended();
        assert_eq!(moderation.judge(now, 3), Verdict::Raise, "three are too few to wait for");
    }

    #[test]
    fn what_was_answered_on_the_spot_does_not_wait() {
        let mut moderation = Moderation { batch: 32, ..Moderation::default() };
        assert_eq!(moderation.judge(Instant::now(), 0), Verdict::Raise);
    }
}
