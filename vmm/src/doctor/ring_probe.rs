//! io_uring: may it be used, and does it offer what the iothreads' rings need?
use super::{Check, Status};
use io_uring::{IoUring, Probe, opcode};
use serde_json::{Map, Value};
use spindle_block::ring::uring::{Options, UringEngine};

/// Operations that the rings submit.
const OPERATIONS: &[(&str, u8)] = &[
    ("read", opcode::Read::CODE),
    ("write", opcode::Write::CODE),
    ("readv", opcode::Readv::CODE),
    ("writev", opcode::Writev::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("fallocate", opcode::Fallocate::CODE),
    ("poll-add", opcode::PollAdd::CODE),
    ("poll-remove", opcode::PollRemove::CODE),
];

/// The check `io_uring`.
pub(super) fn check() -> Check {
    let disabled = super::host::number("/proc/sys/kernel/io_uring_disabled");
    let check = match IoUring::new(8) {
        Err(error) => missing(disabled, &error),
        Ok(ring) => offered(&ring),
    };
    match disabled {
        Some(disabled) => check.fact("io-uring-disabled", disabled),
        None => check,
    }
}

/// Machines run without io_uring, on threads: that is a warning.
fn missing(disabled: Option<u64>, error: &std::io::Error) -> Check {
    let advice = match disabled {
        Some(2) => "sudo sysctl kernel.io_uring_disabled=0",
        Some(1) => {
            "sudo sysctl kernel.io_uring_disabled=0, or join the group that \
             /proc/sys/kernel/io_uring_group names"
        }
        _ => "in a container, let its seccomp profile allow io_uring_setup, _enter and _register",
    };
    let found = format!("io_uring cannot be used ({error}); disks use threads, which is slower");
    Check::new("io_uring", Status::Warning, found).advise(advice).fact("available", false)
}

fn offered(ring: &IoUring) -> Check {
    let params = ring.params();
    let features = [
        ("nodrop", params.is_feature_nodrop()),
        ("submit-stable", params.is_feature_submit_stable()),
        ("ext-arg", params.is_feature_ext_arg()),
        ("fast-poll", params.is_feature_fast_poll()),
        ("native-workers", params.is_feature_native_workers()),
        ("resource-tagging", params.is_feature_resource_tagging()),
    ];
    let flags = [
        ("single-issuer", builds(|b| b.setup_single_issuer())),
        ("defer-taskrun", builds(|b| b.setup_single_issuer().setup_defer_taskrun())),
        ("coop-taskrun", builds(|b| b.setup_coop_taskrun())),
        (
            "taskrun-flag",
            builds(|b| b.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag()),
        ),
        ("restrictions", builds(|b| b.setup_r_disabled())),
    ];
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe).is_ok();
    let operations = OPERATIONS.iter().map(|(name, op)| (*name, probed && probe.is_supported(*op)));
    // The engine itself has the last word on whether it can be used.
    let engine = UringEngine::new(Options::default());
    let check = match engine {
        Ok(_) => {
            let found = "io_uring is there, with everything the disks' rings use";
            Check::new("io_uring", Status::Ok, found)
        }
        Err(error) => {
            let found = format!(
                "io_uring is there, but not as the disks' rings need it ({error}); disks use \
                 threads, which is slower"
            );
            let advice = "update the kernel to Linux 6.1 or later; raise 'ulimit -n' if it says \
                          too many open files";
            Check::new("io_uring", Status::Warning, found).advise(advice)
        }
    };
    check
        .fact("available", true)
        .fact("features", table(features))
        .fact("setup-flags", table(flags))
        .fact("operations", table(operations))
}

fn builds(set: impl FnOnce(&mut io_uring::Builder) -> &mut io_uring::Builder) -> bool {
    let mut builder = IoUring::builder();
    set(&mut builder);
    builder.build(8).is_ok()
}

fn table(rows: impl IntoIterator<Item = (&'static str, bool)>) -> Value {
    let rows = rows.into_iter().map(|(name, there)| (name.to_owned(), Value::Bool(there)));
    Value::Object(Map::from_iter(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_ring_is_a_warning_with_the_right_advice() {
        let error = std::io::Error::from_raw_os_error(libc::EPERM);
        for (disabled, part) in [(Some(2), "sysctl"), (Some(1), "group"), (None, "seccomp")] {
            let check = missing(disabled, &error);
            assert_eq!(check.status, Status::Warning);
            assert!(check.advice.unwrap().contains(part));
        }
    }
}
