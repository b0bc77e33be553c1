//! Get Log Page (Base 5.16).

use std::collections::VecDeque;

use super::{
    bytes::Page,
    features::FEATURES,
    identify::{ERROR_ENTRIES_Z, TEMPERATURE},
};
use crate::nvme::{
    controller::Ctl,
    spec::{NSID_ALL, Sqe, admin, log_page, nvm},
    status::Status,
};

/// A command that failed (Base figure 203).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Counts all errors of the controller's life, from 1.
    pub count: u64,
    /// Submission queue.
    pub sq: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status field without the phase tag.
    pub status: u16,
    /// First logical block, where there is one.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
}

/// The latest failed commands, the latest first.
#[derive(Debug, Default)]
pub struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorEntry>,
}

impl ErrorLog {
    /// An empty log of a controller that has had so many errors before.
    #[must_use]
    pub fn after(count: u64) -> Self {
        Self { count, ..Self::default() }
    }

    /// Notes a failed command.
    pub fn add(&mut self, entry: ErrorEntry) {
        self.count += 1;
        if self.entries.len() > usize::from(ERROR_ENTRIES_Z) {
            self.entries.pop_back();
        }
        self.entries.push_front(ErrorEntry { count: self.count, ..entry });
    }

    /// Errors of the controller's life.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    fn page(&self) -> Vec<u8> {
        let mut page = Page::with_len(64 * (usize::from(ERROR_ENTRIES_Z) + 1));
        for (i, entry) in self.entries.iter().enumerate() {
            let at = i * 64;
            page.u64(at, entry.count)
                .u16(at + 8, entry.sq)
                .u16(at + 10, entry.cid)
                .u16(at + 12, entry.status << 1)
                // Where in the command the fault is, is not known.
                .u16(at + 14, 0xffff)
                .u64(at + 16, entry.lba)
                .u32(at + 24, entry.nsid);
        }
        page.take()
    }
}

/// The log pages that there are.
pub const LOG_PAGES: &[u8] = &[
    log_page::SUPPORTED,
    log_page::ERRORS,
    log_page::HEALTH,
    log_page::FIRMWARE,
    log_page::CHANGED_NAMESPACES,
    log_page::EFFECTS,
    log_page::FEATURES,
    log_page::SELF_TEST,
    log_page::RESERVATIONS,
    log_page::SANITIZE,
];

/// What of the admin queue's state logs show.
pub struct Sources<'a> {
    /// The controller.
    pub ctl: &'a Ctl,
    /// The temperature is outside of the host's thresholds.
    pub hot: bool,
    /// Minutes that the controller has run since the machine was started.
    pub minutes: u64,
}

/// Effects of a command (Base figure 210).
const SUPPORTED: u32 = 1;
const CHANGES_DATA: u32 = 1 << 1;
const CHANGES_NAMESPACES: u32 = 1 << 2;
/// Nothing else may be submitted to the same namespace meanwhile.
const ALONE: u32 = 1 << 16;

/// Admin commands and what they change.
pub const ADMIN_COMMANDS: &[(u8, u32)] = &[
    (admin::DELETE_SQ, SUPPORTED),
    (admin::CREATE_SQ, SUPPORTED),
    (admin::GET_LOG_PAGE, SUPPORTED),
    (admin::DELETE_CQ, SUPPORTED),
    (admin::CREATE_CQ, SUPPORTED),
    (admin::IDENTIFY, SUPPORTED),
    (admin::ABORT, SUPPORTED),
    (admin::SET_FEATURES, SUPPORTED),
    (admin::GET_FEATURES, SUPPORTED),
    (admin::ASYNC_EVENT, SUPPORTED),
    (admin::KEEP_ALIVE, SUPPORTED),
    (admin::DOORBELL_BUFFER, SUPPORTED),
    (admin::NAMESPACE_MANAGEMENT, SUPPORTED | CHANGES_NAMESPACES),
    (admin::NAMESPACE_ATTACHMENT, SUPPORTED | CHANGES_NAMESPACES),
    (admin::FIRMWARE_COMMIT, SUPPORTED),
    (admin::FIRMWARE_DOWNLOAD, SUPPORTED),
    (admin::SELF_TEST, SUPPORTED),
    (admin::SANITIZE, SUPPORTED | CHANGES_DATA | ALONE),
    (admin::FORMAT, SUPPORTED | CHANGES_DATA | CHANGES_NAMESPACES | ALONE),
];

/// I/O commands and what they change.
pub const IO_COMMANDS: &[(u8, u32)] = &[
    (nvm::FLUSH, SUPPORTED | CHANGES_DATA),
    (nvm::WRITE, SUPPORTED | CHANGES_DATA),
    (nvm::READ, SUPPORTED),
    (nvm::COMPARE, SUPPORTED),
    (nvm::WRITE_ZEROES, SUPPORTED | CHANGES_DATA),
    (nvm::DATASET, SUPPORTED | CHANGES_DATA),
    (nvm::VERIFY, SUPPORTED),
    (nvm::WRITE_UNCORRECTABLE, SUPPORTED | CHANGES_DATA),
    (nvm::COPY, SUPPORTED | CHANGES_DATA),
    (nvm::RESERVATION_REGISTER, SUPPORTED),
    (nvm::RESERVATION_REPORT, SUPPORTED),
    (nvm::RESERVATION_ACQUIRE, SUPPORTED),
    (nvm::RESERVATION_RELEASE, SUPPORTED),
];

