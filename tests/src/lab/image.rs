//! Guest images: built by the recipes in `images/`, found by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::{LabError, inside, source_root};

/// Prefix of the environment variables that name the directories of images for commands in the lab.
const PIN: &str = "SPINDLE_IMAGE_";

/// The images that this process has asked for.
static KNOWN: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// The directory that a recipe of `images/` has filled.
#[derive(Debug, Clone)]
pub struct Image {
    directory: PathBuf,
}

impl Image {
    /// Builds the recipe `name` if its result is not cached and returns where it is. In the lab nothing is
    /// built: what the program outside has asked for is known there, the rest must be cached.
    ///
    /// # Errors
    ///
    /// [`LabError::Recipe`] if the recipe failed, [`LabError::Start`] if it could not be started.
    pub fn build(name: &str) -> Result<Self, LabError> {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let known = known.or_else(|| std::env::var_os(format!("{PIN}{name}")).map(PathBuf::from));
        let directory = match known {
            Some(directory) => directory,
            None => run_recipe(name)?,
        };
        KNOWN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), directory.clone());
        Ok(Self { directory })
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

/// The environment that tells a command in the lab where the images are that this process has asked for.
pub(super) fn pins() -> Vec<(String, String)> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.iter().map(|(name, path)| (format!("{PIN}{name}"), path.display().to_string())).collect()
}

fn run_recipe(name: &str) -> Result<PathBuf, LabError> {
    let script = source_root().join("images/build");
    let output = Command::new(&script)
        .args(inside().then_some("--cached"))
        .arg(name)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| LabError::Start { program: script.display().to_string(), source })?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match printed.lines().last() {
        Some(path) if output.status.success() => Ok(PathBuf::from(path)),
        _ => Err(LabError::Recipe(name.to_owned())),
    }
}
