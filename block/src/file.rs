//! Files, by number: every ring resolves a [`FileId`] in its own way.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The number of an open file, the same on every ring. A number is not used twice while any ring
/// still knows the file that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub(crate) u32);

impl FileId {
    /// The most files open at once; also the size of each ring's table of registered files.
    pub const MAX: usize = 1024;

    /// The number, below [`FileId::MAX`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An open file. Dropping the last reference closes it and frees its number; rings and nodes hold
/// references, so a number names one file for as long as anybody could still use it.
#[derive(Debug)]
pub struct File {
    id: FileId,
    path: PathBuf,
    backend: Backend,
}

/// What a file is for the engines.
#[derive(Debug)]
pub enum Backend {
    /// A file or block device of the host.
    Host(OwnedFd),
    /// A file of the simulator, by its number in the simulated world that the ring belongs to.
    Sim(u32),
}

/// Weak entries by number. Only opening, closing and a ring's first use of a file come here.
static TABLE: Mutex<Vec<Option<std::sync::Weak<File>>>> = Mutex::new(Vec::new());

/// No number was free: [`FileId::MAX`] files are open.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("more than {} image files are open", FileId::MAX)]
pub struct TooManyFiles;

impl File {
    /// Gives `backend` a number. `path` is for messages.
    ///
    /// # Errors
    /// When [`FileId::MAX`] files are open.
    pub fn register(path: &Path, backend: Backend) -> Result<Arc<Self>, TooManyFiles> {
        let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        let free = table.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if table.len() < FileId::MAX => {
                table.push(None);
                table.len() - 1
            }
            None => return Err(TooManyFiles),
        };
        let file = Arc::new(Self { id: FileId(index as u32), path: path.to_path_buf(), backend });
        table[index] = Some(Arc::downgrade(&file));
        Ok(file)
    }

    /// The file with this number, while it is open.
    #[must_use]
    pub fn get(id: FileId) -> Option<Arc<Self>> {
        let table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(id.index())?.as_ref()?.upgrade()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The name it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The host's descriptor, or `None` for a simulated file.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        match &self.backend {
            Backend::Host(fd) => Some(fd.as_raw_fd()),
            Backend::Sim(_) => None,
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get_mut(self.id.index()) {
            *entry = None;
        }
    }
}
