//! What the doctor says.
use super::super::text::human_size;
use serde::Serialize;
use std::fmt::Write;

/// Exit status when nothing is wrong, or nothing is any more.
pub const EXIT_HEALTHY: u8 = 0;
/// Exit status when data may be damaged or in danger.
pub const EXIT_DAMAGED: u8 = 2;
/// Exit status when space is lost but no data, or something should be minded.
pub const EXIT_WASTE: u8 = 3;
/// Exit status when the format has nothing that could be examined.
pub const EXIT_NOTHING: u8 = 63;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing is wrong, but somebody may want to know.
    Note,
    /// Space is lost, or something was left undone. No data is at risk.
    Waste,
    /// Data are damaged, or a write may damage them.
    Damage,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind, for programs.
    pub kind: &'static str,
    /// What it is, in words.
    pub what: String,
    /// What a repair does about it; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
}

impl Finding {
    pub(super) fn new(severity: Severity, kind: &'static str, what: impl Into<String>) -> Self {
        Self { severity, kind, what: what.into(), repair: None }
    }

    pub(super) fn repaired_by(mut self, how: &str) -> Self {
        self.repair = Some(how.to_owned());
        self
    }
}

/// What the rehearsed repair comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outlook {
    /// Blocks of 4096 bytes that it changes.
    pub changed_blocks: u64,
    /// Length of the file before it, in bytes.
    pub old_length: u64,
    /// Length of the file after it, in bytes.
    pub new_length: u64,
    /// Damages that it leaves.
    pub damages_left: u64,
    /// Lost clusters that it leaves.
    pub leaks_left: u64,
}

impl Outlook {
    pub(super) fn changes(&self) -> bool {
        self.changed_blocks > 0 || self.old_length != self.new_length
    }
}

/// An image's state of health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diagnosis {
    /// The file's name, as given.
    pub filename: String,
    /// The format.
    pub format: String,
    /// Bytes of the disk, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
    /// Bytes of the file.
    pub file_length: u64,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What a repair would come to, or came to.
    #[serde(rename = "repair", skip_serializing_if = "Option::is_none")]
    pub outlook: Option<Outlook>,
    /// Why there is no repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repair: Option<String>,
    /// The repair was made.
    pub repaired: bool,
    /// What undoes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_file: Option<String>,
    /// Damages that are there now, where they were counted after a repair.
    #[serde(skip)]
    pub(super) left: Option<(u64, u64)>,
    /// There was nothing to examine.
    #[serde(skip)]
    pub(super) nothing: bool,
    /// A mark in the header is to be cleared.
    #[serde(skip)]
    pub(super) marked: bool,
}

