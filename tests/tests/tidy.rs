//! Taste as a test: the arrows between the crates, file sizes, and words that mark unfinished work.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The longest a source file may be before it has two jobs.
const LINES_MAX: usize = 900;

/// For each crate, what its sources must never name.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("block", &["vm_memory", "spindle_devices", "spindle_boot", "kvm_", "clap", "env_logger"]),
    (
        "devices",
        &[
            "kvm_",
            "event_manager",
            "clap",
            "env_logger",
            "spindle_boot",
            "thread::spawn",
            "thread::Builder",
        ],
    ),
    ("boot", &["spindle_devices", "spindle_block", "kvm_", "clap", "env_logger"]),
    ("vmm/src/tools", &["spindle_devices", "spindle_boot", "kvm_", "vm_memory"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "build") {
                sources(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    for dir in ["block", "boot", "devices", "vmm", "tests"] {
        sources(&root().join(dir), &mut paths);
    }
    assert!(paths.len() > 40, "only {} sources found", paths.len());
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable source");
            (path, text)
        })
        .collect()
}

/// The part of a line that is code: comments may talk about what the code must not use.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

#[test]
fn the_arrows_between_the_crates_hold() {
    let mut wrong = Vec::new();
    for (dir, words) in FORBIDDEN {
        let mut paths = Vec::new();
        let base = root().join(dir);
        sources(&if dir.contains('/') { base } else { base.join("src") }, &mut paths);
        for path in paths {
            let text = fs::read_to_string(&path).expect("a readable source");
            let test_file =
                path.ends_with("tests.rs") || path.components().any(|c| c.as_os_str() == "tests");
            for (n, line) in text.lines().enumerate() {
                if line.trim() == "#[cfg(test)]" {
                    break;
                }
                for word in words {
                    let threads = word.starts_with("thread::");
                    if code(line).contains(word) && !(threads && test_file) {
                        wrong.push(format!("{}:{}: {word}", path.display(), n + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "crossed arrows:\n{}", wrong.join("\n"));
}

#[test]
fn the_command_line_and_kvm_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    let mut paths = Vec::new();
    sources(&root().join("vmm/src"), &mut paths);
    for path in paths {
        let text = fs::read_to_string(&path).expect("a readable source");
        let room = path.strip_prefix(root().join("vmm/src")).expect("below vmm/src");
        let in_cli = room.starts_with("cli") || room == Path::new("main.rs");
        for (n, line) in text.lines().enumerate() {
            if !in_cli && ["clap::", "env_logger::"].iter().any(|w| code(line).contains(w)) {
                wrong.push(format!("{}:{}", room.display(), n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "clap or env_logger outside vmm/src/cli:\n{}", wrong.join("\n"));
}

#[test]
fn files_have_one_job() {
    let long: Vec<_> = all_sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(path, text)| format!("{} lines: {}", text.lines().count(), path.display()))
        .collect();
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["TO", "FIX", "XX"].map(|w| {
        format!(
            "{w}{}",
            if w == "TO" {
                "DO"
            } else if w == "FIX" {
                "ME"
            } else {
                "X"
            }
        )
    });
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        for (n, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str()))
                || line.contains("#[ignore") && !path.ends_with("tidy.rs")
            {
                wrong.push(format!("{}:{}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "unfinished:\n{}", wrong.join("\n"));
}
