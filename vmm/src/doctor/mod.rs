//! `spindle doctor`: what this host offers, and what to do about what is missing.
mod guest;
mod host;
mod kvm_probe;
mod ring_probe;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write;

/// How well one thing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Usable, but something would be better.
    Warning,
    /// Not there: machines do not run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `kvm`, `guest`, `io_uring`, …
    pub name: &'static str,
    /// How well it is there.
    pub status: Status,
    /// What was found, in one sentence.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What was found, for programs.
    pub facts: Map<String, Value>,
}

impl Check {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), advice: None, facts: Map::new() }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// What the host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether machines can run here.
    pub usable: bool,
    /// Whether a guest kernel really runs: `usable` without it means nothing.
    pub guest_runs: bool,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

/// Looks at this host. Takes a fraction of a second, or up to a few where a guest hangs.
#[must_use]
pub fn examine() -> Report {
    let [kvm, guest] = kvm_probe::checks();
    let guest_runs = guest.status != Status::Missing;
    let checks = vec![
        kvm,
        guest,
        ring_probe::check(),
        host::huge_pages(),
        host::memlock(),
        host::open_files(),
        host::packages(),
    ];
    let usable = checks.iter().all(|check| check.status != Status::Missing);
    Report { usable, guest_runs, checks }
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for check in &self.checks {
            let mark = match check.status {
                Status::Ok => "ok     ",
                Status::Warning => "warning",
                Status::Missing => "MISSING",
            };
            let _ = writeln!(out, "{mark}  {:width$}  {}", check.name, check.found);
            if let Some(advice) = &check.advice {
                let _ = writeln!(out, "{:9}{:width$}  → {advice}", "", "");
            }
        }
        let verdict = if self.usable {
            "Machines can run on this host."
        } else {
            "Machines cannot run on this host until what is MISSING is there."
        };
        let _ = writeln!(out, "\n{verdict}");
        out
    }

    /// The report for programs.
    ///
    /// # Errors
    ///
    /// None in practice: every part of it can be shown as JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
