//! What every format is asked: the conformance suite, QEMU's word both ways, crashes, hostile bytes.

mod backing;
mod conformance;
mod crash;
mod foreign;
mod hostile;
mod large;
mod oracle;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{Beside, CreateOptions, FormatError, ImageFormat, Request, Subformat, create, open};
use crate::{
    Cx, Node,
    nodes::file::{FileNode, FileOptions},
    vmdk::{self, VmdkOptions},
};

/// Options of an image.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    Plain(CreateOptions),
    Vmdk(VmdkOptions),
}

/// A kind of image.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub name: &'static str,
    pub format: ImageFormat,
    pub made: Made,
    /// How QEMU makes the same.
    pub qemu: &'static str,
}

/// All kinds of images that can be written to, with a disk of `size` bytes.
pub(crate) fn cases(size: u64) -> Vec<Case> {
    let plain = |name, format, qemu, change: fn(&mut CreateOptions)| {
        let mut options = CreateOptions { size, force_size: true, ..CreateOptions::default() };
        change(&mut options);
        Case { name, format, made: Made::Plain(options), qemu }
    };
    let vmdk = |name, qemu, subformat, zeroed_grain| {
        let options = VmdkOptions { subformat, zeroed_grain, ..VmdkOptions::new(size) };
        Case { name, format: ImageFormat::Vmdk, made: Made::Vmdk(options), qemu }
    };
    let fixed: fn(&mut CreateOptions) = |o| o.subformat = Subformat::Fixed;
    use ImageFormat::{Parallels, Qed, Vdi, Vhdx, Vpc};
    vec![
        plain("vdi", Vdi, "static=off", |_| ()),
        plain("vdi-static", Vdi, "static=on", fixed),
        plain("vpc", Vpc, "subformat=dynamic,force_size=on", |_| ()),
        plain("vpc-fixed", Vpc, "subformat=fixed,force_size=on", fixed),
        plain("vpc-geometry", Vpc, "subformat=dynamic", |o| o.force_size = false),
        plain("vhdx", Vhdx, "subformat=dynamic", |_| ()),
        plain("vhdx-1m", Vhdx, "block_size=1M,log_size=2M", |o| {
            o.cluster_size = Some(1 << 20);
            o.log_size = Some(2 << 20);
        }),
        plain("vhdx-fixed", Vhdx, "subformat=fixed", fixed),
        plain("parallels", Parallels, "", |_| ()),
        plain("parallels-64k", Parallels, "cluster_size=65536", |o| {
            o.cluster_size = Some(64 << 10);
        }),
        plain("qed", Qed, "", |_| ()),
        plain("qed-4k", Qed, "cluster_size=4096,table_size=2", |o| {
            o.cluster_size = Some(4096);
            // QEMU makes images with tables of one cluster and refuses to open them.
            o.table_size = Some(2);
        }),
        vmdk("vmdk", "subformat=monolithicSparse", vmdk::Subformat::MonolithicSparse, false),
        vmdk("vmdk-zero", "zeroed_grain=on", vmdk::Subformat::MonolithicSparse, true),
        vmdk("vmdk-flat", "subformat=monolithicFlat", vmdk::Subformat::MonolithicFlat, false),
        vmdk(
            "vmdk-split",
            "subformat=twoGbMaxExtentSparse",
            vmdk::Subformat::TwoGbMaxExtentSparse,
            false,
        ),
        vmdk(
            "vmdk-split-flat",
            "subformat=twoGbMaxExtentFlat",
            vmdk::Subformat::TwoGbMaxExtentFlat,
            false,
        ),
    ]
}

impl Case {
    /// Whether the image is one file.
    pub fn is_one_file(&self) -> bool {
        match &self.made {
            Made::Plain(_) => true,
            Made::Vmdk(options) => options.subformat == vmdk::Subformat::MonolithicSparse,
        }
    }

    /// Makes the image.
    pub async fn make(
        &self,
        cx: &Cx,
        file: &Arc<dyn Node>,
        name: &str,
        files: &dyn vmdk::Make,
    ) -> Result<(), FormatError> {
        match &self.made {
            Made::Plain(options) => create(cx, self.format, file, options).await,
            Made::Vmdk(options) => vmdk::create(cx, file, name, options, files).await,
        }
    }
}

/// No further files.
pub(crate) struct NoFiles;

impl vmdk::Make for NoFiles {
    fn make(&self, name: &str) -> Result<Arc<dyn Node>, String> {
        Err(format!("no file {name}"))
    }
}

/// Files of a directory of the host.
pub(crate) struct Dir(pub PathBuf);

impl Beside for Dir {
    fn open(&self, name: &str, read_only: bool) -> Result<Arc<dyn Node>, String> {
        host_file(&self.0.join(name), read_only)
    }
}

impl vmdk::Make for Dir {
    fn make(&self, name: &str) -> Result<Arc<dyn Node>, String> {
        let path = self.0.join(name);
        std::fs::write(&path, []).map_err(|e| e.to_string())?;
        host_file(&path, false)
    }
}

pub(crate) fn host_file(path: &Path, read_only: bool) -> Result<Arc<dyn Node>, String> {
    let options = FileOptions::new(path);
    let options = if read_only { options.read_only() } else { options };
    Ok(FileNode::open(&options).map_err(|e| e.to_string())? as _)
}

/// Makes an image on the host.
pub(crate) async fn make_on_host(cx: &Cx, case: &Case, path: &Path) {
    std::fs::write(path, []).expect("a file");
    let file = host_file(path, false).expect("the file");
    let dir = Dir(path.parent().expect("a directory").to_owned());
    let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
    case.make(cx, &file, name, &dir).await.unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
    file.close(Cx::clone(cx)).await.expect("close");
}

/// Opens an image of the host.
pub(crate) async fn open_on_host(
    cx: &Cx,
    format: ImageFormat,
    path: &Path,
    backing: Option<Arc<dyn Node>>,
    read_only: bool,
) -> Result<Arc<dyn Node>, String> {
    let file = host_file(path, read_only)?;
    let dir = Dir(path.parent().expect("a directory").to_owned());
    let request = Request { backing, read_only, once: true, ..Request::read(file, &dir) };
    open(cx, format, request).await.map_err(|e| crate::error::with_causes(&e))
}

/// Runs a program of QEMU's and returns what it printed.
pub(crate) fn qemu(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("qemu-utils are installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}{errors}");
    text
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// A place for images: on a disk, so that holes and locks are real.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a directory")
}
