//! `spindle run --accel qtest`, driven over its socket as QEMU's qtest clients do it. No KVM is
//! needed.
#![expect(clippy::unwrap_used, reason = "tests")]

mod ahci;
mod client;
mod disk;
mod faults;
mod fw_cfg;
mod hotplug;
mod ide;
mod platform;
mod protocol;
mod qmp;
mod sdhci;
