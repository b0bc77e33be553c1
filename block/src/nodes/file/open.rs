//! Opening and making image files on the host.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    FileNode,
    error::{FileError, Reason, shown},
    probe::{self, Facts, Kind},
};
use crate::{
    file::{Backend, File},
    lock::{self, LockError, Mode},
};

/// Which driver opens the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// `file`: a regular file.
    #[default]
    File,
    /// `host_device`: a block device of the host.
    HostDevice,
    /// Whichever the file turns out to be.
    Any,
}

/// `locking=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Lock where the file system can.
    #[default]
    Auto,
    /// Lock, or fail.
    On,
    /// Do not lock.
    Off,
}

/// How an image file is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The file.
    pub path: PathBuf,
    /// What it has to be.
    pub driver: Driver,
    /// Not written to.
    pub read_only: bool,
    /// If it cannot be written to, it is opened read-only.
    pub auto_read_only: bool,
    /// Bypass the host's page cache (O_DIRECT) where the file system can.
    pub direct: bool,
    /// Discards do nothing, and write-zeroes keep their space (`discard=ignore`).
    pub ignore_discard: bool,
    /// Flushes and closing do not make it durable (`cache=unsafe`).
    pub no_flush: bool,
    /// Whether it is locked.
    pub locking: Locking,
    /// Others may write while it is read (`force-share=on`).
    pub force_share: bool,
    /// Others may write while it is written (`share-rw=on`).
    pub share_rw: bool,
}

impl FileOptions {
    /// Plain options for `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), driver: Driver::Any, ..Self::default() }
    }

    /// The same, read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    fn mode(&self) -> Mode {
        let mode = match (self.force_share, self.read_only) {
            (true, _) => Mode::ONLOOKER,
            (false, true) => Mode::READER,
            (false, false) => Mode::WRITER,
        };
        if self.share_rw { mode.share_rw() } else { mode }
    }

    fn error(&self, create: bool, reason: Reason) -> FileError {
        FileError { path: self.path.clone(), create, reason }
    }
}

/// An opened descriptor with what is known of it.
pub(super) struct Opened {
    pub facts: Facts,
    /// Offset and memory alignment where O_DIRECT is on.
    pub direct: Option<(u32, u32)>,
    pub options: FileOptions,
    pub locked: bool,
}

impl FileNode {
    /// Opens an image file.
    ///
    /// # Errors
    /// One sentence that names the file; nothing stays open or locked then.
    pub fn open(options: &FileOptions) -> Result<Arc<Self>, FileError> {
        let (fd, opened) = open(options.clone()).map_err(|r| options.error(false, r))?;
        let file = File::register(&options.path, Backend::Host(fd))
            .map_err(|e| options.error(false, e.into()))?;
        Ok(Self::new(file, opened))
    }

    /// Makes an image file of `size` zero bytes and opens it; `size` 0 leaves a block device as it
    /// is. What was there before is lost, but only after the file could be locked.
    ///
    /// # Errors
    /// As for [`FileNode::open`]; a file that did not exist before is removed again.
    pub fn create(options: &FileOptions, size: u64) -> Result<Arc<Self>, FileError> {
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&options.path)
            .map(|_| true)
            .or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(false) } else { Err(e) })
            .map_err(|e| options.error(true, Reason::of_open(e, true, true)))?;
        let result = prepare(options, size);
        if result.is_err() && made {
            // The first error is the one to tell.
            drop(std::fs::remove_file(&options.path));
        }
        result.map_err(|reason| options.error(true, reason))
    }
}

fn prepare(options: &FileOptions, size: u64) -> Result<Arc<FileNode>, Reason> {
    let (fd, mut opened) = open(options.clone())?;
    if opened.facts.kind == Kind::Regular {
        set_len(&fd, 0)?;
        set_len(&fd, size)?;
        opened.facts.size = size;
    } else if size > opened.facts.size {
        return Err(Reason::NoSpace);
    }
    Ok(FileNode::new(File::register(&options.path, Backend::Host(fd))?, opened))
}

fn set_len(fd: &OwnedFd, size: u64) -> Result<(), Reason> {
    let size = i64::try_from(size).map_err(|_| Reason::NoSpace)?;
    // SAFETY: a plain system call on a descriptor that is open.
    if unsafe { libc::ftruncate64(fd.as_raw_fd(), size) } == 0 {
        return Ok(());
    }
    Err(Reason::of_open(io::Error::last_os_error(), true, true))
}

