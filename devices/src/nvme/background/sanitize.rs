//! Sanitize (Base 5.24, 8.21): everything in every namespace of the subsystem is erased, whatever
//! happens in between. How far it is, is in each namespace's state; after a power loss it goes on.

use std::sync::Arc;

use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range, RootHandle};

use super::{Background, self_test::ABORTED_BY_SANITIZE};
use crate::{
    nvme::{
        controller::Ctl,
        exclusive::Alone,
        namespace::{Gate, Namespace},
        spec::{Sqe, event},
        status::Status,
        subsystem::Subsystem,
    },
    state_file::{Fields, Section},
};

/// The section of the state that says how far a namespace is.
pub const SECTION: &str = "nvme/sanitize";
const VERSION: u16 = 1;
/// Bytes that a step erases, or overwrites.
const ERASE_STEP: u64 = 256 << 20;
const WRITE_STEP: u64 = 1 << 20;
/// How often a namespace's progress is saved, in bytes.
const SAVE_EVERY: u64 = 256 << 20;

/// Sanitize status (Base figure 263).
const NEVER: u16 = 0;
const COMPLETED: u16 = 1;
const IN_PROGRESS: u16 = 2;
const FAILED: u16 = 3;

/// Dword 10 of the command.
mod dword10 {
    pub const EXIT_FAILURE: u32 = 1;
    pub const BLOCK_ERASE: u32 = 2;
    pub const OVERWRITE: u32 = 3;
    pub const UNRESTRICTED: u32 = 1 << 3;
    pub const INVERT: u32 = 1 << 8;
    pub const KEEP: u32 = 1 << 9;
}

/// How far a namespace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    status: u16,
    dword10: u32,
    pattern: u32,
    /// Passes done, and bytes of the next.
    pass: u32,
    offset: u64,
}

impl Record {
    /// What a section holds; nothing where it makes no sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Self {
        let parse = |bytes: &[u8]| {
            let mut fields = Fields::new(bytes);
            Ok::<_, crate::state_file::Truncated>(Self {
                status: fields.u16()?,
                dword10: fields.u32()?,
                pattern: fields.u32()?,
                pass: fields.u32()?,
                offset: fields.u64()?,
            })
        };
        section
            .filter(|section| section.version == VERSION)
            .and_then(|section| parse(&section.bytes).ok())
            .filter(|record| record.status <= FAILED)
            .unwrap_or_default()
    }

    fn section(&self) -> Section {
        let mut bytes = self.status.to_le_bytes().to_vec();
        bytes.extend(self.dword10.to_le_bytes());
        bytes.extend(self.pattern.to_le_bytes());
        bytes.extend(self.pass.to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
        Section { version: VERSION, bytes }
    }

    /// The gate that a namespace begins with.
    #[must_use]
    pub fn gate(&self) -> Gate {
        match self.status {
            IN_PROGRESS => Gate::Sanitize,
            FAILED => Gate::SanitizeFailed,
            _ => Gate::Open,
        }
    }

    fn passes(&self) -> u32 {
        match self.dword10 & 7 {
            dword10::OVERWRITE => match self.dword10 >> 4 & 0xf {
                0 => 16,
                passes => passes,
            },
            _ => 1,
        }
    }

    /// What a pass writes.
    fn pattern(&self) -> u32 {
        let odd = self.pass % 2 == 1;
        if odd && self.dword10 & dword10::INVERT != 0 { !self.pattern } else { self.pattern }
    }
}

/// The sanitize operation of a subsystem.
#[derive(Default)]
pub struct Sanitize {
    record: Record,
    running: bool,
    /// Bytes done and in all.
    progress: (u64, u64),
}

impl Background {
    /// The sanitize log (Base figure 262).
    #[must_use]
    pub fn sanitize_page(&self) -> Vec<u8> {
        let sanitize = self.sanitizing();
        let (done, all) = sanitize.progress;
        let progress = if sanitize.record.status == IN_PROGRESS {
            (u128::from(done) * 65536 / u128::from(all.max(1))).min(65535) as u16
        } else {
            0xffff
        };
        let passes = if sanitize.record.status == COMPLETED { sanitize.record.passes() } else { 0 };
        let overwrite = sanitize.record.dword10 & 7 == dword10::OVERWRITE;
        let passes = if overwrite { passes as u16 & 0x1f } else { 0 };
        let mut page = vec![0; 512];
        page[..2].copy_from_slice(&progress.to_le_bytes());
        page[2..4].copy_from_slice(&(sanitize.record.status | passes << 3).to_le_bytes());
        page[4..8].copy_from_slice(&sanitize.record.dword10.to_le_bytes());
        // No time is estimated.
        page[8..32].fill(0xff);
        page
    }