impl Diagnosis {
    pub(super) fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }

    /// The image is too damaged to be looked into.
    pub(super) fn cannot_go_on(&mut self, reason: &str) {
        if !self.findings.iter().any(|finding| finding.kind == "header") {
            let what =
                format!("What the image says of itself cannot be used: {}", sentence_end(reason));
            self.add(vec![Finding::new(Severity::Damage, "header", what)]);
        }
        self.no_repair = Some("Nothing further can be examined or repaired.".to_owned());
    }

    pub(super) fn repaired(&mut self, damages: u64, leaks: u64) {
        self.repaired = true;
        self.left = Some((damages, leaks));
    }

    fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The exit status that says what was found, or what is left.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match (self.left, self.worst()) {
            (Some((0, 0)), _) => EXIT_HEALTHY,
            (Some((0, _)), _) => EXIT_WASTE,
            (Some(_), _) => EXIT_DAMAGED,
            (None, Some(Severity::Damage)) => EXIT_DAMAGED,
            (None, Some(Severity::Waste)) => EXIT_WASTE,
            (None, _) if self.nothing => EXIT_NOTHING,
            (None, _) => EXIT_HEALTHY,
        }
    }

    /// The report for people.
    #[must_use]
    pub fn human(&self) -> String {
        let mut out = format!("{}: {}", self.filename, self.format);
        if let Some(size) = self.virtual_size {
            let _ = write!(out, ", a disk of {}", human_size(size));
        }
        let _ = writeln!(out, " in a file of {}", human_size(self.file_length));
        for finding in &self.findings {
            let head = match finding.severity {
                Severity::Damage => "DAMAGE",
                Severity::Waste => "waste ",
                Severity::Note => "note  ",
            };
            let mut text = finding.what.clone();
            if let Some(repair) = &finding.repair {
                let _ = write!(text, " {repair}");
            }
            let _ = writeln!(out, "\n  {head}  {}", wrapped(&text, 10));
        }
        out.push('\n');
        self.summary(&mut out);
        out
    }

    fn summary(&self, out: &mut String) {
        let left = |damages: u64, leaks: u64| match (damages, leaks) {
            (0, 0) => "is sound".to_owned(),
            (0, leaks) => format!("still loses {}", count(leaks, "cluster")),
            (damages, _) => format!("still has {}", count(damages, "damage")),
        };
        if let (true, Some((damages, leaks))) = (self.repaired, self.left) {
            let _ = writeln!(out, "The image was repaired and {} now.", left(damages, leaks));
            if let Some(name) = &self.undo_file {
                let line = format!(
                    "To take the repair back: spindle img doctor --undo {name} {}",
                    self.filename
                );
                let _ = writeln!(out, "{line}");
            }
            return;
        }
        match self.outlook {
            Some(outlook) if outlook.changes() => {
                let length = if outlook.new_length == outlook.old_length {
                    String::new()
                } else {
                    format!(
                        " and the length of the file from {} to {} bytes",
                        outlook.old_length, outlook.new_length
                    )
                };
                let text = format!(
                    "A repair changes {} of 4 KiB{length}; the image {} then. Nothing was changed \
                     yet.",
                    count(outlook.changed_blocks, "block"),
                    left(outlook.damages_left, outlook.leaks_left),
                );
                let _ = writeln!(out, "{}", wrapped(&text, 0));
                let _ = writeln!(out, "To repair: spindle img doctor --repair {}", self.filename);
            }
            Some(_) => out.push_str("There is no repair for what is left.\n"),
            None => match &self.no_repair {
                Some(reason) => {
                    let _ = writeln!(out, "{}", wrapped(&sentence(reason), 0));
                }
                None if self.nothing => {
                    out.push_str("This format has nothing that could be examined.\n");
                }
                None => match self.worst() {
                    None | Some(Severity::Note) => out.push_str("Nothing is wrong.\n"),
                    Some(_) => out.push_str("There is no repair for what was found.\n"),
                },
            },
        }
    }
}

/// `1 cluster`, `2 clusters`.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn sentence_end(text: &str) -> String {
    let dot = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{text}{dot}")
}

/// Text with a capital at its beginning and a full stop at its end.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    sentence_end(&(first + chars.as_str()))
}

/// Text in lines of at most 80 characters, all but the first indented.
fn wrapped(text: &str, indent: usize) -> String {
    const WIDTH: usize = 80;
    let mut out = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > indent && column + 1 + len > WIDTH {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_and_sentences_whole() {
        let text = wrapped(&"word ".repeat(40), 4);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")), "{text}");
        assert_eq!(sentence("it is so"), "It is so.");
        assert_eq!(sentence("Why?"), "Why?");
        assert_eq!([count(1, "block"), count(2, "block")], ["1 block", "2 blocks"]);
    }

    #[test]
    fn the_exit_status_is_that_of_what_is_left() {
        let with = |severity| {
            let mut diagnosis = Diagnosis::default();
            diagnosis.add(vec![Finding::new(severity, "x", "It is.")]);
            diagnosis
        };
        assert_eq!(with(Severity::Note).exit_status(), EXIT_HEALTHY);
        assert_eq!(with(Severity::Waste).exit_status(), EXIT_WASTE);
        let mut damaged = with(Severity::Damage);
        assert_eq!(damaged.exit_status(), EXIT_DAMAGED);
        damaged.repaired(0, 0);
        assert_eq!(damaged.exit_status(), EXIT_HEALTHY);
        let nothing = Diagnosis { nothing: true, ..Diagnosis::default() };
        assert_eq!(nothing.exit_status(), EXIT_NOTHING);
    }
}
