//! The files that a guest is booted from: opened once, read at every placement.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::error::{BootError, FileRole};

/// An open regular file with its name, for messages.
#[derive(Debug)]
pub(crate) struct Source {
    role: FileRole,
    path: PathBuf,
    file: File,
}

impl Source {
    /// Opens `path`, which must be a regular file with something in it.
    pub(crate) fn open(role: FileRole, path: &Path) -> Result<Self, BootError> {
        let failed = |source| BootError::Open { role, path: path.to_owned(), source };
        // Looked at before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(BootError::NotAFile { role, path: path.to_owned() });
        }
        let source = Self { role, path: path.to_owned(), file: File::open(path).map_err(failed)? };
        source.len()?;
        Ok(source)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file's length now, in bytes; never 0.
    pub(crate) fn len(&self) -> Result<u64, BootError> {
        match self.file.metadata().map_err(|e| self.read_error(e))?.len() {
            0 => Err(BootError::Empty { role: self.role, path: self.path() }),
            len => Ok(len),
        }
    }

    /// Reads as much of `buf` as the file has from `offset` on; returns how much that was.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, BootError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(e)),
            }
        }
        Ok(done)
    }

    /// Reads the first `len` bytes of the file straight into guest memory.
    pub(crate) fn read_into<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        address: u64,
        len: u64,
    ) -> Result<(), GuestMemoryError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(GuestMemoryError::IOError)?;
        memory.read_exact_volatile_from(GuestAddress(address), &mut file, len as usize)
    }

    fn read_error(&self, source: io::Error) -> BootError {
        BootError::Read { role: self.role, path: self.path(), source }
    }
}
