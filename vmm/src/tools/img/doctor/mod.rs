//! `doctor`: what is wrong with an image in plain words, what a repair would do, the repair, and its
//! undoing.
//!
//! A repair is always rehearsed in memory first, by the code that would make it; so what it comes to
//! is known before the file is touched, and the undo file has the old bytes of exactly what it
//! changes. That file is durable before the first change.
mod headers;
mod qcow2;
mod report;
mod undo;

use super::ImgError;
use super::files::block_layer;
use super::formats::Files;
use super::image::{OpenMode, cannot_open, file_options, open_bytes, shown};
use super::source::Top;
use crate::spec::format::Format;
use spindle_block::error::with_causes;
use spindle_block::formats::{self, FormatError, ImageFormat};
use spindle_block::nodes::rehearsal::{Changes, Rehearsal};
use spindle_block::qcow2::check::{self, Repair};
use spindle_block::{Cx, Node};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use report::{
    Diagnosis, EXIT_DAMAGED, EXIT_HEALTHY, EXIT_NOTHING, EXIT_WASTE, Finding, Outlook, Severity,
};
pub use undo::run as run_undo;

/// What the command line of `doctor` says.
#[derive(Clone, Debug, Default)]
pub struct DoctorRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<Format>,
    /// `--repair`.
    pub repair: bool,
    /// `--undo-file`; `None`: the image's name and `.undo`.
    pub undo_file: Option<PathBuf>,
    /// `-U`.
    pub force_share: bool,
}

/// What a check came to, whatever the format.
#[derive(Clone, Debug, Default)]
struct Checked {
    damages: u64,
    leaks: u64,
    findings: Vec<Finding>,
}

/// An image that is being examined.
struct Patient {
    cx: Cx,
    path: PathBuf,
    format: Format,
    mode: OpenMode,
    /// Bytes of the file.
    length: u64,
}

impl Patient {
    /// Looks for contradictions.
    async fn check(&self, file: &Arc<dyn Node>) -> Result<Checked, String> {
        match self.format {
            Format::Raw => Ok(Checked::default()),
            Format::Qcow2 => {
                let report = check::check(&self.cx, file, Repair::None).await;
                let report = report.map_err(|e| with_causes(&e))?;
                let header = spindle_block::qcow2::read_header(&self.cx, file).await;
                let cluster = header.map_or(0, |header| 1 << header.cluster_bits);
                Ok(qcow2::checked(&report, cluster))
            }
            Format::Image(format) => self.check_other(format, file).await,
        }
    }

    async fn check_other(
        &self,
        format: ImageFormat,
        file: &Arc<dyn Node>,
    ) -> Result<Checked, String> {
        let ailments = formats::ailments(&self.cx, format, file).await;
        let ailments = ailments.map_err(|e| super::formats::detail(format, &e))?;
        let mut checked = Checked { damages: ailments.len() as u64, ..Checked::default() };
        checked.findings.extend(ailments.into_iter().map(|one| Finding {
            severity: Severity::Damage,
            kind: "header",
            what: report::sentence(&one.what),
            repair: one.cure.map(|cure| report::sentence(&format!("A repair {cure}"))),
        }));
        let beside = Files::of(&self.path, &file_options(&self.path, self.read_mode()));
        match formats::check(&self.cx, format, file, &beside).await {
            Ok(report) => {
                checked.damages += report.corruptions;
                checked.leaks = report.leaks;
                headers::of_report(format, &report, &mut checked.findings);
                Ok(checked)
            }
            Err(FormatError::NoCheck) => Ok(checked),
            Err(error) => Err(super::formats::detail(format, &error)),
        }
    }

    fn read_mode(&self) -> OpenMode {
        OpenMode { writable: false, ..self.mode }
    }

    /// Makes all repairs that there are on `file`.
    async fn mend(&self, file: &Arc<dyn Node>) -> Result<(), String> {
        match self.format {
            Format::Raw => Ok(()),
            Format::Qcow2 => {
                let done = check::check(&self.cx, file, Repair::All).await;
                done.map(drop).map_err(|e| with_causes(&e))
            }
            Format::Image(format) => {
                let words = |e: FormatError| super::formats::detail(format, &e);
                formats::cure(&self.cx, format, file).await.map_err(words)?;
                if !format.has_check() {
                    return Ok(());
                }
                let beside = Files::of(&self.path, &file_options(&self.path, self.read_mode()));
                formats::repair(&self.cx, format, file, &beside).await.map_err(words)
            }
        }
    }

    fn rehearsal(&self, file: &Arc<dyn Node>) -> Arc<Rehearsal> {
        Rehearsal::new(Arc::clone(file), self.length)
    }

