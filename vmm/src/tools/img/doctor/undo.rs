//! Writing undo files, and putting back what they have.
use super::super::ImgError;
use super::super::files::block_layer;
use super::super::image::{OpenMode, open_bytes};
use super::super::source::Top;
use super::Patient;
use crate::spec::format::Format;
use spindle_block::Cx;
use spindle_block::error::with_causes;
use spindle_block::nodes::rehearsal::Rehearsal;
use spindle_block::nodes::rehearsal::undo::{self, UndoError};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Writes the undo file `name`, durably. One that is there already is left alone.
pub(super) async fn write(
    patient: &Patient,
    rehearsal: &Rehearsal,
    name: &Path,
) -> Result<(), ImgError> {
    let failed = |reason: String| {
        ImgError::said(format!(
            "cannot write the undo file '{}': {reason}; nothing was changed",
            name.display()
        ))
    };
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(name);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => failed(
            "it exists, and may be needed to undo an earlier repair (--undo-file names another)"
                .to_owned(),
        ),
        _ => failed(error.to_string()),
    })?;
    let written = undo::write(&patient.cx, rehearsal, patient.format.name(), &file).await;
    let written = written
        .map_err(|e| with_causes(&e))
        .and_then(|()| durable(&file, name).map_err(|e| e.to_string()));
    written.map_err(|reason| {
        // It is of no use.
        let _ = std::fs::remove_file(name);
        failed(reason)
    })
}

/// The file's bytes and its name are on storage.
fn durable(file: &File, name: &Path) -> io::Result<()> {
    file.sync_all()?;
    let dir = name.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

/// `--undo`: brings the image `path` back to what it was. Returns what is said then.
///
/// # Errors
/// An undo file that is none, an image that is another or was used since.
pub fn run(undo_file: &Path, path: &Path) -> Result<String, ImgError> {
    let said = |reason: String| ImgError::said(format!("'{}': {reason}", undo_file.display()));
    let mut from = File::open(undo_file).map_err(|error| said(error.to_string()))?;
    let format = undo::format_of(&mut from).map_err(|error| said(with_causes(&error)))?;
    // What the image begins like may be what was damaged: the undo file says what it is.
    let mode = OpenMode::write(Some(Format::called(&format).unwrap_or(Format::Raw)));
    let cx = block_layer()?;
    let (task, given) = (Cx::clone(&cx), path.to_owned());
    let undone = cx.block_on(async move {
        let (Top { bottom, .. }, _) = open_bytes(&task, &given, mode).await?;
        let undone = match super::length(&bottom) {
            Ok(length) => undo::undo(&task, &mut from, &bottom.node, length)
                .await
                .map_err(|error| ImgError::said(words(&given, &error))),
            Err(reason) => Err(ImgError::said(reason)),
        };
        for node in &bottom.below {
            let closed = Arc::clone(node).close(Cx::clone(&task)).await;
            if undone.is_ok() {
                closed.map_err(|e| ImgError::said(e.to_string()))?;
            }
        }
        undone
    })?;
    Ok(if undone.changed {
        format!(
            "The repair is undone: the image is what it was before. '{}' is not needed any more.\n",
            undo_file.display()
        )
    } else {
        "The image is what it was before already.\n".to_owned()
    })
}

fn words(path: &Path, error: &UndoError) -> String {
    format!("'{}': {}", path.display(), with_causes(error))
}
