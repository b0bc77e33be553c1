//! Where a state is kept.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::codec::FILE_MAX;

/// Called once, from any thread, when a save is over.
pub type Saved = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A place for the bytes of one state.
pub trait StateStore: Send + Sync {
    /// What was saved last; `None` where nothing ever was.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces it as a whole: after power loss either the old bytes or the new ones are there.
    /// `saved` is called once the new ones are durable. Never called while a save is under way.
    fn save(&self, bytes: Vec<u8>, saved: Saved);
}

/// A file, made at the first save, replaced by each: new file, fsync, rename, fsync of the
/// directory. The image's lock covers it: two machines that share an image must not share it.
///
/// [`StateStore::save`] waits for the disk. Changes are rare; a machine whose iothreads must not
/// wait wraps it in a store that saves on a thread of its own.
pub struct FileStore(PathBuf);

impl FileStore {
    /// The state file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self(path.into()))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn new_path(&self) -> PathBuf {
        let mut name: OsString = self.0.clone().into_os_string();
        name.push(".new");
        name.into()
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.new_path();
        // A leftover of a crash is replaced; a link that somebody put there is not followed.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        let dir = self.0.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl StateStore for FileStore {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // One byte more than any can have is enough to see that it is too long.
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn save(&self, bytes: Vec<u8>, saved: Saved) {
        saved(self.write(&bytes));
    }
}

/// Memory, for tests and for disks without a state file. It can be told to fail.
#[derive(Default)]
pub struct MemoryStore(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    bytes: Option<Vec<u8>>,
    saves: u64,
    failing: bool,
}

impl MemoryStore {
    /// A store that holds nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How often something was saved.
    #[must_use]
    pub fn saves(&self) -> u64 {
        self.lock().saves
    }

    /// Lets every save fail from now on, or succeed again.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryStore {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().bytes.clone())
    }

    fn save(&self, bytes: Vec<u8>, saved: Saved) {
        let result = {
            let mut memory = self.lock();
            if memory.failing {
                Err(io::Error::other("told to fail"))
            } else {
                memory.saves += 1;
                memory.bytes = Some(bytes);
                Ok(())
            }
        };
        saved(result);
    }
}
