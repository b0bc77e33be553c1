//! What the driver's tests share: images made by qemu-img and by ourselves, opened over the host's
//! files.

mod bitmaps;
mod cutting;
mod data_file;
mod encrypted;
mod faults;
mod golden;
mod header;
mod histories;
mod hostile;
mod making;
mod preallocating;
mod simulated;
mod snapshots;
mod subclusters;
mod widths;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{Options, open};
use crate::{
    Cx, Node,
    nodes::{
        file::{FileNode, FileOptions},
        raw::RawNode,
    },
};

/// Runs a program of QEMU's and returns what it printed.
pub(super) fn qemu(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("qemu-utils are installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}{errors}");
    text
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// Asks `qemu-img check` whether an image is sound, without a leak.
pub(super) fn assert_sound(path: &Path) {
    qemu("qemu-img", &["check", "-q", "-f", "qcow2", text(path)]);
}

/// A file node of the host.
pub(super) fn file(path: &Path, read_only: bool) -> Arc<dyn Node> {
    let mut options = FileOptions::new(path);
    if read_only {
        options = options.read_only();
    }
    FileNode::open(&options).expect("open the file")
}

/// A chain of images, the upper first; every one but the last is qcow2. Only the first is written.
pub(super) async fn open_chain(
    cx: &Cx,
    paths: &[PathBuf],
    raw_base: bool,
    options: Options,
) -> Result<Arc<dyn Node>, String> {
    let mut lower: Option<Arc<dyn Node>> = None;
    for (index, path) in paths.iter().enumerate().rev() {
        let read_only = index > 0 || options.read_only;
        let file = file(path, read_only);
        lower = Some(if raw_base && index == paths.len() - 1 {
            RawNode::new(file, 0, None, true).map_err(|e| e.to_string())?
        } else {
            let options = Options { read_only, ..options.clone() };
            open(cx, file, lower, options).await.map_err(|e| format!("{path:?}: {e:?}"))?
        });
    }
    Ok(lower.expect("a chain has an image"))
}
