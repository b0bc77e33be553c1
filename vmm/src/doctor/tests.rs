//! The report as a whole.
use super::*;

#[test]
fn the_report_agrees_with_itself_and_shows_everything() {
    let report = examine();
    let names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
    assert_eq!(
        names,
        ["kvm", "guest", "io_uring", "huge pages", "memlock", "open files", "packages"]
    );
    let text = report.text();
    for check in &report.checks {
        assert!(text.contains(&check.found));
        assert!(check.status != Status::Missing || check.advice.is_some() || check.name == "guest");
    }
    let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert_eq!(json["guest-runs"], report.guest_runs);
    assert_eq!(json["checks"][1]["facts"]["runs"].as_bool().unwrap_or(false), report.guest_runs);
    assert!(!report.usable || report.guest_runs);
}

#[test]
fn the_guest_comes_as_far_as_the_host_lets_it() {
    match guest::run() {
        Ok(outcome) => {
            assert!(outcome.stage >= guest::Stage::Started, "{outcome:?}");
            let done = outcome.stage == guest::Stage::Done;
            assert_eq!(done, outcome.fault.is_none(), "{outcome:?}");
            assert_eq!(done, outcome.million_per_second.is_some(), "{outcome:?}");
        }
        // Only a host without (usable) KVM may fail before the guest starts.
        Err(reason) => assert!(kvm_ioctls::Kvm::new().is_err(), "{reason}"),
    }
}
