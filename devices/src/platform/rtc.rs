//! The real-time clock and its CMOS memory (Motorola MC146818A): the host's time in UTC.
//!
//! There is no interrupt: the alarm never goes off. Writing to the time changes nothing.

use std::sync::{Mutex, PoisonError};

use crate::{Access, Registers};

/// Offset of the index port.
const INDEX: u64 = 0;
/// Offset of the data port.
const DATA: u64 = 1;
const MEMORY: usize = 128;
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
/// Where PCs keep the century.
const CENTURY: u8 = 0x32;
/// Register A: 32.768 kHz time base, 1.024 kHz periodic rate; never "update in progress".
const A_RESET: u8 = 0x26;
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register B: 24 hours.
const B_24_HOURS: u8 = 1 << 1;
/// Register B: binary instead of binary-coded decimal.
const B_BINARY: u8 = 1 << 2;
/// Register D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;

/// Where the time comes from: seconds since 1970, UTC.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

struct State {
    index: u8,
    memory: [u8; MEMORY],
}

/// The clock.
pub struct Rtc {
    state: Mutex<State>,
    clock: Clock,
}

impl Rtc {
    /// Number of ports.
    pub const PORTS: u64 = 2;

    /// A clock that shows the time of `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let mut memory = [0; MEMORY];
        memory[usize::from(REGISTER_A)] = A_RESET;
        memory[usize::from(REGISTER_B)] = B_24_HOURS;
        Self { state: Mutex::new(State { index: 0, memory }), clock }
    }

    fn load(&self, state: &State) -> u8 {
        let stored = state.memory[usize::from(state.index)];
        let b = state.memory[usize::from(REGISTER_B)];
        let time = || Time::at((self.clock)());
        let value = match state.index {
            SECONDS => time().second,
            MINUTES => time().minute,
            HOURS => return hours(time().hour, b),
            DAY_OF_WEEK => time().day_of_week,
            DAY_OF_MONTH => time().day,
            MONTH => time().month,
            YEAR => (time().year % 100) as u8,
            CENTURY => (time().year / 100) as u8,
            REGISTER_A => return stored & !A_UPDATE_IN_PROGRESS,
            REGISTER_C => return 0,
            REGISTER_D => return D_VALID,
            _ => return stored,
        };
        coded(value, b)
    }
}

fn coded(value: u8, b: u8) -> u8 {
    if b & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
}

fn hours(hour: u8, b: u8) -> u8 {
    if b & B_24_HOURS != 0 {
        return coded(hour, b);
    }
    let afternoon = if hour >= 12 { 1 << 7 } else { 0 };
    coded((hour + 11) % 12 + 1, b) | afternoon
}

impl Registers for Rtc {
    fn read(&self, access: Access) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match access.offset {
            DATA => u64::from(self.load(&state)),
            _ => u64::MAX,
        }
    }

    fn write(&self, access: Access, value: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match access.offset {
            // Bit 7 masks NMIs on a PC.
            INDEX => state.index = value as u8 & 0x7F,
            DATA => {
                let index = usize::from(state.index);
                state.memory[index] = value as u8;
            }
            _ => {}
        }
    }
}

/// A moment of the Gregorian calendar.
#[derive(Debug, PartialEq, Eq)]
struct Time {
    year: u64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    day_of_week: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Time {
    /// The moment `seconds` after the beginning of 1970. Years begin in March, so that the leap day
    /// is the last of its year, and are counted in eras of 400, which all have as many days.
    fn at(seconds: u64) -> Self {
        const DAY: u64 = 86_400;
        const ERA: u64 = 146_097;
        let (days, rest) = (seconds / DAY, seconds % DAY);
        let since = days + 719_468;
        let (era, day_of_era) = (since / ERA, since % ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u8,
            // The first of January 1970 was a Thursday.
            day_of_week: ((days + 4) % 7 + 1) as u8,
            hour: (rest / 3_600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{read, write};

    fn get(rtc: &Rtc, index: u8) -> u8 {
        write(rtc, 0, 1, u64::from(index));
        read(rtc, 1, 1) as u8
    }

    fn set(rtc: &Rtc, index: u8, value: u8) {
        write(rtc, 0, 1, u64::from(index));
        write(rtc, 1, 1, u64::from(value));
    }

    /// The C library as the oracle.
    fn libc_time(seconds: u64) -> Time {
        // SAFETY: a plain structure of integers and a pointer that may be null.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        let seconds = seconds.cast_signed();
        // SAFETY: both pointers are valid for the call.
        assert!(!unsafe { libc::gmtime_r(&raw const seconds, &raw mut tm) }.is_null());
        Time {
            year: (tm.tm_year + 1900) as u64,
            month: tm.tm_mon as u8 + 1,
            day: tm.tm_mday as u8,
            day_of_week: tm.tm_wday as u8 + 1,
            hour: tm.tm_hour as u8,
            minute: tm.tm_min as u8,
            second: tm.tm_sec as u8,
        }
    }

    #[test]
    fn the_calendar_is_the_c_librarys() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let edges = [0, 951_782_399, 951_782_400, 1_709_164_800, 4_107_542_399, 4_107_542_400];
        let random = (0..2_000).map(|_| random.u64(0..20_000_000_000));
        for seconds in edges.into_iter().chain(random) {
            assert_eq!(Time::at(seconds), libc_time(seconds), "{seconds}");
        }
    }

    #[test]
    fn it_shows_the_time_as_register_b_says() {
        // 2024-02-29 23:59:58, a Thursday.
        let rtc = Rtc::new(Box::new(|| 1_709_251_198));
        let all = |rtc: &Rtc| {
            [CENTURY, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK, HOURS, MINUTES, SECONDS]
                .map(|index| get(rtc, index))
        };
        assert_eq!(all(&rtc), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
        set(&rtc, REGISTER_B, B_24_HOURS | B_BINARY);
        assert_eq!(all(&rtc), [20, 24, 2, 29, 5, 23, 59, 58]);
        set(&rtc, REGISTER_B, 0);
        assert_eq!(get(&rtc, HOURS), 0x91, "11 in the evening");
        let midnight = Rtc::new(Box::new(|| 0));
        set(&midnight, REGISTER_B, B_BINARY);
        assert_eq!(get(&midnight, HOURS), 12);
    }

    #[test]
    fn cmos_memory_keeps_what_is_written_and_the_status_is_valid() {
        let rtc = Rtc::new(Box::new(|| 0));
        for index in (0x0E..=0x7F).filter(|i| *i != CENTURY) {
            set(&rtc, index, index ^ 0x5A);
        }
        for index in (0x0E..=0x7F).filter(|i| *i != CENTURY) {
            assert_eq!(get(&rtc, index | 0x80), index ^ 0x5A, "{index:#x}");
        }
        set(&rtc, REGISTER_A, 0xFF);
        assert_eq!(get(&rtc, REGISTER_A), 0x7F, "never in the middle of an update");
        assert_eq!((get(&rtc, REGISTER_C), get(&rtc, REGISTER_D)), (0, 0x80));
        set(&rtc, SECONDS, 0x30);
        assert_eq!(get(&rtc, SECONDS), 0);
    }
}
