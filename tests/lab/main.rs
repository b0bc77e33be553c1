//! The lab tests: a real Linux on spindle under a real KVM.
//!
//!     lab-tests [--list] [NAME...]     run all cases, or those whose name contains a NAME
//!
//! Each group of cases gets a lab of its own, or none where the host's KVM runs a stock kernel. The last
//! line is `N passed, N failed`.

mod ata;
mod boot;
mod cases;
mod controllers;
mod crash;
mod disk;
mod firmware;
mod ide;
mod inner;
mod iso;
mod kept;
mod management;
mod nbd;
mod outer;
mod sd;

use std::process::ExitCode;

use cases::{Case, Group};

/// All cases. A group takes about five minutes at most on two busy cores, for a lab's sake.
const GROUPS: &[Group] = &[
    Group { name: "boot", cases: &[boot::CASES, firmware::CASES, boot::REBOOTS] },
    Group { name: "disk", cases: &[disk::CASES, disk::CONTROL] },
    Group { name: "nvme", cases: &[controllers::NVME] },
    Group { name: "scsi", cases: &[controllers::SCSI] },
    Group { name: "ahci", cases: &[ata::AHCI] },
    Group { name: "ide", cases: &[ide::CASES, kept::CASES] },
    Group { name: "sd", cases: &[sd::CASES] },
    Group { name: "management", cases: &[management::CASES] },
    Group { name: "hot-plug", cases: &[controllers::HOT_PLUG, crash::CASES] },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, _)) if first == "--list" => {
            for group in GROUPS {
                group.all().for_each(|case| println!("{}/{}", group.name, case.name));
            }
            ExitCode::SUCCESS
        }
        Some((first, names)) if first == "--inside" => inner::run(&selected(names, true)),
        Some((first, _)) if first.starts_with('-') => {
            eprintln!("usage: lab-tests [--list] [NAME...]");
            ExitCode::from(2)
        }
        _ => outer::run(GROUPS, |case| is_wanted(case, &arguments, false)),
    }
}

fn is_wanted(case: &Case, names: &[String], exact: bool) -> bool {
    let matches = |name: &String| if exact { case.name == name } else { case.name.contains(name) };
    names.is_empty() || names.iter().any(matches)
}

fn selected(names: &[String], exact: bool) -> Vec<Case> {
    let cases = GROUPS.iter().flat_map(Group::all);
    cases.filter(|case| is_wanted(case, names, exact)).copied().collect()
}
