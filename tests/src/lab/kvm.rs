//! Whether this machine's KVM can run a stock kernel.

use std::fs::{self, OpenOptions};

/// What `/dev/kvm` is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// Guests run on it.
    Real,
    /// Guests do not; why, as the end of a sentence.
    Unusable(String),
}

/// Looks at the host's KVM.
///
/// A KVM without hardware virtualization (no `svm` or `vmx` in the processor's flags) answers all the usual
/// questions and still cannot boot a stock kernel, so both are asked for.
pub fn probe() -> Kvm {
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
    use super::has_virtualization;

    #[test]
    fn the_flags_line_decides() {
        assert!(has_virtualization("flags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags\t\t: fpu vmx\n"));
        assert!(!has_virtualization("flags\t\t: fpu sse svm_lock\nbugs\t: svm\n"));
        assert!(!has_virtualization(""));
    }
}
