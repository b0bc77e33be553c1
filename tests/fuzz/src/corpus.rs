//! Inputs worth mutating.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Target;

/// Inputs that are kept, at most.
const KEPT: usize = 4096;

/// Seeds, inputs in the tree, and what reached new code.
pub(crate) struct Corpus {
    inputs: Vec<Vec<u8>>,
}

/// Where a target's inputs lie in the tree.
pub(crate) fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

impl Corpus {
    pub fn new(target: &Target) -> Self {
        let mut inputs = (target.seeds)();
        let mut paths: Vec<PathBuf> = fs::read_dir(directory(target))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        inputs.extend(paths.iter().filter_map(|path| fs::read(path).ok()));
        Self { inputs }
    }

    pub fn all(&self) -> &[Vec<u8>] {
        &self.inputs
    }

    pub fn any(&self, rng: &mut fastrand::Rng) -> &[u8] {
        // Newer ones more often: they reached what others did not.
        let len = self.inputs.len();
        let from = if rng.bool() { 0 } else { len * 3 / 4 };
        self.inputs.get(rng.usize(from..len.max(1))).map_or(&[], |input| input)
    }

    pub fn add(&mut self, input: Vec<u8>) {
        if self.inputs.len() < KEPT {
            self.inputs.push(input);
        }
    }
}
