//! Nodes of this crate that are no formats.

use std::path::PathBuf;

use super::*;
use crate::{
    BlockError,
    nodes::{
        fault::{
            Blkdebug, FaultNode, Limits,
            debug::{Event, InjectError},
        },
        file::{FileNode, FileOptions},
        raw::RawNode,
    },
};

fn opens(open: impl Fn() -> Result<Arc<dyn Node>, String> + Send + Sync + 'static) -> Open {
    Arc::new(move |_| {
        let node = open();
        Box::pin(async move { node })
    })
}

fn contents(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    rng.fill(&mut bytes[SIZE / 4..SIZE / 2]);
    bytes
}

fn simulated(wrap: impl Fn(Arc<FileNode>) -> Arc<dyn Node> + Send + Sync + Clone + 'static) {
    for align in [1, 512, 4096] {
        let seed = fastrand::u64(..);
        let world = World::new(seed);
        let stage = Stage::sim(&world, 3).expect("iothreads");
        let bytes = contents(&mut fastrand::Rng::with_seed(seed));
        let file = world.create_file("disk", &bytes, SIZE as u64);
        let wrap = wrap.clone();
        let open =
            opens(move || Ok(wrap(FileNode::over(Arc::clone(&file), SIZE as u64, align, false))));
        let subject = Subject { open, contents: bytes, resize: Resize::Any, alone: true };
        check(&stage, &subject, Effort::sample(seed)).expect("conforms");
    }
}

#[test]
fn simulated_files_conform() {
    simulated(|file| file);
}

#[test]
fn fault_filters_without_rules_conform() {
    simulated(|file| FaultNode::new(file));
}

#[test]
fn filters_that_see_every_request_and_split_some_conform() {
    let limits = Limits {
        align: Some(512),
        max_transfer: Some(64 << 10),
        max_write_zero: Some(4096),
        opt_discard: None,
        max_discard: Some(8192),
    };
    // A rule for every event, and none for the state that there is.
    let rule = |event| InjectError {
        event,
        state: 7,
        iotype: None,
        error: Some(BlockError::Medium),
        sector: None,
        once: false,
    };
    let inject_error = Event::ALL.map(|(_, event)| rule(event)).to_vec();
    let rules = Blkdebug { inject_error, set_state: Vec::new(), limits };
    simulated(move |file| FaultNode::blkdebug(file, rules.clone()));
}

#[test]
fn windows_conform() {
    const OFFSET: u64 = 12 << 10;
    let seed = fastrand::u64(..);
    let world = World::new(seed);
    let stage = Stage::sim(&world, 2).expect("iothreads");
    let bytes = contents(&mut fastrand::Rng::with_seed(seed));
    let whole = [vec![0xff; OFFSET as usize], bytes.clone()].concat();
    let file = world.create_file("disk", &whole, whole.len() as u64);
    let below = Arc::clone(&file);
    let open = opens(move || {
        let len = OFFSET + SIZE as u64;
        let file = FileNode::over(Arc::clone(&below), len, 512, false);
        let node = RawNode::new(file, OFFSET, None, false).map_err(|e| e.to_string())?;
        Ok(node)
    });
    let subject = Subject { open, contents: bytes, resize: Resize::Any, alone: true };
    check(&stage, &subject, Effort::sample(seed)).expect("conforms");
    assert_eq!(world.contents(&file).to_vec()[..OFFSET as usize], whole[..OFFSET as usize]);
}

#[test]
fn host_files_conform_on_both_engines_with_and_without_direct_io() {
    for aio in [Aio::IoUring, Aio::Threads] {
        for direct in [false, true] {
            let seed = fastrand::u64(..);
            let stage = Stage::host(aio, 2).expect("iothreads");
            // Not /tmp: a file system in memory may know no O_DIRECT.
            let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
            let path: PathBuf = dir.path().join("disk.raw");
            let bytes = contents(&mut fastrand::Rng::with_seed(seed));
            std::fs::write(&path, &bytes).expect("a file");
            let open = opens(move || {
                let options = FileOptions { direct, ..FileOptions::new(&path) };
                let node = FileNode::open(&options).map_err(|e| e.to_string())?;
                Ok(node)
            });
            let subject = Subject { open, contents: bytes, resize: Resize::Any, alone: true };
            check(&stage, &subject, Effort::sample(seed)).expect("conforms");
        }
    }
}
