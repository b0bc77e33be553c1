//! `convert` to and from pipes.
//!
//! What goes into a pipe is written once, from front to back: raw, VMDK streamOptimized, and qcow2
//! with all of its tables in front, for which the sources' block status is looked at first. What
//! comes out of one is read once: raw, VMDK streamOptimized, and qcow2 whose tables lie before its
//! data.
mod front;
pub(super) mod input;
pub(super) mod output;

use super::ImgError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Standard input or output, in a path's place.
const STANDARD: &str = "-";

/// Whether what is called so is written or read in one go.
pub(super) fn is_pipe(path: &Path) -> bool {
    path == Path::new(STANDARD)
        || std::fs::metadata(path).is_ok_and(|meta| {
            let kind = meta.file_type();
            kind.is_fifo() || kind.is_socket()
        })
}

/// Opens an end of a pipe.
fn open(path: &Path, to_write: bool) -> Result<File, ImgError> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let opened = match (path == Path::new(STANDARD), to_write) {
        (true, true) => own(io::stdout().as_fd()),
        (true, false) => own(io::stdin().as_fd()),
        (false, _) => OpenOptions::new().read(!to_write).write(to_write).open(path),
    };
    let file = opened.map_err(|error| {
        ImgError::said(format!("Could not open '{}': {}", path.display(), plain(&error)))
    })?;
    if io::IsTerminal::is_terminal(&file) {
        let way = if to_write { "output" } else { "input" };
        return Err(ImgError::said(format!(
            "standard {way} is a terminal, where an image makes no sense: use a pipe or a file"
        )));
    }
    Ok(file)
}

/// What the system says, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
