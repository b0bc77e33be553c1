//! Get Features and Set Features (Base 5.15, 5.27; NVM 4.1.3).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Instant,
};

use super::bytes::Page;
use crate::nvme::{
    config::NAMESPACES_MAX,
    controller::Ctl,
    namespace::Namespace,
    reservation::Host,
    spec::{NSID_ALL, Sqe, feature},
    status::Status,
};
use crate::state_file::{Fields, Section};

/// One feature as a table row: its capabilities are what Select 3 answers (Base figure 193).
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Feature identifier.
    pub id: u8,
    /// Value after a reset.
    pub default: u32,
    /// Set Features changes it.
    pub changeable: bool,
    /// Each namespace has its own.
    pub per_namespace: bool,
    /// Its value can be saved, to be there after a reset.
    pub saveable: bool,
}

const fn known(id: u8, default: u32) -> Known {
    Known { id, default, changeable: true, per_namespace: false, saveable: false }
}

const fn saveable(id: u8, default: u32) -> Known {
    Known { saveable: true, ..known(id, default) }
}

/// The features that there are.
pub const FEATURES: &[Known] = &[
    saveable(feature::ARBITRATION, 0),
    known(feature::POWER, 0),
    saveable(feature::TEMPERATURE, super::identify::WARNING_TEMPERATURE as u32),
    Known { per_namespace: true, ..known(feature::ERROR_RECOVERY, 0) },
    saveable(feature::WRITE_CACHE, 1),
    known(feature::QUEUES, 0),
    saveable(feature::COALESCING, 0),
    known(feature::VECTOR, 0),
    saveable(feature::ATOMICITY, 0),
    saveable(feature::ASYNC_EVENTS, 0x1ff),
    known(feature::TIMESTAMP, 0),
    known(feature::KEEP_ALIVE, 0),
    known(feature::HOST_IDENTIFIER, 0),
    Known { per_namespace: true, ..known(feature::RESERVATION_MASK, 0) },
    Known { per_namespace: true, ..known(feature::RESERVATION_PERSISTENCE, 0) },
];

/// Bytes that a feature's data structure has.
pub const TIMESTAMP_LEN: usize = 8;

/// The features' values. Those that belong to a queue or a namespace are theirs.
pub struct Features {
    power: u32,
    /// Over and under temperature thresholds of the composite temperature, in kelvins.
    temperatures: [u16; 2],
    error_recovery: u32,
    atomicity: u32,
    /// Milliseconds since 1970, when that was so, and whether the host set it.
    timestamp: (u64, Option<Instant>, bool),
    /// I/O queues that the host asked for: submission, completion.
    pub queues: Option<(u16, u16)>,
    /// Values to begin with after a reset, by feature and selector.
    saved: BTreeMap<(u8, u8), u32>,
    /// Keep Alive Timeout in milliseconds; 0: none.
    pub keep_alive: u32,
}

/// The section of the state that has the saved values.
pub const SECTION: &str = "nvme/features";
const VERSION: u16 = 1;
/// Keep Alive Support: the granularity of its timeout, in units of 100 ms.
pub const KEEP_ALIVE_GRANULARITY: u16 = 1;

/// Which of several values of a feature dword 11 names.
fn selector(id: u8, dword11: u32) -> u8 {
    if id == feature::TEMPERATURE { (dword11 >> 20 & 3) as u8 } else { 0 }
}

fn load(section: Option<&Section>) -> BTreeMap<(u8, u8), u32> {
    let mut saved = BTreeMap::new();
    let Some(section) = section.filter(|section| section.version == VERSION) else { return saved };
    let mut fields = Fields::new(&section.bytes);
    while let (Ok(id), Ok(selector), Ok(value)) = (fields.u8(), fields.u8(), fields.u32()) {
        if FEATURES.iter().any(|known| known.id == id && known.saveable) {
            saved.insert((id, selector), value);
        }
    }
    saved
}

/// What Set Features answers, or what Get Features does.
pub struct Value {
    /// Dword 0 of the completion.
    pub result: u32,
    /// What is transferred to the host.
    pub data: Option<Vec<u8>>,
}

impl From<u32> for Value {
    fn from(result: u32) -> Self {
        Self { result, data: None }
    }
}

