//! KVM: is it there, may we use it, does it offer what is needed, and does a guest run?
use super::guest::{self, Outcome, Stage};
use super::{Check, Status};
use crate::kvm::{CAPABILITIES, Capability};
use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Kvm;
use serde_json::{Map, Value};
use std::path::Path;

/// Below this many million instructions per second a guest kernel takes minutes to boot.
const SPEED_MIN: f64 = 20.0;

/// The checks `kvm` and `guest`.
pub(super) fn checks() -> [Check; 2] {
    let kvm = Kvm::new();
    let present = match &kvm {
        Ok(kvm) => capabilities(kvm),
        Err(error) => absent(error.errno()),
    };
    let guest = match kvm {
        Ok(_) => ran(&guest::run()),
        Err(_) => Check::new("guest", Status::Missing, "no guest can run without KVM"),
    };
    [present, guest]
}

fn absent(errno: i32) -> Check {
    let check = |found: &str, advice: String| {
        Check::new("kvm", Status::Missing, found).advise(advice).fact("present", false)
    };
    match errno {
        libc::EACCES | libc::EPERM => check(
            "/dev/kvm is there, but may not be opened",
            "join its group: sudo usermod -aG kvm $USER, then log in again".to_owned(),
        ),
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            check("there is no /dev/kvm", how_to_get_kvm())
        }
        other => {
            let error = std::io::Error::from_raw_os_error(other);
            check(&format!("/dev/kvm cannot be opened: {error}"), how_to_get_kvm())
        }
    }
}

/// What to do where there is no KVM, by what the CPU says of itself.
fn how_to_get_kvm() -> String {
    let flags = cpu_flags();
    if flags.contains("vmx") {
        "sudo modprobe kvm_intel; if that fails, switch on virtualization (VT-x) in the firmware \
         setup"
            .to_owned()
    } else if flags.contains("svm") {
        "sudo modprobe kvm_amd; if that fails, switch on virtualization (SVM) in the firmware setup"
            .to_owned()
    } else if flags.contains("hypervisor") {
        "this is a virtual machine: switch on nested virtualization for it where it is defined, \
         or run in the lab: tests/lab/lab -- spindle run …"
            .to_owned()
    } else {
        "the CPU shows no virtualization: switch it on in the firmware setup, or run in the lab: \
         tests/lab/lab -- spindle run …"
            .to_owned()
    }
}

/// The flags of the first CPU in /proc/cpuinfo that matter here.
fn cpu_flags() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let wanted = ["vmx", "svm", "hypervisor"];
    line.split_whitespace().filter(|f| wanted.contains(f)).map(str::to_owned).collect()
}

trait HasFlag {
    fn contains(&self, flag: &str) -> bool;
}

impl HasFlag for Vec<String> {
    fn contains(&self, flag: &str) -> bool {
        self.iter().any(|f| f == flag)
    }
}

fn capabilities(kvm: &Kvm) -> Check {
    let version = kvm.get_api_version();
    let mut facts = Map::new();
    let mut missing = Vec::new();
    let mut lacking = Vec::new();
    for Capability { cap, name, needed, .. } in CAPABILITIES {
        let there = kvm.check_extension(*cap);
        facts.insert((*name).to_owned(), Value::Bool(there));
        match (there, needed) {
            (true, _) => {}
            (false, true) => missing.push(*name),
            (false, false) => lacking.push(*name),
        }
    }
    let vcpus = kvm.get_max_vcpus();
    let base = |status, found: String| {
        Check::new("kvm", status, found)
            .fact("present", true)
            .fact("api-version", version)
            .fact("vcpus-max", vcpus)
            .fact("modules", kvm_modules())
            .fact("capabilities", Value::Object(facts.clone()))
    };
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        let found = format!("/dev/kvm has API version {version}, not {KVM_API_VERSION}");
        return base(Status::Missing, found).advise("update the kernel");
    }
    if !missing.is_empty() {
        let found = format!("KVM lacks {}", missing.join(", "));
        return base(Status::Missing, found).advise("update the kernel to Linux 6.1 or later");
    }
    let found = format!("KVM is there, API version {version}, up to {vcpus} vCPUs");
    if lacking.is_empty() {
        return base(Status::Ok, found);
    }
    let found = format!("{found}, without {}", lacking.join(", "));
    base(Status::Warning, found).advise("machines run, slower; a newer kernel has them")
}

/// Which modules stand behind /dev/kvm.
fn kvm_modules() -> Vec<String> {
    ["kvm_intel", "kvm_amd"]
        .into_iter()
        .filter(|name| Path::new("/sys/module").join(name).exists())
        .map(str::to_owned)
        .collect()
}

fn ran(result: &Result<Outcome, String>) -> Check {
    const LAB: &str = "this KVM has no hardware behind it, or an emulation that is not complete; \
                       run in the lab: tests/lab/lab -- spindle run …";
    let base = |status, found: String| {
        let runs = status != Status::Missing;
        Check::new("guest", status, found).fact("runs", runs)
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(reason) => {
            return base(Status::Missing, format!("a guest cannot be started: {reason}"))
                .advise(LAB);
        }
    };
    if let Some(fault) = &outcome.fault {
        let found = format!(
            "a guest starts but does not run: it ended {} ({fault})",
            outcome.stage.next_deed()
        );
        return base(Status::Missing, found).advise(LAB);
    }
    debug_assert_eq!(outcome.stage, Stage::Done);
    let speed = outcome.million_per_second.unwrap_or_default();
    let found = format!("a guest runs, {speed:.0} million instructions a second");
    let check = if speed < SPEED_MIN {
        base(Status::Missing, found).advise(LAB)
    } else {
        base(Status::Ok, found)
    };
    check.fact("million-instructions-per-second", speed.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_counts_only_if_it_runs_to_its_end_and_fast() {
        let outcome = |stage, fault: Option<&str>, speed| {
            ran(&Ok(Outcome { stage, fault: fault.map(str::to_owned), million_per_second: speed }))
        };
        let good = outcome(Stage::Done, None, Some(3000.0));
        assert_eq!((good.status, &good.facts["runs"]), (Status::Ok, &Value::Bool(true)));
        let slow = outcome(Stage::Done, None, Some(4.0));
        assert_eq!(slow.status, Status::Missing);
        let failed = outcome(Stage::Cmpxchg16b, Some("KVM_EXIT_INTERNAL_ERROR"), None);
        assert_eq!(failed.facts["runs"], Value::Bool(false));
        assert!(failed.found.contains("at xrstor") && failed.advice.is_some());
        assert_eq!(ran(&Err("x".to_owned())).status, Status::Missing);
    }

    #[test]
    fn every_way_of_having_no_kvm_comes_with_advice() {
        for errno in [libc::EACCES, libc::ENOENT, libc::EBUSY] {
            let check = absent(errno);
            assert_eq!(check.status, Status::Missing);
            assert!(check.advice.is_some(), "{errno}");
        }
        assert!(absent(libc::EACCES).advice.unwrap().contains("kvm $USER"));
    }
}
