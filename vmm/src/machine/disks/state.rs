//! What of disks survives power loss beside their images: one state for each file, whoever uses it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use spindle_block::graph::Graph;
use spindle_devices::state_file::{DiskState, FileStore};

use crate::machine::BuildError;

/// States by their files.
#[derive(Default)]
pub(super) struct States(Mutex<BTreeMap<PathBuf, Weak<DiskState>>>);

/// The word for a disk whose state goes with the process.
const NONE: &str = "none";
/// What is added to the name of an image.
const ENDING: &str = ".state";

impl States {
    /// The state of a disk on `node`: in the file given, or beside the image. A disk that is no file,
    /// or that takes no writes, has one that goes with the process.
    pub(super) fn of(
        &self,
        graph: &Graph,
        node: &str,
        given: Option<&str>,
    ) -> Result<Arc<DiskState>, BuildError> {
        let path = match given {
            Some(NONE) => None,
            Some(path) => Some(PathBuf::from(path)),
            None if graph.is_read_only(node)? => None,
            None => image(graph, node).as_deref().and_then(beside),
        };
        path.map_or_else(|| Ok(DiskState::volatile()), |path| self.open(path))
    }

    fn open(&self, path: PathBuf) -> Result<Arc<DiskState>, BuildError> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| state.strong_count() > 0);
        if let Some(state) = states.get(&path).and_then(Weak::upgrade) {
            return Ok(state);
        }
        let state = DiskState::open(FileStore::new(&path))
            .map_err(|source| BuildError::State { path: path.clone(), source })?;
        states.insert(path, Arc::downgrade(&state));
        Ok(state)
    }
}

/// The file of a node.
fn image(graph: &Graph, node: &str) -> Option<PathBuf> {
    graph.query_nodes().into_iter().find(|status| status.node_name == node)?.file
}

/// The state file of an image; nothing is put beside devices.
pub(super) fn beside(image: &Path) -> Option<PathBuf> {
    if image.starts_with("/dev") {
        return None;
    }
    let mut name = OsString::from(image);
    name.push(ENDING);
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spindle_devices::state_file::Section;

    #[test]
    fn a_file_has_one_state_for_as_long_as_somebody_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw.state");
        let states = States::default();
        let first = states.open(path.clone()).unwrap();
        assert!(Arc::ptr_eq(&first, &states.open(path.clone()).unwrap()));
        assert!(!path.exists(), "it is made when there is something to keep");
        let section = Section { version: 1, bytes: vec![7] };
        first.put("test", section.clone(), Box::new(|saved| saved.unwrap()));
        drop(first);
        assert_eq!(states.open(path.clone()).unwrap().get("test"), Some(section));
        std::fs::write(&path, b"not a state").unwrap();
        let error = States::default().open(path).err().unwrap().to_string();
        assert!(error.contains("a.raw.state"), "{error}");
    }

    #[test]
    fn nothing_is_put_beside_devices() {
        assert_eq!(beside(Path::new("/dev/sdb")), None);
        assert_eq!(beside(Path::new("a.raw")), Some(PathBuf::from("a.raw.state")));
    }
}
