//! The rules of QEMU's `blkdebug` (docs/devel/testing/blkdebug.rst): events change a state and arm
//! errors, and requests meet what is armed.
//!
//! QEMU's formats raise events at many places inside them. Here events are what the node sees by
//! itself: that it was opened, and requests that arrive or have ended.

use crate::{BlockError, Info, Op, OpKind, Range};

/// Most rules of one node.
pub const RULES_MAX: usize = 1024;

/// Something that rules can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The node was opened.
    None,
    /// A read arrived.
    ReadAio,
    /// A write arrived.
    WriteAio,
    /// A write arrived, after [`Event::WriteAio`].
    Pwritev,
    /// A write-zeroes arrived.
    PwritevZero,
    /// A write or write-zeroes has ended.
    PwritevDone,
    /// A flush arrived.
    FlushToOs,
    /// A flush arrived, after [`Event::FlushToOs`].
    FlushToDisk,
}

impl Event {
    /// All, with QEMU's names.
    pub const ALL: [(&'static str, Self); 8] = [
        ("none", Self::None),
        ("read_aio", Self::ReadAio),
        ("write_aio", Self::WriteAio),
        ("pwritev", Self::Pwritev),
        ("pwritev_zero", Self::PwritevZero),
        ("pwritev_done", Self::PwritevDone),
        ("flush_to_os", Self::FlushToOs),
        ("flush_to_disk", Self::FlushToDisk),
    ];

    /// The event of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, event)| *event)
    }
}

/// What a request of this kind is when it arrives.
pub(super) fn before(kind: OpKind) -> &'static [Event] {
    match kind {
        OpKind::Read => &[Event::ReadAio],
        OpKind::Write | OpKind::WriteFua => &[Event::WriteAio, Event::Pwritev],
        OpKind::Flush => &[Event::FlushToOs, Event::FlushToDisk],
        OpKind::WriteZeroes => &[Event::PwritevZero],
        OpKind::Discard => &[],
    }
}

/// What a request of this kind is when it has ended.
pub(super) fn after(kind: OpKind) -> &'static [Event] {
    match kind {
        OpKind::Write | OpKind::WriteFua | OpKind::WriteZeroes => &[Event::PwritevDone],
        OpKind::Read | OpKind::Flush | OpKind::Discard => &[],
    }
}

/// Requests that an error can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoType {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Write-zeroes.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Questions about what is allocated.
    BlockStatus,
}

impl IoType {
    /// All, with QEMU's names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("write-zeroes", Self::WriteZeroes),
        ("discard", Self::Discard),
        ("flush", Self::Flush),
        ("block-status", Self::BlockStatus),
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }
}

impl From<OpKind> for IoType {
    fn from(kind: OpKind) -> Self {
        match kind {
            OpKind::Read => Self::Read,
            OpKind::Write | OpKind::WriteFua => Self::Write,
            OpKind::Flush => Self::Flush,
            OpKind::Discard => Self::Discard,
            OpKind::WriteZeroes => Self::WriteZeroes,
        }
    }
}

/// `inject-error`: an event arms an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectError {
    /// The event.
    pub event: Event,
    /// Only in this state; 0: in any.
    pub state: u32,
    /// The requests it meets; `None`: all but [`IoType::BlockStatus`].
    pub iotype: Option<IoType>,
    /// The error; `None`: what it meets passes, whatever else is armed.
    pub error: Option<BlockError>,
    /// Only requests that touch this sector of 512 bytes.
    pub sector: Option<u64>,
    /// It is gone after the first request that it met.
    pub once: bool,
}

/// `set-state`: an event changes the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// The event.
    pub event: Event,
    /// Only in this state; 0: in any.
    pub state: u32,
    /// The state from then on.
    pub new_state: u32,
}

/// What the node says of itself, so that those above it have to cope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests are multiples of this at least, a power of two in bytes.
    pub align: Option<u32>,
    /// Largest transfer in bytes.
    pub max_transfer: Option<u64>,
    /// Largest write-zeroes that the child sees, in bytes.
    pub max_write_zero: Option<u64>,
    /// Smallest discard that gives space back, in bytes.
    pub opt_discard: Option<u32>,
    /// Largest discard that the child sees, in bytes.
    pub max_discard: Option<u64>,
}

