//! CMD6 of SD cards: functions (SD 4.3.10).

use super::bits::Bits;

/// Functions of the six groups, the first group first.
pub(super) type Functions = [u8; 6];

/// What a host writes for a group that is to stay as it is, and a card for one that is refused.
const NONE: u8 = 0xf;

/// Which functions each group has, one bit for each.
fn supported(uhs: bool) -> [u16; 6] {
    // Access modes SDR12, SDR25; with 1.8 V SDR50, SDR104, DDR50; driver strengths; current limits.
    let modern = |all| if uhs { all } else { 1 };
    [if uhs { 0x1f } else { 0x03 }, 1, modern(0x0f), modern(0x0f), 1, 1]
}

/// The maximum current in mA of an access mode.
fn current(mode: u8) -> u64 {
    match mode {
        0 => 100,
        1 => 200,
        2 => 400,
        3 => 800,
        _ => 400,
    }
}

/// Answers a switch command: the status that it sends, and the functions from then on.
pub(super) fn switch(now: Functions, uhs: bool, arg: u32) -> ([u8; 64], Functions) {
    let sets = arg >> 31 != 0;
    let support = supported(uhs);
    let mut new = now;
    let mut results = now;
    let mut refused = false;
    for group in 0..6 {
        let wanted = (arg >> (group * 4) & 0xf) as u8;
        if wanted == NONE {
            continue;
        }
        if support[group] >> wanted & 1 == 0 {
            results[group] = NONE;
            refused = true;
        } else {
            results[group] = wanted;
            new[group] = wanted;
        }
    }
    let milliamperes = if refused { 0 } else { current(results[0]) };
    let mut status = Bits::<64>::new().put(511, 496, milliamperes);
    for group in 0..6 {
        let at = 400 + group * 16;
        // Bit 15, "no influence", is a function that every group has.
        status = status.put(at + 15, at, u64::from(support[group]) | 0x8000);
        let at = 376 + group * 4;
        status = status.put(at + 3, at, results[group].into());
    }
    let functions = if sets && !refused { new } else { now };
    (status.0, functions)
}
