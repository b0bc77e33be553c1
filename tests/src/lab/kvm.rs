//! Whether this machine's KVM can run a stock kernel.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::guest::Vmm;

/// What `/dev/kvm` is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// Guests run on it.
    Real,
    /// Guests do not; why, as the end of a sentence.
    Unusable(String),
}

/// Asks `spindle doctor` whether a guest kernel really runs here; where that program cannot say, looks
/// itself.
pub fn probe() -> Kvm {
    match Vmm::spindle() {
        Vmm::Spindle(program) => ask_doctor(&program).unwrap_or_else(look),
        Vmm::Qemu => look(),
    }
}

/// What the doctor says, if it says anything.
fn ask_doctor(spindle: &Path) -> Option<Kvm> {
    let output = Command::new(spindle).args(["doctor", "--json"]).stdin(Stdio::null()).output();
    verdict(&serde_json::from_slice(&output.ok()?.stdout).ok()?)
}

fn verdict(report: &Value) -> Option<Kvm> {
    if report["guest_runs"].as_bool()? {
        return Some(Kvm::Real);
    }
    let checks = report["checks"].as_array()?.iter();
    let why = checks
        .filter(|check| check["name"] == "kvm" || check["name"] == "guest")
        .filter(|check| check["status"] == "missing")
        .find_map(|check| check["found"].as_str());
    Some(Kvm::Unusable(why.unwrap_or("no guest kernel runs on this machine's KVM").to_owned()))
}

/// A KVM without hardware virtualization (no `svm` or `vmx` in the processor's flags) answers all the usual
/// questions and still cannot boot a stock kernel, so both are asked for.
fn look() -> Kvm {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Kvm::Unusable(format!("/dev/kvm cannot be opened ({error})"));
    }
    match fs::read_to_string("/proc/cpuinfo") {
        Ok(text) if has_virtualization(&text) => Kvm::Real,
        Ok(_) => Kvm::Unusable(
            "/dev/kvm is there, but the processor offers no hardware virtualization (no vmx or svm)"
                .to_owned(),
        ),
        Err(error) => Kvm::Unusable(format!("/proc/cpuinfo cannot be read ({error})")),
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_doctor_decides() {
        assert_eq!(verdict(&json!({ "guest_runs": true, "checks": [] })), Some(Kvm::Real));
        let report = json!({ "guest_runs": false, "checks": [
            { "name": "kvm", "status": "ok", "found": "there" },
            { "name": "guest", "status": "missing", "found": "it hangs" },
        ]});
        assert_eq!(verdict(&report), Some(Kvm::Unusable("it hangs".to_owned())));
        assert_eq!(verdict(&json!({ "usable": true })), None);
    }

    #[test]
    fn the_flags_line_decides() {
        assert!(has_virtualization("flags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags\t\t: fpu vmx\n"));
        assert!(!has_virtualization("flags\t\t: fpu sse svm_lock\nbugs\t: svm\n"));
        assert!(!has_virtualization(""));
    }
}
