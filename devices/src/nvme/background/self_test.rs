//! Device Self-test (Base 5.9, 8.6): reads of namespaces, on the medium.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use spindle_block::{BlockError, Cx, Io, IoBuf};

use super::Background;
use crate::nvme::{
    config::NAMESPACES_MAX,
    controller::Ctl,
    namespace::Namespace,
    spec::{NSID_ALL, Sqe},
    status::Status,
    subsystem::Subsystem,
};

/// Results that the log keeps (Base figure 218).
const RESULTS: usize = 20;
/// Bytes of one of them.
const RESULT_LEN: usize = 28;
/// Bytes read at once.
const PIECE: u64 = 256 << 10;
/// Places that a short test looks at in a namespace.
const PLACES: u64 = 64;

/// Result: aborted by a Device Self-test command.
const ABORTED: u8 = 1;
/// Result: aborted by a controller level reset.
const ABORTED_BY_RESET: u8 = 2;
/// Result: aborted by a Format NVM command.
pub const ABORTED_BY_FORMAT: u8 = 4;
/// Result: aborted by a sanitize operation.
pub const ABORTED_BY_SANITIZE: u8 = 9;
/// Result: a segment failed, and it is known which.
const FAILED: u8 = 7;

const SHORT: u8 = 1;
const EXTENDED: u8 = 2;

/// A self-test under way.
struct Running {
    code: u8,
    nsid: u32,
    /// Steps done and in all.
    progress: (u64, u64),
    /// It is to end with this result.
    abort: Option<u8>,
}

/// The self-tests of a subsystem.
#[derive(Default)]
pub struct SelfTests {
    running: Option<Running>,
    results: VecDeque<[u8; RESULT_LEN]>,
    started: Option<Instant>,
}

impl Background {
    /// The self-test log.
    #[must_use]
    pub fn self_test_page(&self) -> Vec<u8> {
        let tests = self.tests();
        let mut page = vec![0; 4 + RESULTS * RESULT_LEN];
        if let Some(running) = &tests.running {
            let (done, all) = running.progress;
            page[0] = running.code;
            page[1] = (done * 100 / all.max(1)).min(99) as u8;
        }
        for (i, entry) in page[4..].chunks_mut(RESULT_LEN).enumerate() {
            match tests.results.get(i) {
                Some(result) => entry.copy_from_slice(result),
                // Not used.
                None => entry[0] = 0x0f,
            }
        }
        page
    }

    /// Ends a self-test with this result.
    pub fn abort_self_test(&self, result: u8) {
        if let Some(running) = &mut self.tests().running {
            running.abort.get_or_insert(result);
        }
    }

    /// A controller was reset: extended self-tests go on.
    pub fn reset_self_test(&self) {
        if let Some(running) = &mut self.tests().running
            && running.code == SHORT
        {
            running.abort.get_or_insert(ABORTED_BY_RESET);
        }
    }

    fn end_self_test(&self, result: u8, failed: Option<(u32, u64)>, hours: u64) {
        let mut tests = self.tests();
        let Some(running) = tests.running.take() else { return };
        let mut entry = [0; RESULT_LEN];
        entry[0] = running.code << 4 | result;
        entry[4..12].copy_from_slice(&hours.to_le_bytes());
        let nsid = failed.map_or(running.nsid, |(nsid, _)| nsid);
        // Valid: the namespace; and where one failed the block, and unrecovered read error.
        entry[2] = u8::from(nsid != 0);
        entry[12..16].copy_from_slice(&nsid.to_le_bytes());
        if let Some((_, lba)) = failed {
            entry[1] = 1;
            entry[2] |= 0b1110;
            entry[16..24].copy_from_slice(&lba.to_le_bytes());
            (entry[24], entry[25]) = (2, 0x81);
        }
        tests.results.push_front(entry);
        tests.results.truncate(RESULTS);
    }
}

