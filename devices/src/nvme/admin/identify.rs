//! Identify (Base 5.17, NVM 4.1.5).

use std::sync::Arc;

use super::{bytes::Page, features::KEEP_ALIVE_GRANULARITY, firmware, namespaces};
use crate::nvme::{
    cmd::{COPY_BLOCKS_MAX, COPY_RANGES_MAX},
    config::NAMESPACES_MAX,
    controller::Ctl,
    events::enable,
    namespace::{FORMATS, Namespace, OUI},
    spec::{NSID_ALL, PAGE, Sqe, VERSION, cns},
    status::Status,
};

/// Firmware revision as the host sees it, cut to 8 bytes.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");
/// Composite temperature at which a warning is due, in kelvins.
pub const WARNING_TEMPERATURE: u16 = 343;
/// The same, critical.
pub const CRITICAL_TEMPERATURE: u16 = 373;
/// The temperature of a disk that has none, in kelvins.
pub const TEMPERATURE: u16 = 323;
/// Error log entries less one.
pub const ERROR_ENTRIES_Z: u8 = 63;
/// Concurrent aborts less one.
pub const ABORTS_Z: u8 = 3;

/// Optional admin commands (OACS).
const OACS_FORMAT: u16 = 1 << 1;
const OACS_FIRMWARE: u16 = 1 << 2;
const OACS_NAMESPACES: u16 = 1 << 3;
const OACS_SELF_TEST: u16 = 1 << 4;
const OACS_DOORBELL_BUFFER: u16 = 1 << 8;
/// Optional NVM commands (ONCS).
const ONCS_COMPARE: u16 = 1 << 0;
const ONCS_WRITE_UNCORRECTABLE: u16 = 1 << 1;
const ONCS_RESERVATIONS: u16 = 1 << 5;
const ONCS_COPY: u16 = 1 << 8;
const ONCS_DATASET: u16 = 1 << 2;
const ONCS_WRITE_ZEROES: u16 = 1 << 3;
const ONCS_SAVE_SELECT: u16 = 1 << 4;
const ONCS_TIMESTAMP: u16 = 1 << 6;
const ONCS_VERIFY: u16 = 1 << 7;

/// What Identify answers.
///
/// # Errors
/// The status of a command that makes no sense.
pub fn identify(ctl: &Ctl, sqe: &Sqe) -> Result<Vec<u8>, Status> {
    let (kind, cntid) = (sqe.dword::<10>() as u8, (sqe.dword::<10>() >> 16) as u16);
    let csi = (sqe.dword::<11>() >> 24) as u8;
    let nsid = sqe.nsid.get();
    // The NVM command set is the only one.
    let nvm = || if csi == 0 { Ok(()) } else { Err(Status::INVALID_FIELD) };
    match kind {
        cns::CONTROLLER => Ok(controller(ctl)),
        cns::NAMESPACE if nsid == NSID_ALL => Ok(common()),
        cns::NAMESPACE => match attached(ctl, nsid)? {
            Some(ns) => Ok(namespace(&ns)),
            None => Ok(vec![0; PAGE]),
        },
        cns::ACTIVE_LIST => list(&ctl.subsystem().namespaces(Some(ctl.cntlid())), nsid),
        cns::DESCRIPTORS => {
            attached(ctl, nsid)?.map(|ns| descriptors(&ns)).ok_or(Status::INVALID_FIELD)
        }
        cns::CSI_NAMESPACE => nvm().and_then(|()| match attached(ctl, nsid)? {
            // What the NVM command set adds is about protection information: there is none.
            Some(_) => Ok(vec![0; PAGE]),
            None => Err(Status::INVALID_FIELD),
        }),
        cns::CSI_CONTROLLER => nvm().map(|()| limits()),
        cns::CSI_ACTIVE_LIST => {
            nvm().and_then(|()| list(&ctl.subsystem().namespaces(Some(ctl.cntlid())), nsid))
        }
        cns::INDEPENDENT_NAMESPACE => {
            attached(ctl, nsid)?.map(|ns| independent(&ns)).ok_or(Status::INVALID_FIELD)
        }
        cns::ALLOCATED_LIST => list(&ctl.subsystem().namespaces(None), nsid),
        cns::ALLOCATED_NAMESPACE => match allocated(ctl, nsid)? {
            Some(ns) => Ok(namespace(&ns)),
            None => Ok(vec![0; PAGE]),
        },
        cns::NAMESPACE_CONTROLLERS => {
            allocated(ctl, nsid)?.ok_or(Status::INVALID_FIELD)?;
            Ok(controllers(ctl.subsystem().attached_to(nsid).into_iter(), cntid))
        }
        cns::CONTROLLERS => {
            let all = ctl.subsystem().controllers();
            Ok(controllers(all.iter().map(|other| other.cntlid()), cntid))
        }
        cns::CSI_ALLOCATED_LIST => {
            nvm().and_then(|()| list(&ctl.subsystem().namespaces(None), nsid))
        }
        cns::CSI_ALLOCATED_NAMESPACE => nvm().and_then(|()| match allocated(ctl, nsid)? {
            Some(_) => Ok(vec![0; PAGE]),
            None => Err(Status::INVALID_FIELD),
        }),
        cns::COMMAND_SETS if cntid == 0xffff || knows(ctl, cntid) => {
            Ok(Page::new().u64(0, 1).take())
        }
        _ => Err(Status::INVALID_FIELD),
    }
}

