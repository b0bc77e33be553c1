//! One lab at a time on a machine: two would fight for its cores, and nested guests die of that.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LabError;

/// Held while a lab runs; gives the lock back when dropped.
#[derive(Debug)]
pub struct LabLock {
    _file: Option<File>,
}

impl LabLock {
    /// Waits until no other lab runs on this machine. A lock that `flock(1)` took for us counts as ours.
    ///
    /// # Errors
    ///
    /// [`LabError::File`] if the lock file cannot be opened or locked.
    pub fn take() -> Result<Self, LabError> {
        let path = lock_path();
        let file = open(&path)?;
        if inherited(&file) {
            return Ok(Self { _file: None });
        }
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(LabError::file("lock", path)(error)),
        }
        eprintln!("lab: waiting for another lab to end ({})", path.display());
        file.lock().map_err(LabError::file("lock", path))?;
        Ok(Self { _file: Some(file) })
    }
}

/// Where the lock is: the same for every user and every checkout on this machine.
pub fn lock_path() -> PathBuf {
    PathBuf::from("/tmp/spindle-lab.lock")
}

/// Opens the lock file without the right to write where someone else made it: a sticky directory refuses
/// `O_CREAT` on a foreign file.
fn open(path: &Path) -> Result<File, LabError> {
    if let Ok(file) = File::open(path) {
        return Ok(file);
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .open(path)
        .map_err(LabError::file("create", path))
}

/// Whether an ancestor gave us a descriptor of the lock file (our own is not counted).
fn inherited(own: &File) -> bool {
    let Ok(own) = own.metadata() else { return false };
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return false };
    let same = entries
        .flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()))
        .count();
    same > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_descriptor_means_that_an_ancestor_holds_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = open(file.path()).unwrap();
        // `file` itself is a second descriptor of the same file.
        assert!(inherited(&own));
        let path = file.into_temp_path();
        assert!(!inherited(&own));
        drop(path);
    }
}