impl Limits {
    pub(super) fn apply(self, mut info: Info) -> Info {
        let align = self.align.filter(|align| align.is_power_of_two());
        info.request_alignment = info.request_alignment.max(align.unwrap_or(1));
        info.discard_granularity = self.opt_discard.unwrap_or(info.discard_granularity);
        if let Some(max) = self.max_transfer {
            let align = u64::from(info.request_alignment);
            info.max_transfer = info.max_transfer.min((max / align).max(1) * align);
        }
        info
    }

    /// Largest part of such a request that the child sees.
    pub(super) fn of(self, op: Op) -> Option<u64> {
        match op {
            Op::WriteZeroes { .. } => self.max_write_zero,
            Op::Discard => self.max_discard,
            Op::Read | Op::Write { .. } | Op::Flush => None,
        }
        .filter(|limit| *limit > 0)
    }
}

/// The rules and limits of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blkdebug {
    /// Errors.
    pub inject_error: Vec<InjectError>,
    /// Changes of the state.
    pub set_state: Vec<SetState>,
    /// Limits.
    pub limits: Limits,
}

/// The rules in motion.
pub(super) struct Debug {
    /// `None`: it was used up.
    errors: Vec<Option<InjectError>>,
    states: Vec<SetState>,
    state: u32,
    /// Those of `errors` that are armed, the newest first.
    armed: Vec<usize>,
}

impl Debug {
    pub(super) fn new(rules: Blkdebug) -> Self {
        let errors = rules.inject_error.into_iter().map(Some).collect();
        let mut debug = Self { errors, states: rules.set_state, state: 1, armed: Vec::new() };
        debug.event(Event::None);
        debug
    }

    /// Something happened. Errors that it arms take the place of those that were.
    pub(super) fn event(&mut self, event: Event) {
        let now = self.state;
        let is_for = |of: Event, state: u32| of == event && (state == 0 || state == now);
        let mut armed: Vec<usize> = (0..)
            .zip(&self.errors)
            .filter(|(_, rule)| rule.as_ref().is_some_and(|r| is_for(r.event, r.state)))
            .map(|(index, _)| index)
            .collect();
        if !armed.is_empty() {
            armed.reverse();
            self.armed = armed;
        }
        let new = self.states.iter().rfind(|rule| is_for(rule.event, rule.state));
        self.state = new.map_or(now, |rule| rule.new_state);
    }

    /// What a request meets. A flush, which has no range, meets no error of a sector.
    pub(super) fn check(&mut self, kind: IoType, range: Range) -> Result<(), BlockError> {
        let meets = |rule: &InjectError| {
            let kinds = rule.iotype.map_or(kind != IoType::BlockStatus, |meant| meant == kind);
            let place = rule.sector.is_none_or(|sector| {
                let byte = sector.saturating_mul(512);
                byte >= range.offset && byte - range.offset < range.len
            });
            kinds && place
        };
        let found = self.armed.iter().position(|index| {
            self.errors.get(*index).is_some_and(|rule| rule.as_ref().is_some_and(meets))
        });
        let Some(found) = found else { return Ok(()) };
        let Some(slot) = self.armed.get(found).and_then(|index| self.errors.get_mut(*index)) else {
            return Ok(());
        };
        let error = slot.as_ref().and_then(|rule| rule.error);
        let used_up = error.is_some() && slot.as_ref().is_some_and(|rule| rule.once);
        if used_up {
            *slot = None;
            self.armed.remove(found);
        }
        error.map_or(Ok(()), Err)
    }

    /// Whether requests of this kind are events that a rule is about, or may meet what is armed.
    pub(super) fn watches(&self, kind: OpKind) -> bool {
        let events = |event: &Event| before(kind).contains(event) || after(kind).contains(event);
        let errors = || self.errors.iter().flatten();
        errors().any(|rule| events(&rule.event))
            || self.states.iter().any(|rule| events(&rule.event))
            || self.armed.iter().any(|index| {
                let rule = self.errors.get(*index).and_then(Option::as_ref);
                rule.is_some_and(|r| r.iotype.is_none_or(|meant| meant == kind.into()))
            })
    }
}