/// Device Self-test: starts one or ends it. The command does not wait for it.
///
/// # Errors
/// The status of a command that makes no sense, or comes while a self-test is under way.
pub fn self_test(ctl: &Arc<Ctl>, cx: &Cx, sqe: &Sqe) -> Result<(), Status> {
    let background = ctl.subsystem().background();
    let nsid = sqe.nsid.get();
    let code = (sqe.dword::<10>() & 0xf) as u8;
    match code {
        SHORT | EXTENDED => {}
        0xf => {
            background.abort_self_test(ABORTED);
            return Ok(());
        }
        _ => return Err(Status::INVALID_FIELD),
    }
    let namespaces = match nsid {
        0 => Vec::new(),
        NSID_ALL => ctl.subsystem().namespaces(Some(ctl.cntlid())),
        1..=NAMESPACES_MAX => {
            vec![ctl.subsystem().attached(nsid, ctl.cntlid()).ok_or(Status::INVALID_FIELD)?]
        }
        _ => return Err(Status::INVALID_NAMESPACE),
    };
    let steps: Vec<_> = namespaces.iter().flat_map(|ns| places(ns, code)).collect();
    {
        let mut tests = background.tests();
        if tests.running.is_some() {
            return Err(Status::SELF_TEST_IN_PROGRESS);
        }
        let progress = (0, steps.len() as u64);
        tests.running = Some(Running { code, nsid, progress, abort: None });
        tests.started.get_or_insert_with(|| cx.now());
    }
    let (subsystem, task_cx) = (Arc::clone(ctl.subsystem()), Cx::clone(cx));
    cx.spawn(async move { run(&subsystem, &task_cx, steps).await });
    Ok(())
}

/// A piece of a namespace that is read.
type Place = (Arc<Namespace>, u64, u64);

/// What a self-test reads of a namespace: everything, or places all over it.
fn places(ns: &Arc<Namespace>, code: u8) -> Vec<Place> {
    let size = ns.blocks() << ns.shift();
    let all = size.div_ceil(PIECE);
    let stride = if code == EXTENDED { 1 } else { all.div_ceil(PLACES).max(1) };
    let piece = |at: u64| (Arc::clone(ns), at * PIECE, PIECE.min(size - at * PIECE));
    (0..all).step_by(stride as usize).map(piece).collect()
}

async fn run(subsystem: &Subsystem, cx: &Cx, steps: Vec<Place>) {
    let background = subsystem.background();
    let mut result = (0, None);
    for (namespace, at, len) in steps {
        let abort = background.tests().running.as_ref().and_then(|running| running.abort);
        if let Some(abort) = abort {
            result = (abort, None);
            break;
        }
        // A namespace that has gone meanwhile has nothing to fail.
        let nsid = namespace.nsid();
        if subsystem.namespace(nsid).is_none_or(|now| !Arc::ptr_eq(&now, &namespace)) {
            continue;
        }
        if background.step(read(cx, &namespace, at, len)).await.is_err() {
            result = (FAILED, Some((nsid, at >> namespace.shift())));
            break;
        }
        if let Some(running) = &mut background.tests().running {
            running.progress.0 += 1;
        }
    }
    let started = background.tests().started;
    let hours = started.map_or(0, |started| cx.now().duration_since(started).as_secs() / 3600);
    let abort = background.tests().running.as_ref().and_then(|running| running.abort);
    let (code, failed) = abort.map_or(result, |abort| (abort, None));
    background.end_self_test(code, failed, hours);
}

async fn read(cx: &Cx, namespace: &Namespace, at: u64, len: u64) -> Result<(), BlockError> {
    let range = spindle_block::Range::new(at, len);
    if namespace.marks().any() && namespace.marks().overlap(range) {
        return Err(BlockError::Medium);
    }
    let mut root = namespace.root().handle();
    // Images may shrink.
    if range.end() > root.info().size {
        return Ok(());
    }
    root.io(cx, Io::read(at, IoBuf::zeroed(len as usize))).await.1
}