fn knows(ctl: &Ctl, cntid: u16) -> bool {
    ctl.subsystem().controllers().iter().any(|other| other.cntlid() == cntid)
}

fn valid(nsid: u32) -> Result<(), Status> {
    if (1..=NAMESPACES_MAX).contains(&nsid) { Ok(()) } else { Err(Status::INVALID_NAMESPACE) }
}

fn attached(ctl: &Ctl, nsid: u32) -> Result<Option<Arc<Namespace>>, Status> {
    valid(nsid)?;
    Ok(ctl.subsystem().attached(nsid, ctl.cntlid()))
}

fn allocated(ctl: &Ctl, nsid: u32) -> Result<Option<Arc<Namespace>>, Status> {
    valid(nsid)?;
    Ok(ctl.subsystem().namespace(nsid))
}

/// Identify Controller (Base figure 275).
fn controller(ctl: &Ctl) -> Vec<u8> {
    let config = ctl.config();
    let capacity = namespaces::capacity(ctl.subsystem());
    let mut page = Page::new();
    page.u16(0, config.pci_ids.0)
        .u16(2, config.pci_ids.0)
        .text(4, 20, &config.serial)
        .text(24, 40, &config.model)
        .text(64, 8, &ctl.firmware().revision())
        .u8(72, 6)
        // IEEE OUI, lowest byte first.
        .bytes(73, &[OUI[2], OUI[1], OUI[0]])
        // CMIC: several controllers.
        .u8(76, u8::from(!ctl.subsystem().is_single()) << 1)
        .u8(77, config.mdts)
        .u16(78, ctl.cntlid())
        .u32(80, VERSION)
        // OAES.
        .u32(92, enable::NAMESPACES)
        // CTRATT: host identifiers of 128 bits.
        .u32(96, 1)
        // CNTRLTYPE: I/O controller.
        .u8(111, 1);
    let buffers = if config.shadow_doorbells { OACS_DOORBELL_BUFFER } else { 0 };
    page.u16(256, OACS_FORMAT | OACS_FIRMWARE | OACS_NAMESPACES | OACS_SELF_TEST | buffers)
        .u8(258, ABORTS_Z)
        .u8(259, config.event_requests_z)
        // FRMW: three slots, the first read-only; activation without a reset.
        .u8(260, 1 << 4 | firmware::SLOTS << 1 | 1)
        // LPA: effects log, extended data, supported log pages.
        .u8(261, 1 << 1 | 1 << 2 | 1 << 5)
        .u8(262, ERROR_ENTRIES_Z)
        .u16(266, WARNING_TEMPERATURE)
        .u16(268, CRITICAL_TEMPERATURE)
        .u128(280, capacity.total.into())
        .u128(296, capacity.free.into())
        // EDSTT in minutes, DSTO: one self-test in the subsystem at a time.
        .u16(316, 1)
        .u8(318, 1)
        // KAS.
        .u16(320, KEEP_ALIVE_GRANULARITY)
        // SANICAP: block erase, overwrite; what is deallocated afterwards is as the host says.
        .u32(328, 1 << 1 | 1 << 2 | 1 << 30)
        .u8(512, 0x66)
        .u8(513, 0x44)
        .u32(516, NAMESPACES_MAX)
        .u16(
            520,
            ONCS_COMPARE
                | ONCS_WRITE_UNCORRECTABLE
                | ONCS_RESERVATIONS
                | ONCS_COPY
                | ONCS_DATASET
                | ONCS_WRITE_ZEROES
                | ONCS_SAVE_SELECT
                | ONCS_TIMESTAMP
                | ONCS_VERIFY,
        )
        // FUSES: compare and write.
        .u16(522, 1)
        // VWC: present; a flush of all namespaces is understood.
        .u8(525, 1 | 3 << 1)
        // ACWU: as much as a transfer can have, less one.
        .u16(532, (config.transfer_max() / 512 - 1).min(0xffff) as u16)
        // OCFS: copy descriptor format 0.
        .u16(534, 1)
        // SGLS: no alignment; bit buckets; longer than the data is fine.
        .u32(536, 1 | 1 << 16 | 1 << 18)
        .u32(540, NAMESPACES_MAX)
        .bytes(768, ctl.subsystem().nqn().as_bytes())
        // Power state 0: 25 W at most.
        .u16(2048, 2500);
    page.take()
}

