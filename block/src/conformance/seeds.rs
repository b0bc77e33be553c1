//! Which seeds a random test runs with.

use std::time::{Duration, Instant};

/// The seeds `fixed`, so that a failure is seen again, and one that nobody has tried. With
/// `SPINDLE_SEED=N` in the environment only that one; with `SPINDLE_SOAK=SECONDS` fresh ones for
/// that long.
///
/// # Panics
/// When one of these is no number.
pub fn seeds(fixed: impl IntoIterator<Item = u64>) -> impl Iterator<Item = u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        let hex = text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
        Some(hex.unwrap_or_else(|| text.parse()).unwrap_or_else(|e| panic!("{name}={text}: {e}")))
    };
    let one = number("SPINDLE_SEED");
    let soak = number("SPINDLE_SOAK").map(Duration::from_secs);
    let start = Instant::now();
    let sample = fixed.into_iter().map(Some).chain([None]);
    let listed: Vec<Option<u64>> = if one.is_some() { vec![one] } else { sample.collect() };
    let endless = std::iter::repeat_with(|| None)
        .take_while(move |_| one.is_none() && soak.is_some_and(|time| start.elapsed() < time));
    listed.into_iter().chain(endless).map(|seed| {
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        // Seen when the test fails.
        println!("SPINDLE_SEED={seed:#x}");
        seed
    })
}