    /// What commands end with that a sanitize operation keeps out.
    ///
    /// # Errors
    /// When one is under way, or has failed.
    pub fn sanitize_status(&self) -> Result<(), Status> {
        match self.sanitizing().record.status {
            IN_PROGRESS => Err(Status::SANITIZE_IN_PROGRESS),
            FAILED => Err(Status::SANITIZE_FAILED),
            _ => Ok(()),
        }
    }
}

/// Sanitize: starts an operation. The command does not wait for its end.
///
/// # Errors
/// The status of a command that makes no sense, or comes at the wrong time.
pub async fn sanitize(ctl: &Arc<Ctl>, cx: &Cx, sqe: &Sqe) -> Result<(), Status> {
    let subsystem = ctl.subsystem();
    let background = subsystem.background();
    let dword10 = sqe.dword::<10>();
    let before = {
        let sanitize = background.sanitizing();
        if sanitize.record.status == IN_PROGRESS {
            return Err(Status::SANITIZE_IN_PROGRESS);
        }
        sanitize.record
    };
    match dword10 & 7 {
        dword10::BLOCK_ERASE | dword10::OVERWRITE => {}
        dword10::EXIT_FAILURE => return exit_failure(subsystem, before).await,
        _ => return Err(Status::INVALID_FIELD),
    }
    let restricted = before.dword10 & dword10::UNRESTRICTED == 0;
    if before.status == FAILED && restricted && dword10 & dword10::UNRESTRICTED != 0 {
        return Err(Status::SANITIZE_FAILED);
    }
    let namespaces = subsystem.namespaces(None);
    if namespaces.iter().any(|ns| ns.is_read_only()) {
        return Err(Status::WRITE_PROTECTED);
    }
    if namespaces.iter().any(|ns| !ns.allows(|| ctl.host(), true)) {
        return Err(Status::RESERVATION_CONFLICT);
    }
    let record =
        Record { status: IN_PROGRESS, dword10, pattern: sqe.dword::<11>(), pass: 0, offset: 0 };
    let mut work = Vec::new();
    for ns in namespaces {
        work.push((Alone::new(subsystem, &ns, Gate::Sanitize).await?, record));
    }
    // From here on it goes on, whatever happens.
    for (alone, record) in &work {
        if let Err(status) = alone.namespace().save(SECTION, record.section()).await {
            // Nothing has been erased: those that were saved must not go on after a power loss.
            for (alone, _) in &work {
                alone.namespace().save(SECTION, before.section()).await.ok();
            }
            return Err(status);
        }
    }
    background.abort_self_test(ABORTED_BY_SANITIZE);
    start(subsystem, cx, record, work);
    Ok(())
}

async fn exit_failure(subsystem: &Subsystem, before: Record) -> Result<(), Status> {
    if before.status != FAILED {
        return Ok(());
    }
    if before.dword10 & dword10::UNRESTRICTED == 0 {
        return Err(Status::SANITIZE_FAILED);
    }
    for ns in subsystem.namespaces(None) {
        ns.save(SECTION, Record::default().section()).await?;
        ns.open();
    }
    subsystem.background().sanitizing().record = Record { status: NEVER, ..before };
    Ok(())
}

/// A controller is enabled: an operation that a power loss has interrupted goes on.
pub fn resume(subsystem: &Arc<Subsystem>, cx: &Cx) {
    if subsystem.background().sanitizing().running {
        return;
    }
    let mut work = Vec::new();
    let mut latest = Record::default();
    for ns in subsystem.namespaces(None) {
        let record = Record::load(ns.section(SECTION).as_ref());
        if record.status > latest.status {
            latest = record;
        }
        if record.status == IN_PROGRESS {
            work.push((Alone::adopt(Arc::clone(subsystem), Arc::clone(&ns)), record));
        }
    }
    if work.is_empty() {
        let mut sanitize = subsystem.background().sanitizing();
        if sanitize.record.status == NEVER {
            sanitize.record = latest;
        }
        return;
    }
    start(subsystem, cx, latest, work);
}

