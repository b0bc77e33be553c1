//! What a check of a qcow2 image found, in plain words.
use super::super::text::human_size;
use super::report::count;
use super::{Checked, Finding, Severity};
use spindle_block::qcow2::check::Report;

/// What there are of one kind.
#[derive(Default)]
struct Kinds {
    too_low: u64,
    free: u64,
    outside: u64,
    flags: u64,
    others: Vec<String>,
}

/// References of a finding `cluster N refcount=R reference=C`.
fn counts(message: &str) -> Option<(u64, u64)> {
    let number = |key: &str| {
        let rest = message.split(key).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number("refcount=")?, number("reference=")?))
}

fn sort(report: &Report) -> Kinds {
    let mut kinds = Kinds::default();
    for message in report.messages.iter().filter_map(|m| m.strip_prefix("ERROR")) {
        let message = message.trim_start_matches([':', ' ']);
        match counts(message) {
            Some((0, _)) => kinds.free += 1,
            Some(_) => kinds.too_low += 1,
            None if is_outside(message) => kinds.outside += 1,
            None if message.contains("OFLAG_COPIED") => kinds.flags += 1,
            None => kinds.others.push(message.to_owned()),
        }
    }
    kinds
}

fn is_outside(message: &str) -> bool {
    ["exceeding the end of the file", "is outside image"].iter().any(|what| message.contains(what))
}

/// The findings, with clusters of `cluster` bytes.
pub(super) fn checked(report: &Report, cluster: u64) -> Checked {
    let kinds = sort(report);
    let told = kinds.free + kinds.too_low + kinds.outside + kinds.flags;
    let told = told + kinds.others.len() as u64;
    let mut findings = Vec::new();
    let mut add = |n: u64, kind, text: String, repair: Option<&str>| {
        if n > 0 {
            let finding = Finding::new(Severity::Damage, kind, text);
            findings.push(match repair {
                Some(how) => finding.repaired_by(how),
                None => finding,
            });
        }
    };
    add(
        kinds.free,
        "counted-as-free",
        format!(
            "{} in use, but counted as free: the next write to the image may put other data there.",
            are(kinds.free, "cluster")
        ),
        Some("A repair counts them as used."),
    );
    add(
        kinds.too_low,
        "counted-too-low",
        format!(
            "{} used more often than counted: when one user lets go, the others lose their data.",
            are(kinds.too_low, "cluster")
        ),
        Some("A repair counts them as often as they are used."),
    );
    add(
        kinds.outside,
        "beyond-the-end",
        format!(
            "{} beyond the end of the file. It was probably cut off, by a copy that was \
             interrupted or a full file system; what was there cannot be had from this file.",
            if kinds.outside == 1 {
                "1 reference points".to_owned()
            } else {
                format!("{} references point", kinds.outside)
            }
        ),
        None,
    );
    add(
        kinds.flags,
        "wrong-flags",
        format!(
            "{} the flag that says \"nobody else uses this\" contradicting the count: a write may \
             change what a snapshot still needs, or copy without need.",
            if kinds.flags == 1 {
                "1 entry has".to_owned()
            } else {
                format!("{} entries have", kinds.flags)
            }
        ),
        Some("A repair sets the flags by the counts."),
    );
    let shown = kinds.others.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    add(
        kinds.others.len() as u64,
        "broken-tables",
        format!("{} something impossible: {shown}.", say(kinds.others.len() as u64)),
        None,
    );
    let untold = report.corruptions.saturating_sub(told);
    add(
        untold,
        "more",
        format!("{} of the same kinds.", count(untold, "further contradiction")),
        None,
    );
    if report.check_errors > 0 {
        findings.push(Finding::new(
            Severity::Damage,
            "unreadable",
            format!(
                "{} could not be read from the host's storage: its log says more.",
                count(report.check_errors, "table")
            ),
        ));
    }
    if report.leaks > 0 {
        let text = format!(
            "{} ({}) counted as used, but nothing uses {}: space is lost, no data.",
            are(report.leaks, "cluster").replace(" are", "").replace(" is", ""),
            human_size(report.leaks.saturating_mul(cluster)),
            if report.leaks == 1 { "it" } else { "them" }
        );
        let finding = Finding::new(Severity::Waste, "leaked", text);
        findings.push(finding.repaired_by("A repair gives it back."));
    }
    Checked { damages: report.corruptions + report.check_errors, leaks: report.leaks, findings }
}

fn are(n: u64, what: &str) -> String {
    format!("{} {}", count(n, what), if n == 1 { "is" } else { "are" })
}

fn say(n: u64) -> String {
    if n == 1 { "1 table entry says".to_owned() } else { format!("{n} table entries say") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_sorted_by_what_they_mean() {
        let messages = [
            "ERROR cluster 5 refcount=0 reference=1",
            "ERROR cluster 6 refcount=1 reference=2",
            "Leaked cluster 7 refcount=1 reference=0",
            "ERROR: counting reference for region exceeding the end of the file by one cluster or \
             more: offset 0x10000000 size 0x10000",
            "ERROR OFLAG_COPIED of L1 entry 0: 0x30000",
            "ERROR L1 entry 3 is 0x1: not a table",
        ];
        let report = Report {
            corruptions: 7,
            leaks: 1,
            messages: messages.map(str::to_owned).to_vec(),
            ..Report::default()
        };
        let checked = checked(&report, 65536);
        let kinds: Vec<&str> = checked.findings.iter().map(|f| f.kind).collect();
        assert_eq!(
            kinds,
            [
                "counted-as-free",
                "counted-too-low",
                "beyond-the-end",
                "wrong-flags",
                "broken-tables",
                "more",
                "leaked"
            ]
        );
        assert!(checked.findings[5].what.starts_with("2 further"), "{:?}", checked.findings[5]);
        assert!(checked.findings[6].what.starts_with("1 cluster (64 KiB) counted"));
    }
}
