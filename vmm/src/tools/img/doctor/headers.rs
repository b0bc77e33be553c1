//! What headers say, and what they ought not to.
use super::super::files::backing_path;
use super::super::image::{OpenMode, file_detail, file_options, open_detail, open_file};
use super::super::text::human_size;
use super::report::count;
use super::{Diagnosis, Finding, Patient, Severity};
use crate::spec::format::Format;
use spindle_block::formats::{self, ImageFormat, Report};
use spindle_block::{Cx, Node, qcow2};
use std::sync::Arc;

/// Looks at everything that is no check of tables.
pub(super) async fn look(
    patient: &Patient,
    file: &Arc<dyn Node>,
    given: bool,
    diagnosis: &mut Diagnosis,
) {
    match patient.format {
        Format::Raw => raw(patient, given, diagnosis),
        Format::Qcow2 => of_qcow2(patient, file, diagnosis).await,
        Format::Image(format) => of_other(patient, format, file, diagnosis).await,
    }
}

/// A raw disk has no structure of its own; but a file whose name promises one has lost its header.
fn raw(patient: &Patient, given: bool, diagnosis: &mut Diagnosis) {
    diagnosis.virtual_size = Some(patient.length);
    let ending = patient.path.extension().and_then(|ending| ending.to_str());
    let promised = match ending.map(str::to_ascii_lowercase).as_deref() {
        Some("vhd") => Some("vpc"),
        Some("hdd") => Some("parallels"),
        Some("qcow2" | "qcow" | "vmdk" | "vdi" | "vhdx" | "qed") => ending,
        _ => None,
    };
    match promised.filter(|_| !given) {
        Some(name) => diagnosis.add(vec![Finding::new(
            Severity::Damage,
            "header",
            format!(
                "The file is called a {name} image but does not begin like one: its beginning was \
                 overwritten or lost, or it is something else under this name. (-f {name} \
                 examines what there is of it.)"
            ),
        )]),
        None => diagnosis.nothing = true,
    }
}

async fn of_qcow2(patient: &Patient, file: &Arc<dyn Node>, diagnosis: &mut Diagnosis) {
    let header = match qcow2::read_header(&patient.cx, file).await {
        Ok(header) => header,
        Err(error) => {
            diagnosis.cannot_go_on(&open_detail(&error));
            return;
        }
    };
    diagnosis.virtual_size = Some(header.size);
    let mut found = Vec::new();
    if header.is_corrupt() {
        diagnosis.marked = true;
        found.push(
            Finding::new(
                Severity::Damage,
                "marked-corrupt",
                "The image is marked as corrupt: a program that used it met a contradiction. It \
                 opens read-only until it is repaired.",
            )
            .repaired_by("A repair takes the mark away when nothing is wrong any more."),
        );
    }
    if header.is_dirty() {
        diagnosis.marked = true;
        found.push(
            Finding::new(
                Severity::Waste,
                "not-closed",
                "The image was not closed, so its counts (lazy refcounts) may be behind; that is \
                 made good whenever it is opened for writing.",
            )
            .repaired_by("A repair does so now."),
        );
    }
    if let Ok(info) = qcow2::info::info(&patient.cx, file).await {
        let unusable: Vec<&str> =
            info.bitmaps.iter().filter(|b| b.inconsistent).map(|b| b.name.as_str()).collect();
        if !unusable.is_empty() {
            found.push(Finding::new(
                Severity::Waste,
                "bitmap",
                format!(
                    "{} not written back by the program that used {} and must not be trusted for \
                     a backup: {}. 'img bitmap --remove' takes one away.",
                    if unusable.len() == 1 {
                        "1 dirty bitmap was".to_owned()
                    } else {
                        format!("{} dirty bitmaps were", unusable.len())
                    },
                    if unusable.len() == 1 { "it" } else { "them" },
                    unusable.join(", ")
                ),
            ));
        }
    }
    let below = header.backing_file.clone().map(|name| (name, header.backing_format()));
    backing(patient, below, header.size, &mut found).await;
    diagnosis.add(found);
}

