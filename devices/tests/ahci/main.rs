//! AHCI controllers and the drives behind them, driven by a driver that shares nothing with them,
//! over simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod coalescing;
mod commands;
mod driver;
mod errors;
mod hotplug;
mod identify;
mod interrupts;
mod multiplier;
mod packets;
mod queued;
mod registers;
mod resets;
mod soak;
mod threads;
mod transfers;