type Work = Vec<(Alone, Record)>;

fn start(subsystem: &Arc<Subsystem>, cx: &Cx, record: Record, work: Work) {
    {
        let mut sanitize = subsystem.background().sanitizing();
        let size = |alone: &Alone| alone.namespace().root().info().size;
        let all = work.iter().map(|(a, r)| size(a) * u64::from(r.passes())).sum();
        let done = work.iter().map(|(a, r)| size(a) * u64::from(r.pass) + r.offset).sum();
        *sanitize = Sanitize { record, running: true, progress: (done, all) };
    }
    let (subsystem, task_cx) = (Arc::clone(subsystem), Cx::clone(cx));
    cx.spawn(async move {
        let mut failed = false;
        for (mut alone, record) in work {
            if let Err(status) = erase(&subsystem, &task_cx, &alone, record).await {
                log::warn!("namespace {}: sanitize failed: {status:?}", alone.namespace().nsid());
                let record = Record { status: FAILED, ..record };
                alone.namespace().save(SECTION, record.section()).await.ok();
                alone.leave(Gate::SanitizeFailed);
                failed = true;
            }
        }
        {
            let mut sanitize = subsystem.background().sanitizing();
            sanitize.running = false;
            sanitize.record.status = if failed { FAILED } else { COMPLETED };
        }
        for controller in subsystem.controllers() {
            controller.raise_event(event::SANITIZE);
        }
    });
}

/// Erases one namespace, from where its record says.
async fn erase(
    subsystem: &Subsystem,
    cx: &Cx,
    alone: &Alone,
    mut record: Record,
) -> Result<(), Status> {
    let (ns, background) = (alone.namespace(), subsystem.background());
    let mut root = ns.root().handle();
    let size = root.info().size;
    let mut unsaved = 0;
    while record.pass < record.passes() {
        while record.offset < size {
            let n = background.step(step(cx, &mut root, record, size)).await;
            let n = n.map_err(|error| Status::of(error, Op::Write { fua: false }))?;
            record.offset += n;
            background.sanitizing().progress.0 += n;
            unsaved += n;
            if unsaved >= SAVE_EVERY {
                unsaved = 0;
                // What the record says is done must be.
                background.step(flush(cx, &mut root)).await?;
                ns.save(SECTION, record.section()).await?;
            }
        }
        (record.pass, record.offset) = (record.pass + 1, 0);
        background.step(flush(cx, &mut root)).await?;
        ns.save(SECTION, record.section()).await?;
    }
    let overwritten = record.dword10 & 7 == dword10::OVERWRITE;
    if overwritten && record.dword10 & dword10::KEEP == 0 {
        let discard = Io::bare(Op::Discard, Range::new(0, size));
        // Only to give space back: the old data is gone.
        background.step(root.io(cx, discard)).await.1.ok();
    }
    ns.unmark(Range::new(0, u64::MAX)).await?;
    record.status = COMPLETED;
    ns.save(SECTION, record.section()).await
}

async fn flush(cx: &Cx, root: &mut RootHandle) -> Result<(), Status> {
    let (_, result) = root.io(cx, Io::flush()).await;
    result.map_err(|error| Status::of(error, Op::Flush))
}

/// One step of a pass; returns how many bytes it did.
async fn step(
    cx: &Cx,
    root: &mut RootHandle,
    record: Record,
    size: u64,
) -> Result<u64, BlockError> {
    if record.dword10 & 7 == dword10::OVERWRITE {
        let len = (size - record.offset).min(WRITE_STEP);
        let words = record.pattern().to_le_bytes();
        let bytes: Vec<u8> = words.into_iter().cycle().take(len as usize).collect();
        let write = Io::write(record.offset, IoBuf::from_slice(&bytes));
        return root.io(cx, write).await.1.map(|()| len);
    }
    let len = (size - record.offset).min(ERASE_STEP);
    let op = Op::WriteZeroes { unmap: record.dword10 & dword10::KEEP == 0, fua: false };
    root.io(cx, Io::bare(op, Range::new(record.offset, len))).await.1.map(|()| len)
}

/// The namespace's own part of a sanitize operation.
impl Namespace {
    fn section(&self, name: &str) -> Option<Section> {
        self.state().get(name)
    }
}