/// What Get Log Page answers: exactly as many bytes as it asks for.
///
/// # Errors
/// The status of a command that makes no sense.
pub fn get(sources: &Sources<'_>, errors: &ErrorLog, sqe: &Sqe) -> Result<Vec<u8>, Status> {
    let (dw10, dw11) = (sqe.dword::<10>(), sqe.dword::<11>());
    let dwords = u64::from(dw10 >> 16) | u64::from(dw11 & 0xffff) << 16;
    let len = (dwords + 1) * 4;
    let offset = u64::from(sqe.dword::<12>()) | u64::from(sqe.dword::<13>()) << 32;
    if len > sources.ctl.config().transfer_max() || offset & 3 != 0 {
        return Err(Status::INVALID_FIELD);
    }
    let (id, keep) = (dw10 as u8, dw10 & 1 << 15 != 0);
    let page = page(sources, errors, sqe, id, keep)?;
    if offset > page.len() as u64 {
        return Err(Status::INVALID_FIELD);
    }
    if !keep {
        sources.ctl.events().log_read(id);
    }
    let mut bytes = page[offset as usize..].to_vec();
    bytes.resize(len as usize, 0);
    Ok(bytes)
}

fn page(
    sources: &Sources<'_>,
    errors: &ErrorLog,
    sqe: &Sqe,
    id: u8,
    keep: bool,
) -> Result<Vec<u8>, Status> {
    match id {
        log_page::SUPPORTED => {
            let mut page = Page::with_len(1024);
            for id in LOG_PAGES {
                page.u32(usize::from(*id) * 4, 1);
            }
            Ok(page.take())
        }
        log_page::ERRORS => Ok(errors.page()),
        // One health for the controller: namespaces have none of their own.
        log_page::HEALTH if sqe.nsid.get() != 0 && sqe.nsid.get() != NSID_ALL => {
            Err(Status::INVALID_FIELD)
        }
        log_page::HEALTH => Ok(health(sources, errors)),
        log_page::FIRMWARE => {
            let (active, next, revisions) = sources.ctl.firmware().state();
            let mut page = Page::with_len(512);
            page.u8(0, active | next << 4);
            for (i, revision) in revisions.iter().enumerate() {
                if let Some(revision) = revision {
                    page.text(8 + i * 8, 8, revision);
                }
            }
            Ok(page.take())
        }
        log_page::CHANGED_NAMESPACES => {
            let mut page = Page::new();
            let list = sources.ctl.events().changed_namespaces(!keep);
            list.iter().enumerate().for_each(|(i, nsid)| {
                page.u32(i * 4, *nsid);
            });
            Ok(page.take())
        }
        log_page::EFFECTS => {
            let mut page = Page::new();
            let shadows = sources.ctl.config().shadow_doorbells;
            for (opcode, effects) in ADMIN_COMMANDS {
                if *opcode != admin::DOORBELL_BUFFER || shadows {
                    page.u32(usize::from(*opcode) * 4, *effects);
                }
            }
            for (opcode, effects) in IO_COMMANDS {
                page.u32(1024 + usize::from(*opcode) * 4, *effects);
            }
            Ok(page.take())
        }
        log_page::FEATURES => {
            let mut page = Page::with_len(1024);
            for feature in FEATURES {
                let scope = if feature.per_namespace { 1 << 20 } else { 1 << 21 };
                page.u32(usize::from(feature.id) * 4, SUPPORTED | scope);
            }
            Ok(page.take())
        }
        log_page::SELF_TEST => Ok(sources.ctl.subsystem().background().self_test_page()),
        log_page::SANITIZE => Ok(sources.ctl.subsystem().background().sanitize_page()),
        log_page::RESERVATIONS => {
            let mut page = Page::with_len(64);
            if let Some((notice, nsid, behind)) = sources.ctl.oldest_notice(!keep) {
                page.u64(0, 1).u8(8, notice as u8).u8(9, behind as u8).u32(12, nsid);
            }
            Ok(page.take())
        }
        _ => Err(Status::INVALID_LOG_PAGE),
    }
}

/// SMART / Health Information (Base figure 207).
fn health(sources: &Sources<'_>, errors: &ErrorLog) -> Vec<u8> {
    let all = sources.ctl.health(sources.minutes, errors.count());
    // Thousands of 512-byte units, rounded up.
    let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
    Page::with_len(512)
        .u8(0, u8::from(sources.hot) << 1)
        .u16(1, TEMPERATURE)
        // Available spare and its threshold, in per cent.
        .u8(3, 100)
        .u8(4, 10)
        .u128(32, units(all.read_bytes))
        .u128(48, units(all.written_bytes))
        .u128(64, all.reads.into())
        .u128(80, all.writes.into())
        // Busy time in minutes, power cycles, hours.
        .u128(96, (all.busy_ns / 60_000_000_000).into())
        .u128(112, all.power_cycles.into())
        .u128(128, (all.minutes / 60).into())
        .u128(176, all.errors.into())
        .take()
}