impl Features {
    /// As after a reset: saved values are in force.
    #[must_use]
    pub fn new(ctl: &Ctl) -> Self {
        let mut features = Self {
            power: 0,
            temperatures: [super::identify::WARNING_TEMPERATURE, 0],
            error_recovery: 0,
            atomicity: 0,
            timestamp: (0, None, false),
            queues: None,
            saved: load(ctl.config().state.get(SECTION).as_ref()),
            keep_alive: 0,
        };
        for ((id, _), value) in features.saved.clone() {
            // What was saved was good then; what is not any more is left at its default.
            features.change(ctl, id, value).ok();
        }
        features
    }

    /// Changes a feature that has nothing but a value.
    fn change(&mut self, ctl: &Ctl, id: u8, value: u32) -> Result<(), Status> {
        match id {
            feature::ARBITRATION => ctl.set_arbitration(value & 0xffff_ff07),
            feature::TEMPERATURE => self.set_threshold(ctl, value)?,
            feature::WRITE_CACHE => set_write_cache(ctl, value & 1 != 0),
            feature::COALESCING => ctl.set_coalescing(value & 0xffff),
            feature::ATOMICITY => self.atomicity = value & 1,
            feature::ASYNC_EVENTS => ctl.events().enabled = value,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    /// What is to be saved after a Set Features command that asked for it.
    #[must_use]
    pub fn section(&self) -> Section {
        let mut bytes = Vec::new();
        for ((id, selector), value) in &self.saved {
            bytes.extend([*id, *selector]);
            bytes.extend(value.to_le_bytes());
        }
        Section { version: VERSION, bytes }
    }

    fn find(id: u8) -> Result<&'static Known, Status> {
        FEATURES.iter().find(|known| known.id == id).ok_or(Status::INVALID_FIELD)
    }

    /// Get Features.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn get(&self, ctl: &Ctl, sqe: &Sqe, now: Instant) -> Result<Value, Status> {
        let known = Self::find(sqe.dword::<10>() as u8)?;
        namespace(ctl, known, sqe.nsid.get())?;
        match sqe.dword::<10>() >> 8 & 7 {
            0 => self.current(ctl, known.id, (sqe.nsid.get(), sqe.dword::<11>()), now),
            1 => self.default(ctl, known, sqe.dword::<11>()),
            // A value that was never saved is the default one (Base 5.15.1).
            2 => {
                let dword11 = sqe.dword::<11>();
                match self.saved.get(&(known.id, selector(known.id, dword11))) {
                    Some(value) if known.id == feature::TEMPERATURE => Ok((value & 0xffff).into()),
                    Some(value) => Ok((*value).into()),
                    None => self.default(ctl, known, dword11),
                }
            }
            3 => {
                let bit = |on: bool, at: u32| u32::from(on) << at;
                let capabilities = bit(known.changeable, 2) | bit(known.per_namespace, 1);
                Ok((capabilities | bit(known.saveable, 0)).into())
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn default(&self, ctl: &Ctl, known: &Known, dword11: u32) -> Result<Value, Status> {
        match known.id {
            feature::QUEUES => Ok(queue_count(ctl).into()),
            feature::TEMPERATURE if dword11 >> 20 & 3 == 1 => Ok(0.into()),
            feature::VECTOR => Ok((dword11 & 0xffff).into()),
            feature::TIMESTAMP => Ok(Value { result: 0, data: Some(vec![0; TIMESTAMP_LEN]) }),
            feature::HOST_IDENTIFIER => {
                let len = if dword11 & 1 != 0 { 16 } else { 8 };
                Ok(Value { result: 0, data: Some(vec![0; len]) })
            }
            _ => Ok(known.default.into()),
        }
    }

    fn current(
        &self,
        ctl: &Ctl,
        id: u8,
        (nsid, dword11): (u32, u32),
        now: Instant,
    ) -> Result<Value, Status> {
        let value = match id {
            feature::ARBITRATION => ctl.arbitration().value,
            feature::POWER => self.power,
            feature::TEMPERATURE => self.threshold(dword11)?.into(),
            feature::ERROR_RECOVERY => self.error_recovery,
            feature::WRITE_CACHE => u32::from(write_cache(ctl)),
            feature::QUEUES => self.queues.map_or_else(
                || queue_count(ctl),
                |(sqs, cqs)| u32::from(sqs - 1) | u32::from(cqs - 1) << 16,
            ),
            feature::COALESCING => ctl.coalescing(),
            feature::VECTOR => {
                let vector = dword11 & 0xffff;
                let off = ctl.uncoalesced(vector as u16).ok_or(Status::INVALID_FIELD)?;
                vector | u32::from(off.load(SeqCst)) << 16
            }
            feature::ATOMICITY => self.atomicity,
            feature::ASYNC_EVENTS => ctl.events().enabled,
            feature::HOST_IDENTIFIER => {
                let extended = dword11 & 1 != 0;
                let id = match ctl.host() {
                    Host::Id(id) => id,
                    Host::Controller(_) => [0; 16],
                };
                if ctl.host_is_extended().is_some_and(|is| is != extended) {
                    return Err(Status::HOST_ID_INCONSISTENT);
                }
                let len = if extended { 16 } else { 8 };
                return Ok(Value { result: 0, data: Some(id[..len].to_vec()) });
            }
            feature::KEEP_ALIVE => self.keep_alive,
            feature::RESERVATION_MASK => ctl.notice_mask(nsid),
            feature::RESERVATION_PERSISTENCE => {
                let ns = ctl.subsystem().attached(nsid, ctl.cntlid());
                u32::from(ns.ok_or(Status::INVALID_NAMESPACE)?.reservations().persist)
            }
            feature::TIMESTAMP => {
                let (base, since, set) = self.timestamp;
                let elapsed = since.map_or(0, |since| now.duration_since(since).as_millis() as u64);
                // Origin: 1 when the host has set it (Base figure 331).
                let origin = u64::from(set) << 49;
                let data = Page::with_len(TIMESTAMP_LEN)
                    .u64(0, base.wrapping_add(elapsed) & 0xffff_ffff_ffff | origin)
                    .take();
                return Ok(Value { result: 0, data: Some(data) });
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok(value.into())
    }

    /// Which of the thresholds dword 11 names, if there is such a sensor (Base figure 325).
    fn threshold(&self, dword11: u32) -> Result<u16, Status> {
        let (sensor, which) = (dword11 >> 16 & 0xf, dword11 >> 20 & 3);
        if sensor != 0 || which > 1 {
            return Err(Status::INVALID_FIELD);
        }
        Ok(self.temperatures[which as usize])
    }

    /// Bytes that Set Features transfers for a feature.
    #[must_use]
    pub fn set_len(sqe: &Sqe) -> usize {
        match sqe.dword::<10>() as u8 {
            feature::TIMESTAMP => TIMESTAMP_LEN,
            feature::HOST_IDENTIFIER if sqe.dword::<11>() & 1 != 0 => 16,
            feature::HOST_IDENTIFIER => 8,
            _ => 0,
        }
    }

    /// Set Features. `started` says that there are I/O queues.
    ///
    /// # Errors
    /// The status of a command that makes no sense.
    pub fn set(
        &mut self,
        ctl: &Ctl,
        sqe: &Sqe,
        data: &[u8],
        started: bool,
        now: Instant,
    ) -> Result<Value, Status> {
        let known = Self::find(sqe.dword::<10>() as u8)?;
        let save = sqe.dword::<10>() >> 31 != 0;
        if save && !known.saveable {
            return Err(Status::NOT_SAVEABLE);
        }
        let nsid = sqe.nsid.get();
        namespace(ctl, known, nsid)?;
        if !known.per_namespace && nsid != 0 && nsid != NSID_ALL {
            return Err(Status::NOT_NAMESPACE_SPECIFIC);
        }
        let value = sqe.dword::<11>();
        match known.id {
            // There is one power state, and no workload hint changes anything.
            feature::POWER if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            feature::POWER => self.power = value & 0xff,
            feature::ERROR_RECOVERY if value & 1 << 16 != 0 => return Err(Status::INVALID_FIELD),
            feature::ERROR_RECOVERY => self.error_recovery = value & 0xffff,
            feature::QUEUES => return self.set_queues(ctl, value, started),
            feature::VECTOR => {
                let off = ctl.uncoalesced(value as u16).ok_or(Status::INVALID_FIELD)?;
                off.store(value & 1 << 16 != 0, SeqCst);
            }
            feature::HOST_IDENTIFIER => {
                let extended = value & 1 != 0;
                let mut id = [0; 16];
                id[..data.len()].copy_from_slice(data);
                let host = Host::Id(id);
                let none = id == [0; 16];
                // Who has registered keeps its name (Base 5.27.1.25).
                let known = ctl.host();
                let registered = |ns: &Arc<Namespace>| ns.reservations().knows(known);
                let busy = ctl.subsystem().namespaces(None).iter().any(registered);
                if none {
                    return Err(Status::INVALID_FIELD);
                }
                if busy && known != host {
                    return Err(Status::SEQUENCE);
                }
                ctl.set_host(host, extended);
            }
            feature::RESERVATION_MASK => {
                for ns in meant(ctl, nsid) {
                    ctl.set_notice_mask(ns.nsid(), value & 0xe);
                }
            }
            feature::RESERVATION_PERSISTENCE => set_persistence(ctl, nsid, value & 1 != 0),
            feature::TIMESTAMP => {
                let bytes = data.first_chunk::<8>().ok_or(Status::INTERNAL)?;
                let ms = u64::from_le_bytes(*bytes) & 0xffff_ffff_ffff;
                self.timestamp = (ms, Some(now), true);
            }
            feature::KEEP_ALIVE => {
                let unit = u32::from(KEEP_ALIVE_GRANULARITY) * 100;
                self.keep_alive = value.checked_next_multiple_of(unit).unwrap_or(value);
            }
            id => self.change(ctl, id, value)?,
        }
        if save {
            self.saved.insert((known.id, selector(known.id, value)), value);
        }
        Ok(0.into())
    }

    fn set_threshold(&mut self, ctl: &Ctl, value: u32) -> Result<(), Status> {
        self.threshold(value)?;
        self.temperatures[(value >> 20 & 1) as usize] = value as u16;
        if self.is_hot() {
            ctl.raise_event(crate::nvme::spec::event::TEMPERATURE);
        }
        Ok(())
    }

    /// Whether the temperature is outside of the thresholds.
    #[must_use]
    pub fn is_hot(&self) -> bool {
        let [over, under] = self.temperatures;
        super::identify::TEMPERATURE >= over || super::identify::TEMPERATURE <= under
    }

    /// The host asks for numbers of queues less one; it gets as many as there are (Base
    /// 5.27.1.5).
    fn set_queues(&mut self, ctl: &Ctl, value: u32, started: bool) -> Result<Value, Status> {
        let (sqs, cqs) = (value & 0xffff, value >> 16);
        if sqs == 0xffff || cqs == 0xffff {
            return Err(Status::INVALID_FIELD);
        }
        if started {
            return Err(Status::SEQUENCE);
        }
        let most = u32::from(ctl.config().max_ioqpairs);
        let (sqs, cqs) = ((sqs + 1).min(most), (cqs + 1).min(most));
        self.queues = Some((sqs as u16, cqs as u16));
        Ok(((sqs - 1) | (cqs - 1) << 16).into())
    }
}

fn namespace(ctl: &Ctl, known: &Known, nsid: u32) -> Result<(), Status> {
    if !known.per_namespace || nsid == NSID_ALL {
        return Ok(());
    }
    if !(1..=NAMESPACES_MAX).contains(&nsid) {
        return Err(Status::INVALID_NAMESPACE);
    }
    let there = ctl.subsystem().attached(nsid, ctl.cntlid()).is_some();
    if there { Ok(()) } else { Err(Status::INVALID_FIELD) }
}

/// The namespaces that a command means which may name all.
pub fn meant(ctl: &Ctl, nsid: u32) -> Vec<Arc<Namespace>> {
    let all = ctl.subsystem().namespaces(Some(ctl.cntlid()));
    all.into_iter().filter(|ns| nsid == NSID_ALL || ns.nsid() == nsid).collect()
}

/// Whether reservations persist; the caller saves them.
fn set_persistence(ctl: &Ctl, nsid: u32, persist: bool) {
    for ns in meant(ctl, nsid) {
        // It cannot fail.
        ns.reserve(|all| {
            all.persist = persist;
            Ok(())
        })
        .ok();
    }
}

fn queue_count(ctl: &Ctl) -> u32 {
    let most = u32::from(ctl.config().max_ioqpairs) - 1;
    most | most << 16
}

/// Whether any namespace's writes are durable only after a flush.
fn write_cache(ctl: &Ctl) -> bool {
    let namespaces = ctl.subsystem().namespaces(Some(ctl.cntlid()));
    namespaces.is_empty() || namespaces.iter().any(|ns| !ns.root().policy().write_through)
}

fn set_write_cache(ctl: &Ctl, on: bool) {
    for ns in ctl.subsystem().namespaces(Some(ctl.cntlid())) {
        ns.root().set_policy(|policy| policy.write_through = !on);
    }
}
