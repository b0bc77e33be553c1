//! A target that is being made has no name yet: whoever looks finds it complete or not at all, also
//! where the tool is killed (docs/adr/0016).
use super::create::{FormatPlan, Plan, Preallocation};
use super::image::file_detail;
use spindle_block::nodes::file::{FileNode, FileOptions};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file in the target's directory that is going to be the target.
pub(super) struct Aside {
    /// Without a name, or with one that only we know.
    file: File,
    /// What it can be opened by.
    path: PathBuf,
    /// Whether `path` is a name in the directory, which has to go.
    named: bool,
    /// The name it is going to have.
    target: PathBuf,
    /// What has this name now: emptied, and locked until it is replaced.
    old: Option<Arc<FileNode>>,
}

impl Aside {
    /// Begins a target; `None` where it has to be made in its place: a device, a file with several
    /// names, an image of several files, a directory that takes no further file.
    pub fn begin(plan: &Plan) -> Option<Self> {
        let target = match fs::symlink_metadata(&plan.path) {
            Ok(found) if found.is_symlink() => fs::canonicalize(&plan.path).ok()?,
            _ => plan.path.clone(),
        };
        let old = fs::metadata(&target).ok();
        let fits = old.as_ref().is_none_or(|old| old.is_file() && old.nlink() == 1);
        if !fits || !is_one_file(&plan.format) || (old.is_some() && fills(&plan.format)) {
            return None;
        }
        let directory = match target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return None,
        };
        // A backing file's name may be relative to where the image is.
        let made = match unnamed(directory).filter(|_| plan.backing.is_none()) {
            Some((file, path)) => Self { file, path, named: false, target, old: None },
            None => {
                let path = hidden(&target)?;
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(0o644);
                let file = options.open(&path).ok()?;
                Self { file, path, named: true, target, old: None }
            }
        };
        if let Some(old) = old {
            // It stays whose it was.
            let mode = fs::Permissions::from_mode(old.mode() & 0o7777);
            let own = made.file.metadata().ok()?;
            if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                chown(&made.path, Some(old.uid()), Some(old.gid())).ok()?;
            }
            made.file.set_permissions(mode).ok()?;
        }
        Some(made)
    }

    /// What the file can be opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A sentence about the file, with the name that it is going to have.
    pub fn named_as_target(&self, sentence: &str) -> String {
        sentence.replace(&*self.path.to_string_lossy(), &self.target.to_string_lossy())
    }

    /// What the target was is gone from here on, as when it is made in its place.
    ///
    /// # Errors
    ///
    /// qemu-img's words for a file that somebody else uses, or that cannot be written.
    pub fn empty_old(&mut self) -> Result<(), String> {
        if self.target.exists() {
            let old = FileNode::create(&FileOptions::new(&self.target), 0);
            self.old = Some(old.map_err(|error| file_detail(&error))?);
        }
        Ok(())
    }

    /// Gives the finished file its name; `durable`: so that it survives a loss of power.
    ///
    /// # Errors
    ///
    /// The directory does not take it, or somebody else has made a file of this name.
    pub fn finish(mut self, durable: bool) -> io::Result<()> {
        if self.old.is_none() && self.named && self.target.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if self.named {
            fs::rename(&self.path, &self.target)?;
        } else if self.old.is_none() {
            link(&self.path, &self.target)?;
        } else {
            let name = hidden(&self.target).ok_or(io::ErrorKind::InvalidFilename)?;
            link(&self.path, &name)?;
            if let Err(error) = fs::rename(&name, &self.target) {
                // The first error is the one to tell.
                let _ = fs::remove_file(&name);
                return Err(error);
            }
        }
        self.named = false;
        self.old = None;
        if durable && let Some(directory) = self.target.parent() {
            let here = directory.as_os_str().is_empty();
            File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.named {
            let _ = fs::remove_file(&self.path);
        }
        if self.old.is_some() {
            let _ = fs::remove_file(&self.target);
        }
    }
}

/// A file without a name, and what it can be opened by.
fn unnamed(directory: &Path) -> Option<(File, PathBuf)> {
    let flags = libc::O_TMPFILE | libc::O_CLOEXEC;
    let made =
        OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o644).open(directory);
    let file = made.ok()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.exists().then_some((file, path))
}

/// A name in the same directory that nobody else has.
fn hidden(target: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name()?);
    name.push(format!(".{}.part", uuid::Uuid::new_v4().simple()));
    Some(target.with_file_name(name))
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: two strings that end with a zero byte and outlive the call.
    match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether all of an image is in the file that it is called by.
fn is_one_file(format: &FormatPlan) -> bool {
    match format {
        FormatPlan::Raw { .. } => true,
        FormatPlan::Qcow2(own) => own.data_file.is_none(),
        FormatPlan::Image(own) => super::formats::is_one_file(own),
    }
}

/// Whether making the image takes as long as filling it.
fn fills(format: &FormatPlan) -> bool {
    let preallocation = match format {
        FormatPlan::Raw { preallocation } => *preallocation,
        FormatPlan::Qcow2(own) => own.preallocation,
        FormatPlan::Image(_) => return false,
    };
    matches!(preallocation, Preallocation::Full | Preallocation::Falloc)
}
