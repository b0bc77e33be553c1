//! Power management (ACS-3, 4.15): modes, and the timer that ends in one.

use std::time::{Duration, Instant};

/// What a drive does while nobody wants anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Mode {
    #[default]
    Active,
    Idle,
    Standby,
    /// Only a reset wakes it.
    Sleep,
}

/// See the module. Nothing happens when the timer ends: it is looked at when the next command comes.
#[derive(Debug, Default)]
pub(in super::super) struct Power {
    pub mode: Mode,
    /// After so long without a command the drive is in standby.
    timer: Option<Duration>,
    /// When the last command came.
    last: Option<Instant>,
}

/// What the COUNT of IDLE and STANDBY stands for (ACS-3, table 46); `None`: the timer is off.
pub(in super::super) fn period(count: u8) -> Option<Duration> {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    match count {
        0 => None,
        1..=240 => Some(Duration::from_secs(u64::from(count) * 5)),
        241..=251 => Some(minutes(u64::from(count - 240) * 30)),
        252 => Some(minutes(21)),
        // Between 8 and 12 hours, as the vendor likes; 254 is reserved.
        253 | 254 => Some(minutes(8 * 60)),
        255 => Some(minutes(21) + Duration::from_secs(15)),
    }
}

impl Power {
    /// A reset.
    pub fn reset(&mut self, power_on: bool) {
        self.mode = Mode::Active;
        if power_on {
            *self = Self::default();
        }
    }

    /// A command comes; `asks`: it only asks for the mode.
    pub fn note(&mut self, now: Instant, asks: bool) {
        if let (Some(timer), Some(last), Mode::Active | Mode::Idle) =
            (self.timer, self.last, self.mode)
            && now.saturating_duration_since(last) >= timer
        {
            self.mode = Mode::Standby;
        }
        if !asks {
            self.last = Some(now);
        }
    }

    /// IDLE and STANDBY set the timer.
    pub fn set_timer(&mut self, count: u8) {
        self.timer = period(count);
    }
}
