//! What KVM counts for a process, from debugfs.

use std::fs;

/// KVM's counters of a virtual machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exits {
    /// Exits of all vCPUs, whatever for.
    pub total: u64,
    /// Those that KVM did not answer itself: how often it loaded the guest's floating-point state,
    /// which it does once each time a vCPU is entered from user space.
    pub to_user: u64,
}

const DEBUGFS: &str = "/sys/kernel/debug";

impl Exits {
    /// The counters of the machine that process `pid` runs.
    ///
    /// # Errors
    /// When debugfs cannot be read, or the process has no machine.
    pub fn of(pid: u32) -> Result<Self, String> {
        let base = format!("{DEBUGFS}/kvm");
        if !fs::exists(&base).unwrap_or(false) {
            mount()?;
        }
        let entries = fs::read_dir(&base).map_err(|e| format!("cannot read {base}: {e}"))?;
        let prefix = format!("{pid}-");
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let counter = |name| {
                    let path = entry.path().join(name);
                    let text = fs::read_to_string(&path)
                        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                    text.trim().parse().map_err(|e| format!("{name} {text:?}: {e}"))
                };
                return Ok(Self { total: counter("exits")?, to_user: counter("fpu_reload")? });
            }
        }
        Err(format!("KVM knows no machine of process {pid}"))
    }
}

fn mount() -> Result<(), String> {
    let status = std::process::Command::new("mount")
        .args(["-t", "debugfs", "debugfs", DEBUGFS])
        .status()
        .map_err(|e| format!("cannot run mount: {e}"))?;
    if status.success() { Ok(()) } else { Err("debugfs cannot be mounted".into()) }
}
