//! An SD host controller with its cards, driven by a driver that shares nothing with it, over
//! simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cards;
mod driver;
mod emmc;
mod errors;
mod interrupts;
mod lifecycle;
mod registers;
mod soak;
mod transfers;

/// `len` bytes that differ from their neighbours.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}
