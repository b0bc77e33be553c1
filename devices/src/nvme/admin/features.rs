//! Get Features and Set Features (Base 5.15, 5.27; NVM 4.1.3).

use std::time::Instant;

use super::bytes::Page;
use crate::nvme::{
    config::NAMESPACES_MAX,
    controller::Ctl,
    spec::{NSID_ALL, Sqe, feature},
    status::Status,
};

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
}

const fn known(id: u8, default: u32) -> Known {
    Known { id, default, changeable: true, per_namespace: false }
}

/// The features that there are.
pub const FEATURES: &[Known] = &[
    known(feature::ARBITRATION, 0),
    known(feature::POWER, 0),
    known(feature::TEMPERATURE, super::identify::WARNING_TEMPERATURE as u32),
    Known { per_namespace: true, ..known(feature::ERROR_RECOVERY, 0) },
    known(feature::WRITE_CACHE, 1),
    known(feature::QUEUES, 0),
    known(feature::COALESCING, 0),
    known(feature::VECTOR, 0),
    known(feature::ATOMICITY, 0),
    known(feature::ASYNC_EVENTS, 0x1ff),
    known(feature::TIMESTAMP, 0),
];

/// Bytes that a feature's data structure has.
pub const TIMESTAMP_LEN: usize = 8;

/// The features' values. Those that belong to a queue or a namespace are theirs.
pub struct Features {
    arbitration: u32,
    power: u32,
    /// Over and under temperature thresholds of the composite temperature, in kelvins.
    temperatures: [u16; 2],
    error_recovery: u32,
    coalescing: u32,
    vectors: Vec<bool>,
    atomicity: u32,
    /// Milliseconds since 1970, when that was so, and whether the host set it.
    timestamp: (u64, Option<Instant>, bool),
    /// I/O queues that the host asked for: submission, completion.
    pub queues: Option<(u16, u16)>,
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
    /// As after a reset.
    #[must_use]
    pub fn new(ctl: &Ctl) -> Self {
        Self {
            arbitration: 0,
            power: 0,
            temperatures: [super::identify::WARNING_TEMPERATURE, 0],
            error_recovery: 0,
            coalescing: 0,
            vectors: vec![false; usize::from(ctl.config().vector_count().max(1))],
            atomicity: 0,
            timestamp: (0, None, false),
            queues: None,
        }
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
            0 => self.current(ctl, known.id, sqe.dword::<11>(), now),
            // Nothing is saved, so that saved values are the default ones (Base 5.15.1).
            1 | 2 => self.default(ctl, known, sqe.dword::<11>()),
            3 => {
                let bit = |on: bool, at: u32| u32::from(on) << at;
                Ok((bit(known.changeable, 2) | bit(known.per_namespace, 1)).into())
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
            _ => Ok(known.default.into()),
        }
    }

    fn current(&self, ctl: &Ctl, id: u8, dword11: u32, now: Instant) -> Result<Value, Status> {
        let value = match id {
            feature::ARBITRATION => self.arbitration,
            feature::POWER => self.power,
            feature::TEMPERATURE => self.threshold(dword11)?.into(),
            feature::ERROR_RECOVERY => self.error_recovery,
            feature::WRITE_CACHE => u32::from(write_cache(ctl)),
            feature::QUEUES => self.queues.map_or_else(
                || queue_count(ctl),
                |(sqs, cqs)| u32::from(sqs - 1) | u32::from(cqs - 1) << 16,
            ),
            feature::COALESCING => self.coalescing,
            feature::VECTOR => {
                let vector = dword11 & 0xffff;
                let off = self.vectors.get(vector as usize).ok_or(Status::INVALID_FIELD)?;
                vector | u32::from(*off) << 16
            }
            feature::ATOMICITY => self.atomicity,
            feature::ASYNC_EVENTS => ctl.events().enabled,
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
        if sqe.dword::<10>() >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        let nsid = sqe.nsid.get();
        namespace(ctl, known, nsid)?;
        if !known.per_namespace && nsid != 0 && nsid != NSID_ALL {
            return Err(Status::NOT_NAMESPACE_SPECIFIC);
        }
        let value = sqe.dword::<11>();
        match known.id {
            feature::ARBITRATION => self.arbitration = value & 0xffff_ff07,
            // There is one power state, and no workload hint changes anything.
            feature::POWER if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            feature::POWER => self.power = value & 0xff,
            feature::TEMPERATURE => self.set_threshold(ctl, value)?,
            feature::ERROR_RECOVERY if value & 1 << 16 != 0 => return Err(Status::INVALID_FIELD),
            feature::ERROR_RECOVERY => self.error_recovery = value & 0xffff,
            feature::WRITE_CACHE => set_write_cache(ctl, value & 1 != 0),
            feature::QUEUES => return self.set_queues(ctl, value, started),
            feature::COALESCING => self.coalescing = value & 0xffff,
            feature::VECTOR => {
                let vector = (value & 0xffff) as usize;
                let off = self.vectors.get_mut(vector).ok_or(Status::INVALID_FIELD)?;
                *off = value & 1 << 16 != 0;
            }
            feature::ATOMICITY => self.atomicity = value & 1,
            feature::ASYNC_EVENTS => ctl.events().enabled = value,
            feature::TIMESTAMP => {
                let bytes = data.first_chunk::<8>().ok_or(Status::INTERNAL)?;
                let ms = u64::from_le_bytes(*bytes) & 0xffff_ffff_ffff;
                self.timestamp = (ms, Some(now), true);
            }
            _ => {}
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

    /// How many commands a submission queue gives in its turn: those of a class of the weighted
    /// scheme as many as its weight says, otherwise the arbitration burst (Base 3.4.4).
    #[must_use]
    pub fn weight(&self, weighted: bool, priority: u8) -> u32 {
        let burst = match self.arbitration & 7 {
            7 => u32::MAX,
            log => 1 << log,
        };
        let class = |low: u32| (self.arbitration >> low & 0xff) + 1;
        match priority {
            _ if !weighted => burst,
            0 => u32::MAX,
            1 => class(24),
            2 => class(16),
            _ => class(8),
        }
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
