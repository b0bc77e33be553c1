//! Filters do what they say. A forbidden call would end the test, so each runs in a child process.
use super::*;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Names the filter and the call in the environment of a child process.
const CHILD: &str = "SPINDLE_TEST_SANDBOX";

/// This test program again, as a process that enters a filter and makes a call.
fn status(kind: &str, call: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sandbox::tests::what_is_listed_passes_and_anything_else_ends_the_process",
        ])
        .env(CHILD, format!("{kind} {call}"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}

/// What the child process does.
fn child(what: &str) -> ! {
    let (kind, call) = what.split_once(' ').unwrap();
    let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).unwrap();
    let number: i64 = call.parse().unwrap();
    Sandbox::new(true).unwrap().enter(kind).unwrap();
    // SAFETY: calls that fail for their bad arguments, or are refused.
    unsafe { libc::syscall(number, -1, 0, 0, 0) };
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(7) };
}

#[test]
fn what_is_listed_passes_and_anything_else_ends_the_process() {
    if let Ok(what) = std::env::var(CHILD) {
        child(&what);
    }
    let cases = [
        (Kind::Vcpu, libc::SYS_read, true),
        (Kind::Vcpu, libc::SYS_openat, false),
        (Kind::Vcpu, libc::SYS_execve, false),
        (Kind::Vcpu, libc::SYS_socket, false),
        (Kind::Iothread, libc::SYS_openat, true),
        (Kind::Iothread, libc::SYS_socket, false),
        (Kind::Iothread, libc::SYS_execve, false),
        (Kind::Iothread, libc::SYS_ptrace, false),
        (Kind::Main, libc::SYS_accept4, true),
        (Kind::Main, libc::SYS_execve, false),
        (Kind::Serial, libc::SYS_openat, false),
        // Request 0 is of no type that is let through.
        (Kind::Main, libc::SYS_ioctl, false),
    ];
    for (kind, call, passes) in cases {
        let status = status(&format!("{kind:?}"), &call.to_string());
        let want = if passes { (Some(7), None) } else { (None, Some(libc::SIGSYS)) };
        assert_eq!((status.code(), status.signal()), want, "{kind:?} {call}");
    }
}

#[test]
fn switched_off_it_does_nothing() {
    Sandbox::new(false).unwrap().enter(Kind::Vcpu).unwrap();
    assert!(std::fs::metadata("/").is_ok());
}
