//! What a case is and what it is given.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use spindle_tests::lab::LabError;
use spindle_tests::lab::guest::{Ended, Guest, GuestError, Running, Vmm};

/// Why a case failed, or that the lab failed it.
pub type Error = GuestError;

/// Outcome of a case.
pub type Outcome = Result<(), GuestError>;

/// One thing to show, with a guest.
#[derive(Clone, Copy)]
pub struct Case {
    /// Unique among all groups.
    pub name: &'static str,
    /// Shows it, or says why not.
    pub run: fn(&Context) -> Outcome,
}

/// Cases that share a lab.
pub struct Group {
    /// For people.
    pub name: &'static str,
    /// In the order in which they run.
    pub cases: &'static [&'static [Case]],
}

impl Group {
    /// Its cases.
    pub fn all(&self) -> impl Iterator<Item = &'static Case> + use<> {
        self.cases.iter().flat_map(|cases| cases.iter())
    }
}

/// What a case works with.
pub struct Context {
    /// An empty directory on the disk for images.
    pub work: PathBuf,
    /// Who runs the guests.
    pub vmm: Vmm,
    /// Guests started so far, for the rate of lab faults.
    pub boots: Cell<u32>,
}

impl Context {
    /// Starts a guest.
    pub fn start(&self, guest: &Guest) -> Result<Running, GuestError> {
        let number = self.boots.get() + 1;
        self.boots.set(number);
        let directory = self.work.join(format!("guest-{number}"));
        fs::create_dir_all(&directory).map_err(LabError::file("create", &directory))?;
        // On this processor Linux looks for an AGP bridge on every bus that there may be, which takes a
        // second of each boot under emulation and says nothing about disks.
        let mut guest = guest.clone();
        guest.append += " pci=noearly";
        Ok(guest.start(&directory)?)
    }

    /// Runs a guest to its end and requires that its job succeeded and that it powered off.
    pub fn succeed(&self, guest: &Guest) -> Result<Ended, GuestError> {
        self.start(guest)?.finish()?.success()
    }

    /// A raw image of this size in MiB.
    pub fn raw(&self, name: &str, size_mib: u64) -> Result<PathBuf, GuestError> {
        let path = self.work.join(name);
        let file = fs::File::create(&path).map_err(LabError::file("create", &path))?;
        file.set_len(size_mib << 20).map_err(LabError::file("resize", &path))?;
        Ok(path)
    }

    /// An empty qcow2 image of this size in MiB, made by `qemu-img`.
    pub fn qcow2(&self, name: &str, size_mib: u64) -> Result<PathBuf, GuestError> {
        let path = self.work.join(name);
        let size = format!("{size_mib}M");
        tool("qemu-img", &["create", "-q", "-f", "qcow2", &text(&path), &size])?;
        Ok(path)
    }

    /// A copy of a file of an image, on the disk under test.
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf, GuestError> {
        let path = self.work.join(name);
        tool("cp", &["--sparse=always", &text(from), &text(&path)])?;
        Ok(path)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Runs a program that must succeed and returns what it printed.
pub fn tool(program: &str, arguments: &[&str]) -> Result<String, GuestError> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|source| LabError::Start { program: program.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(GuestError::Failed(format!(
        "{program} {} ended with {}:\n{said}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// Requires a condition.
pub fn require(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(GuestError::Failed(otherwise())) }
}

/// Requires that `qemu-img check` finds nothing wrong, leaks included.
pub fn check_qcow2(path: &Path) -> Outcome {
    tool("qemu-img", &["check", "-q", "-f", "qcow2", &text(path)]).map(drop)
}

/// Requires that `qemu-img check` finds at most leaks: the least that a crash may leave.
pub fn check_qcow2_after_crash(path: &Path) -> Outcome {
    let path = text(path);
    let status = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", &path])
        .output()
        .map_err(|source| LabError::Start { program: "qemu-img".to_owned(), source })?;
    // qemu-img(1): 3 means leaks and no corruption.
    require(matches!(status.status.code(), Some(0 | 3)), || {
        format!("qemu-img check {path}:\n{}", String::from_utf8_lossy(&status.stdout))
    })
}