/// Identify Controller of the NVM command set (NVM 4.1.5.4): no limits beyond the others.
fn limits() -> Vec<u8> {
    Page::new()
        // DMRL: ranges of Dataset Management.
        .u8(2, 255)
        .take()
}

/// Block formats: 512 and 4096 bytes without metadata; the larger is better.
fn formats(page: &mut Page) {
    page.u8(25, FORMATS.len() as u8 - 1);
    for (i, shift) in FORMATS.into_iter().enumerate() {
        page.bytes(128 + i * 4, &[0, 0, shift, if shift == 12 { 0 } else { 1 }]);
    }
}

/// What all namespaces have in common (NVM 4.1.5.1).
fn common() -> Vec<u8> {
    let mut page = Page::new();
    page.u8(24, 1 << 4);
    formats(&mut page);
    page.take()
}

/// Identify Namespace (NVM figure 97).
pub fn namespace(ns: &Namespace) -> Vec<u8> {
    let info = ns.root().info();
    let shift = ns.shift();
    let blocks = info.size >> shift;
    let format = FORMATS.iter().position(|known| *known == shift).unwrap_or(0);
    let mut page = Page::new();
    // In blocks less one; what a host had better write and discard at once.
    let unit = |bytes: u32| (u64::from(bytes) >> shift).clamp(1, 65536) as u16 - 1;
    let hints = ns.hints();
    let write = hints.write.unwrap_or(info.preferred_write);
    let optimal = unit(hints.optimal_write.unwrap_or(write));
    let write = unit(write);
    let discard = unit(hints.discard.unwrap_or(info.discard_granularity));
    page.u64(0, blocks)
        .u64(8, blocks)
        .u64(16, blocks)
        // NSFEAT: deallocated blocks are told apart by no error; NPWG and its kin are valid.
        .u8(24, 1 << 4)
        .u8(26, format as u8)
        .u8(30, u8::from(ns.is_shared()))
        // RESCAP: every type, persistence.
        .u8(31, 0xff)
        // DLFEAT: Write Zeroes may deallocate.
        .u8(33, 1 << 3)
        // NVMCAP.
        .u128(48, info.size.into())
        // NPWG, NPWA, NPDG, NPDA, NOWS.
        .u16(64, write)
        .u16(66, write)
        .u16(68, discard)
        .u16(70, discard)
        .u16(72, optimal)
        // MSSRL, MCL, MSRC: what a copy can have.
        .u16(74, COPY_BLOCKS_MAX as u16)
        .u32(76, COPY_BLOCKS_MAX)
        .u8(80, COPY_RANGES_MAX as u8 - 1)
        // NSATTR: write protected.
        .u8(99, u8::from(info.read_only))
        .bytes(104, &ns.ids().nguid)
        .bytes(120, &ns.ids().eui64);
    formats(&mut page);
    page.take()
}

/// I/O command set independent Identify Namespace (Base figure 280).
fn independent(ns: &Namespace) -> Vec<u8> {
    Page::new()
        .u8(1, u8::from(ns.is_shared()))
        .u8(2, 0xff)
        .u8(13, u8::from(ns.is_read_only()))
        // NSTAT: ready.
        .u8(14, 1)
        .take()
}

/// Namespace Identification Descriptors (Base figure 277).
fn descriptors(ns: &Namespace) -> Vec<u8> {
    let ids = ns.ids();
    let mut bytes = Vec::new();
    let kinds: [(u8, &[u8]); 4] = [(1, &ids.eui64), (2, &ids.nguid), (3, &ids.uuid), (4, &[0])];
    for (kind, id) in kinds {
        bytes.extend([kind, id.len() as u8, 0, 0]);
        bytes.extend(id);
    }
    Page::new().bytes(0, &bytes).take()
}

/// IDs of namespaces above `after`, in order (Base figure 276).
fn list(namespaces: &[Arc<Namespace>], after: u32) -> Result<Vec<u8>, Status> {
    if after >= 0xffff_fffe {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut page = Page::new();
    let ids = namespaces.iter().map(|ns| ns.nsid()).filter(|nsid| *nsid > after);
    ids.take(PAGE / 4).enumerate().for_each(|(i, nsid)| {
        page.u32(i * 4, nsid);
    });
    Ok(page.take())
}

/// A controller list (Base figure 46): those with at least this ID.
fn controllers(ids: impl Iterator<Item = u16>, from: u16) -> Vec<u8> {
    let ids: Vec<u16> = ids.filter(|id| *id >= from).take(2047).collect();
    let mut page = Page::new();
    page.u16(0, ids.len() as u16);
    ids.iter().enumerate().for_each(|(i, id)| {
        page.u16(2 + i * 2, *id);
    });
    page.take()
}
