//! `docs/coverage/` says which test shows what of each specification, and says so truly.
//!
//! `SPINDLE_BLESS=1` in the environment writes the pages. How to add one: `tests/src/coverage/mod.rs`.

mod ahci;
mod ata;
mod ide;
mod nvme;
mod qcow2;
mod scsi;
mod sd;
mod virtio_blk;
mod virtio_pci;
mod virtio_rng;
mod virtio_scsi;

use std::path::Path;

use spindle_tests::coverage::{Page, check, compare};

/// All pages.
const PAGES: &[Page] = &[
    virtio_pci::PAGE,
    virtio_blk::PAGE,
    virtio_rng::PAGE,
    virtio_scsi::PAGE,
    scsi::PAGE,
    nvme::PAGE,
    ide::PAGE,
    ahci::PAGE,
    ata::PAGE,
    sd::PAGE,
    qcow2::PAGE,
];

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn everything_has_a_test_that_exists() {
    let wrong: Vec<String> = PAGES.iter().flat_map(|page| check(&root(), page)).collect();
    assert!(wrong.is_empty(), "tables in tests/tests/coverage/:\n{}", wrong.join("\n"));
}

#[test]
fn the_pages_are_those_of_the_tables() {
    let bless = std::env::var_os("SPINDLE_BLESS").is_some();
    let wrong = compare(&root().join("docs/coverage"), PAGES, bless);
    let how = "SPINDLE_BLESS=1 cargo test -p spindle-tests --test coverage writes them anew";
    assert!(wrong.is_empty(), "{}\n{how}", wrong.join("\n"));
}
