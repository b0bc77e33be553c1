//! Gives each group a lab, reads what its cases report and counts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use spindle_block::error::with_causes;
use spindle_tests::lab::image::Image;
use spindle_tests::lab::kvm::{self, Kvm};
use spindle_tests::lab::{Command, Lab, LabError, Options};

use crate::cases::{Case, Group};

/// A group may take this long; a lab that is older is not to be trusted.
const LIMIT: Duration = Duration::from_secs(480);

/// How often a group may lose its lab.
const ATTEMPTS: u32 = 3;

/// Boots for each lab fault that is tolerated.
const BOOTS_PER_FLAKE: u32 = 20;

#[derive(Default)]
struct Report {
    outcomes: BTreeMap<String, bool>,
    boots: u32,
    flakes: u32,
}

impl Report {
    /// Reads one line of a group's output. Others are for people.
    fn line(&mut self, line: &str) {
        match *line.split(' ').collect::<Vec<_>>() {
            ["case", name, outcome, _] => {
                self.outcomes.insert(name.to_owned(), outcome == "passed");
            }
            ["boots", boots, "flakes", flakes] => {
                self.boots += boots.parse().unwrap_or(0);
                self.flakes += flakes.parse().unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// Runs the wanted cases of all groups.
pub fn run(groups: &[Group], wanted: impl Fn(&Case) -> bool) -> ExitCode {
    let here = kvm::probe();
    if let Kvm::Unusable(why) = &here {
        println!("guests run in the lab: {why}");
    }
    let mut report = Report::default();
    let mut failed = 0;
    // Built here, once, and not while a lab waits.
    for name in ["guest", "debian"] {
        if let Err(error) = Image::build(name) {
            println!("image {name}: {}", with_causes(&error));
        }
    }
    for group in groups {
        let names: Vec<&str> =
            group.all().filter(|case| wanted(case)).map(|case| case.name).collect();
        println!("== {}: {}", group.name, names.join(" "));
        failed += run_group(&names, here == Kvm::Real, &mut report);
    }
    if report.flakes * BOOTS_PER_FLAKE > report.boots {
        println!("too many lab faults: {} in {} boots", report.flakes, report.boots);
        failed += 1;
    }
    let passed = report.outcomes.values().filter(|&&passed| passed).count();
    println!("{} boots, {} lab faults", report.boots, report.flakes);
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs cases until each has an outcome, in a new lab when one is lost; returns how many failed.
fn run_group(names: &[&str], local: bool, report: &mut Report) -> u32 {
    for attempt in 1..=ATTEMPTS {
        let pending: Vec<&str> =
            names.iter().filter(|&&name| !report.outcomes.contains_key(name)).copied().collect();
        if pending.is_empty() {
            break;
        }
        let result = if local { on_host(&pending, report) } else { in_lab(&pending, report) };
        match result {
            Err(error @ LabError::Lost { .. }) if attempt < ATTEMPTS => {
                report.flakes += 1;
                println!("lab-flake: the lab was lost: {error}");
            }
            Err(error) => {
                println!("{}", with_causes(&error));
                break;
            }
            Ok(0) => break,
            Ok(status) => {
                println!("the cases' process ended with {status}");
                break;
            }
        }
    }
    let mut failed = 0;
    for name in names {
        match report.outcomes.get(*name) {
            Some(true) => {}
            Some(false) => failed += 1,
            None => {
                println!("{name}: did not run");
                failed += 1;
            }
        }
    }
    failed
}

fn this_program() -> Result<String, LabError> {
    let path = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
    Ok(path.to_string_lossy().into_owned())
}

fn in_lab(names: &[&str], report: &mut Report) -> Result<i32, LabError> {
    let mut lab = Lab::start(&Options::default())?;
    let program = this_program()?;
    let argv = [&[program.as_str(), "--inside"], names].concat();
    let mut reader = LineReader { report, partial: Vec::new() };
    lab.run_into(&Command::new(argv), LIMIT, &mut reader, &mut std::io::stderr())
}

fn on_host(names: &[&str], report: &mut Report) -> Result<i32, LabError> {
    let program = this_program()?;
    let mut child = std::process::Command::new(Path::new(&program))
        .arg("--inside")
        .args(names)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| LabError::Start { program, source })?;
    if let Some(mut stdout) = child.stdout.take() {
        let mut reader = LineReader { report, partial: Vec::new() };
        std::io::copy(&mut stdout, &mut reader)
            .map_err(LabError::file("read from", "the cases"))?;
    }
    let status = child.wait().map_err(LabError::file("wait for", "the cases"))?;
    Ok(status.code().unwrap_or(125))
}

/// Shows what comes and reads it line by line.
struct LineReader<'a> {
    report: &'a mut Report,
    partial: Vec<u8>,
}

impl Write for LineReader<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.partial).into_owned();
            println!("{line}");
            self.report.line(&line);
            self.partial.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