fn open(mut options: FileOptions) -> Result<(OwnedFd, Opened), Reason> {
    if options.force_share && !options.read_only {
        return Err(Reason::ForceShareWrites);
    }
    let (mut fd, facts) = match open_checked(&options) {
        Err(Reason::Permission { writing: true } | Reason::ReadOnlyMedium)
            if options.auto_read_only && !options.read_only =>
        {
            options.read_only = true;
            open_checked(&options)?
        }
        result => result?,
    };
    let mut direct = None;
    if options.direct {
        match reopen_direct(&options, &facts)? {
            Some((direct_fd, alignment)) => {
                fd = direct_fd;
                direct = Some(alignment);
            }
            None => log::warn!(
                "'{}': its file system has no direct I/O (O_DIRECT); the host's page cache is used, \
                 as with cache=writeback",
                shown(&options.path)
            ),
        }
    }
    let locked = lock_image(&fd, &options)?;
    Ok((fd, Opened { facts, direct, options, locked }))
}

/// Opens without waiting (a pipe would) and without following anything up if it is no image.
fn open_checked(options: &FileOptions) -> Result<(OwnedFd, Facts), Reason> {
    let fd = open_fd(&options.path, options.read_only, libc::O_NONBLOCK)
        .map_err(|e| Reason::of_open(e, !options.read_only, false))?;
    let facts = probe::facts(fd.as_fd()).map_err(Reason::Io)?;
    match (facts.kind, options.driver) {
        (Kind::Other(what), _) => return Err(Reason::NotAnImage(what)),
        (Kind::Block, Driver::File) => return Err(Reason::IsBlockDevice),
        (Kind::Regular, Driver::HostDevice) => return Err(Reason::IsRegularFile),
        _ => {}
    }
    if facts.read_only && !options.read_only {
        return Err(Reason::ReadOnlyMedium);
    }
    // SAFETY: plain system call on our descriptor; O_NONBLOCK was only for opening. No other flag
    // that can be changed is set.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, 0) } != 0 {
        return Err(Reason::Io(io::Error::last_os_error()));
    }
    Ok((fd, facts))
}

fn open_fd(path: &Path, read_only: bool, flags: libc::c_int) -> io::Result<OwnedFd> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(flags | libc::O_NOCTTY)
        .open(path)
        .map(OwnedFd::from)
}

/// A descriptor with O_DIRECT, and its offset and memory alignment in bytes.
type Direct = (OwnedFd, (u32, u32));

/// The same file with O_DIRECT, and its alignments. `None` where it cannot be had.
fn reopen_direct(options: &FileOptions, facts: &Facts) -> Result<Option<Direct>, Reason> {
    let flags = libc::O_DIRECT | libc::O_NONBLOCK;
    let fd = match open_fd(&options.path, options.read_only, flags) {
        Ok(fd) => fd,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            return Ok(None);
        }
        Err(e) => return Err(Reason::of_open(e, !options.read_only, false)),
    };
    let again = probe::facts(fd.as_fd()).map_err(Reason::Io)?;
    if again.identity != facts.identity {
        let changed = io::Error::other("it was replaced while it was being opened; try again");
        return Err(Reason::Io(changed));
    }
    // SAFETY: plain system call on our descriptor.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_DIRECT) } != 0 {
        return Err(Reason::Io(io::Error::last_os_error()));
    }
    Ok(probe::direct_alignment(fd.as_fd(), facts).map(|alignment| (fd, alignment)))
}

fn lock_image(fd: &OwnedFd, options: &FileOptions) -> Result<bool, Reason> {
    if options.locking == Locking::Off {
        return Ok(false);
    }
    match lock::acquire(fd.as_fd(), options.mode()) {
        Ok(()) => Ok(true),
        Err(LockError::Unsupported(e)) if options.locking == Locking::Auto => {
            log::warn!(
                "'{}' is not locked: its file system has no locks ({e}); see that no other program \
                 writes to it",
                shown(&options.path)
            );
            Ok(false)
        }
        Err(error) => Err(Reason::Locked { error }),
    }
}
