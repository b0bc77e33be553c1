//! virtio-scsi and the units behind it, driven by a driver that shares nothing with them, over
//! simulated files. What each test shows of the standards is in its module's `SHOWS`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod adapter;
mod attention;
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

/// What all modules show.
pub const SHOWS: &[(&str, setup::Shows)] = &[
    ("attention", attention::SHOWS),
    ("drives", drives::SHOWS),
    ("errors", errors::SHOWS),
    ("functions", functions::SHOWS),
    ("identity", identity::SHOWS),
    ("modes", modes::SHOWS),
    ("overwriting", overwriting::SHOWS),
    ("provisioning", provisioning::SHOWS),
    ("reads_writes", reads_writes::SHOWS),
    ("reservations", reservations::SHOWS),
];

#[test]
fn every_test_that_is_named_exists() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scsi");
    for (module, shows) in SHOWS {
        let text = std::fs::read_to_string(dir.join(format!("{module}.rs"))).unwrap();
        for (what, section, test) in *shows {
            assert!(!section.is_empty(), "{module}: {what}");
            let found = text.contains(&format!("#[test]\nfn {test}()"));
            assert!(found, "{module}: nothing shows {what} ({test})");
        }
    }
}
