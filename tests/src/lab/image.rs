//! Guest images: built by the recipes in `images/`, found by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{LabError, source_root};

/// The directory that a recipe of `images/` has filled.
#[derive(Debug, Clone)]
pub struct Image {
    directory: PathBuf,
}

impl Image {
    /// Builds the recipe `name` if its result is not cached and returns where it is.
    ///
    /// # Errors
    ///
    /// [`LabError::Recipe`] if the recipe failed, [`LabError::Start`] if it could not be started.
    pub fn build(name: &str) -> Result<Self, LabError> {
        let script = source_root().join("images/build");
        let output = Command::new(&script)
            .arg(name)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| LabError::Start { program: script.display().to_string(), source })?;
        let printed = String::from_utf8_lossy(&output.stdout);
        match printed.lines().last() {
            Some(path) if output.status.success() => Ok(Self { directory: PathBuf::from(path) }),
            _ => Err(LabError::Recipe(name.to_owned())),
        }
    }

    /// The path of one file of the image.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory of the image.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
