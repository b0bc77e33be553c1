//! What a `fault` node does, and to which requests.

use crate::{BlockError, OpKind, Range};

/// The requests a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultOp {
    /// All.
    #[default]
    Any,
    /// Reads.
    Read,
    /// Writes, with FUA or not.
    Write,
    /// Flushes. They have no range: a rule's range does not matter.
    Flush,
    /// Discards.
    Discard,
    /// Write-zeroes.
    WriteZeroes,
}

impl FaultOp {
    /// Whether a request of this kind is meant.
    #[must_use]
    pub fn covers(self, kind: OpKind) -> bool {
        match self {
            Self::Any => true,
            Self::Read => kind == OpKind::Read,
            Self::Write => matches!(kind, OpKind::Write | OpKind::WriteFua),
            Self::Flush => kind == OpKind::Flush,
            Self::Discard => kind == OpKind::Discard,
            Self::WriteZeroes => kind == OpKind::WriteZeroes,
        }
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It fails at once; nothing is done.
    Error(BlockError),
    /// It starts after this many nanoseconds.
    Delay(u64),
    /// It waits until it is released, and is then done. A drain aborts it.
    Hang,
    /// A write of which only the beginning reaches the medium.
    Torn {
        /// How many bytes do, rounded down to what the node below can write; `None`: left to
        /// chance, less than all.
        bytes: Option<u64>,
        /// What the writer is told.
        error: Option<BlockError>,
    },
    /// Data that is read, or reaches the medium, with one byte changed; the request succeeds. What
    /// is in the writer's memory stays as it is.
    Corrupt,
}

impl Action {
    /// Whether it can be done to a request of this kind.
    #[must_use]
    pub fn is_for(self, kind: OpKind) -> bool {
        let writes = matches!(kind, OpKind::Write | OpKind::WriteFua);
        match self {
            Self::Error(_) | Self::Delay(_) | Self::Hang => true,
            Self::Torn { .. } => writes,
            Self::Corrupt => writes || kind == OpKind::Read,
        }
    }
}

/// The chance of a rule that always acts.
pub const ALWAYS: u32 = 1_000_000;

/// A rule as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// Its name; one is made up where it has none.
    pub id: Option<String>,
    /// The requests it is for.
    pub op: FaultOp,
    /// First byte of the range that a request must touch.
    pub offset: u64,
    /// Length of that range in bytes; `None`: to the end.
    pub length: Option<u64>,
    /// How many matching requests pass before it acts.
    pub skip: u64,
    /// How many requests it acts on before it is spent; `None`: all.
    pub count: Option<u64>,
    /// How often it acts on a request that is left after that, in millionths; [`ALWAYS`] at most.
    /// Those that get away are not counted against `count`.
    pub chance_ppm: u32,
    /// Seed of what is left to chance: the same requests suffer the same.
    pub seed: u64,
    /// What it does.
    pub action: Action,
}

impl FaultRule {
    /// A rule that does `action` to every request.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            id: None,
            op: FaultOp::Any,
            offset: 0,
            length: None,
            skip: 0,
            count: None,
            chance_ppm: ALWAYS,
            seed: 0,
            action,
        }
    }

    /// Whether it is for this request.
    #[must_use]
    pub fn covers(&self, kind: OpKind, range: Range) -> bool {
        if !self.op.covers(kind) || !self.action.is_for(kind) {
            return false;
        }
        let end = self.length.map_or(u64::MAX, |len| self.offset.saturating_add(len));
        kind == OpKind::Flush
            || (range.offset < end
                && range.checked_end().is_none_or(|range_end| self.offset < range_end))
    }
}

/// A rule that is in force, for the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultStatus {
    /// The rule, with its name.
    pub rule: FaultRule,
    /// Requests it was for, those let pass included.
    pub matched: u64,
    /// How often it has acted.
    pub hits: u64,
    /// Requests that wait because of it at this moment.
    pub waiting: u64,
    /// It has acted as often as it should.
    pub spent: bool,
}

/// Why a rule was not taken, or not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The name is taken.
    #[error("there is a fault rule '{0}' already; choose another id")]
    Duplicate(String),
    /// No rule has this name.
    #[error("there is no fault rule '{0}'")]
    Unknown(String),
    /// Enough is enough.
    #[error("there are {0} fault rules already; delete some")]
    TooMany(usize),
}
