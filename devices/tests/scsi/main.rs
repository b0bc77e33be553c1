//! virtio-scsi and the units behind it, driven by a driver that shares nothing with them, over
//! simulated files.
#![expect(clippy::unwrap_used, reason = "tests")]

mod adapter;
mod attention;
mod attributes;
mod drives;
mod errors;
mod functions;
mod history;
mod identity;
mod lifecycle;
mod modes;
mod order;
mod overwriting;
mod provisioning;
mod queues;
mod reads_writes;
mod reservations;
mod setup;
mod threads;