async fn of_other(
    patient: &Patient,
    format: ImageFormat,
    file: &Arc<dyn Node>,
    diagnosis: &mut Diagnosis,
) {
    let options = file_options(&patient.path, patient.read_mode());
    let facts =
        super::super::formats::facts(&patient.cx, format, &patient.path, file, &options).await;
    match facts {
        Ok(facts) => {
            diagnosis.virtual_size = Some(facts.size);
            let mut found = Vec::new();
            let below = facts.backing.map(|b| (b.file, b.format.map(str::to_owned)));
            backing(patient, below, facts.size, &mut found).await;
            diagnosis.marked |= facts.dirty == Some(true);
            diagnosis.nothing = !format.has_check() && !formats::has_ailments(format);
            diagnosis.add(found);
        }
        // Header copies may still be there: the check says more.
        Err(_) if formats::has_ailments(format) => {}
        Err(reason) => diagnosis.cannot_go_on(&reason),
    }
}

/// Whether what the image needs below it is there.
async fn backing(
    patient: &Patient,
    below: Option<(String, Option<String>)>,
    size: u64,
    found: &mut Vec<Finding>,
) {
    let Some((name, format)) = below else { return };
    let damage = |what| Finding::new(Severity::Damage, "backing-file", what);
    let path = match backing_path(&patient.path, &name) {
        Ok(path) => path,
        Err(error) => {
            found.push(damage(super::report::sentence(&error.to_string())));
            return;
        }
    };
    let opened = open_file(&path, OpenMode::read(None, true));
    let file: Arc<dyn Node> = match opened {
        Ok(file) => file,
        Err(error) => {
            found.push(damage(format!(
                "The backing file '{name}' cannot be opened ({}): the disk cannot be read without \
                 it. 'img rebase -u -b NAME -F FORMAT' names it anew if it was moved.",
                file_detail(&error).lines().collect::<Vec<_>>().join(" ")
            )));
            return;
        }
    };
    let seen = super::super::source::probe(&patient.cx, &file).await.unwrap_or(Format::Raw);
    let said = format.as_deref().map(|name| if name == "file" { "raw" } else { name });
    match said {
        None if patient.format == Format::Qcow2 => found.push(Finding::new(
            Severity::Note,
            "backing-format",
            format!(
                "The header does not say which format the backing file '{name}' has, so it is \
                 guessed each time; a guest that owns a raw one could choose. 'img rebase -u -b \
                 {name} -F {}' writes it down.",
                seen.name()
            ),
        )),
        Some(said) if said != "raw" && said != seen.name() => {
            found.push(damage(format!(
                "The backing file '{name}' should be {said}, and begins like {}.",
                if seen == Format::Raw { "none" } else { seen.name() }
            )));
        }
        _ => {}
    }
    if seen == Format::Qcow2
        && said != Some("raw")
        && let Ok(header) = qcow2::read_header(&patient.cx, &file).await
        && header.size > size
    {
        found.push(Finding::new(
            Severity::Note,
            "backing-size",
            format!(
                "The backing file's disk is larger ({}) than this one ({}): the rest of it is not \
                 seen.",
                human_size(header.size),
                human_size(size)
            ),
        ));
    }
    let _ = Arc::clone(&file).close(Cx::clone(&patient.cx)).await;
}

/// The findings of a check of one of the other formats.
pub(super) fn of_report(format: ImageFormat, report: &Report, found: &mut Vec<Finding>) {
    const SHOWN: usize = 10;
    let repairable =
        matches!(format, ImageFormat::Parallels | ImageFormat::Vhdx | ImageFormat::Qed);
    for message in report.messages.iter().take(SHOWN) {
        let text = message.trim_start_matches("ERROR: ").trim_start_matches("ERROR ");
        let closed = text.contains("closed");
        let finding = Finding::new(
            Severity::Damage,
            if closed { "not-closed" } else { "table" },
            super::report::sentence(text),
        );
        found.push(match (closed && repairable, format) {
            (true, ImageFormat::Vhdx) => finding.repaired_by("A repair replays it."),
            (true, _) => {
                finding.repaired_by("A repair marks it as closed, when the table is sound.")
            }
            _ => finding,
        });
    }
    let more = report.corruptions.saturating_sub(report.messages.len().min(SHOWN) as u64);
    if more > 0 {
        let text = format!("{} of the same kinds.", count(more, "further contradiction"));
        found.push(Finding::new(Severity::Damage, "more", text));
    }
    if report.leaks > 0 {
        let text = format!(
            "{} of the file {} used by nothing: space is lost, no data.",
            count(report.leaks, "cluster"),
            if report.leaks == 1 { "is" } else { "are" }
        );
        let finding = Finding::new(Severity::Waste, "leaked", text);
        found.push(if format == ImageFormat::Parallels {
            finding.repaired_by("A repair cuts them off.")
        } else {
            finding
        });
    }
}