    /// Makes the repair in memory.
    async fn rehearse(&self, file: &Arc<dyn Node>) -> Result<(Arc<Rehearsal>, Outlook), String> {
        let rehearsal = self.rehearsal(file);
        let above: Arc<dyn Node> = Arc::clone(&rehearsal) as _;
        let mended = self.mend(&above).await;
        if rehearsal.is_full() {
            return Err("the repair changes more than can be rehearsed in memory; \
                        'img check -r all' makes it without an undo file"
                .to_owned());
        }
        mended?;
        let after = self.check(&above).await?;
        let changes = rehearsal.changes(&self.cx).await.map_err(|e| e.to_string())?;
        let Changes { blocks, old_size, new_size } = changes;
        let outlook = Outlook {
            changed_blocks: blocks,
            old_length: old_size,
            new_length: new_size,
            damages_left: after.damages,
            leaks_left: after.leaks,
        };
        Ok((rehearsal, outlook))
    }
}

/// Examines an image, and repairs it where that is asked for.
///
/// # Errors
/// A file that cannot be opened or read, an undo file that cannot be written, a repair that failed.
pub fn run(request: DoctorRequest) -> Result<Diagnosis, ImgError> {
    let cx = block_layer()?;
    let task = Cx::clone(&cx);
    cx.block_on(async move { examine(task, request).await })
}

async fn examine(cx: Cx, request: DoctorRequest) -> Result<Diagnosis, ImgError> {
    let mode = OpenMode {
        format: request.format,
        writable: request.repair,
        force_share: request.force_share,
        ..OpenMode::default()
    };
    let (top, format) = open_bytes(&cx, &request.path, mode).await?;
    let Top { path, bottom, .. } = top;
    let result = match length(&bottom) {
        Ok(length) => {
            let patient = Patient { cx: Cx::clone(&cx), path, format, mode, length };
            treat(&patient, &bottom.node, &request).await
        }
        Err(reason) => Err(cannot_open(&path, 0, &reason)),
    };
    for node in &bottom.below {
        let closed = Arc::clone(node).close(Cx::clone(&cx)).await;
        if let (Ok(_), Err(error)) = (&result, closed) {
            return Err(ImgError::said(format!("'{}': {error}", shown(&request.path))));
        }
    }
    result
}

fn length(bottom: &super::source::Bottom) -> Result<u64, String> {
    match bottom.host.as_ref().and_then(|file| file.length()) {
        Some(length) => length.map_err(|e| e.to_string()),
        None => Ok(bottom.node.info().size),
    }
}

async fn treat(
    patient: &Patient,
    file: &Arc<dyn Node>,
    request: &DoctorRequest,
) -> Result<Diagnosis, ImgError> {
    let mut diagnosis = Diagnosis {
        filename: patient.path.to_string_lossy().into_owned(),
        format: patient.format.name().to_owned(),
        file_length: patient.length,
        ..Diagnosis::default()
    };
    let failed = |what: &str, reason: String| {
        ImgError::said(format!("'{}': {what}: {reason}", shown(&request.path)))
    };
    // What a mere look might write (a log that is replayed) stays in memory.
    let look: Arc<dyn Node> = patient.rehearsal(file);
    headers::look(patient, &look, request.format.is_some(), &mut diagnosis).await;
    if patient.format == Format::Raw {
        return Ok(diagnosis);
    }
    let checked = match patient.check(&look).await {
        Ok(checked) => checked,
        Err(reason) => {
            diagnosis.cannot_go_on(&reason);
            return Ok(diagnosis);
        }
    };
    diagnosis.add(checked.findings);
    let marked = diagnosis.marked;
    if checked.damages + checked.leaks == 0 && !marked {
        return Ok(diagnosis);
    }
    let (rehearsal, outlook) = match patient.rehearse(file).await {
        Ok(rehearsed) => rehearsed,
        Err(reason) if !request.repair => {
            diagnosis.no_repair = Some(reason);
            return Ok(diagnosis);
        }
        Err(reason) => return Err(failed("the repair was rehearsed and does not succeed", reason)),
    };
    diagnosis.outlook = Some(outlook);
    if !request.repair || !outlook.changes() {
        return Ok(diagnosis);
    }
    let name = request.undo_file.clone().unwrap_or_else(|| undo_name(&patient.path));
    undo::write(patient, &rehearsal, &name).await?;
    diagnosis.undo_file = Some(name.to_string_lossy().into_owned());
    rehearsal.perform(&patient.cx, file).await.map_err(|e| {
        failed(
            &format!("the repair failed half-way (undo it with '{}')", name.display()),
            e.to_string(),
        )
    })?;
    if outlook.new_length != outlook.old_length {
        // The node has to hear of what was written behind its end.
        let known = Arc::clone(file).resize(Cx::clone(&patient.cx), outlook.new_length).await;
        known.map_err(|e| failed("the repaired image", e.to_string()))?;
    }
    let after = patient.check(file).await.map_err(|e| failed("the repaired image", e))?;
    diagnosis.repaired(after.damages, after.leaks);
    Ok(diagnosis)
}

fn undo_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".undo");
    PathBuf::from(name)
}
