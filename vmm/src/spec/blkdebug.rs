//! `blkdebug`, QEMU's filter for errors: its options.
use super::block::ANY_SIZE;
use super::props::{Kind, Prop, Table, prop};
use serde::{Deserialize, Serialize};
use spindle_block::nodes::fault::debug::{Event, InjectError, SetState};
use spindle_block::nodes::fault::{Blkdebug, IoType, Limits, config};
use std::path::PathBuf;

/// `blkdebug`. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlkdebugSpec {
    /// The node below.
    pub image: String,
    /// A file with further rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Errors that events arm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inject_error: Vec<InjectErrorSpec>,
    /// Events that change the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_state: Vec<SetStateSpec>,
    /// Requests are multiples of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<u32>,
    /// Largest transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_transfer: Option<u64>,
    /// Largest write-zeroes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_write_zero: Option<u64>,
    /// Smallest discard that gives space back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opt_discard: Option<u32>,
    /// Largest discard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_discard: Option<u64>,
}

/// `inject-error` of `blkdebug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InjectErrorSpec {
    /// The event, by QEMU's name.
    pub event: String,
    /// Only in this state; 0: in any.
    pub state: u32,
    /// The requests it meets, by QEMU's name; `None`: all but block-status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iotype: Option<String>,
    /// The error number of Linux; 0: none.
    pub errno: i32,
    /// Only requests that touch this sector of 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector: Option<u64>,
    /// It is gone after the first request that it met.
    pub once: bool,
}

/// `set-state` of `blkdebug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SetStateSpec {
    /// The event, by QEMU's name.
    pub event: String,
    /// Only in this state; 0: in any.
    pub state: u32,
    /// The state from then on.
    #[serde(rename = "new_state")]
    pub new_state: u32,
}

const EVENT: Prop = prop(
    "event",
    Kind::Enum(&[
        "none",
        "read_aio",
        "write_aio",
        "pwritev",
        "pwritev_zero",
        "pwritev_done",
        "flush_to_os",
        "flush_to_disk",
    ]),
    "what it is about",
)
.required();
const U32: Kind = Kind::Uint { min: 0, max: u32::MAX as u64 };
const STATE: Prop = prop("state", U32, "only in this state; 0: in any").or("0");

const INJECT_ERROR: &[Prop] = &[
    EVENT,
    STATE,
    prop(
        "iotype",
        Kind::Enum(&["read", "write", "write-zeroes", "discard", "flush", "block-status"]),
        "requests it meets; default: all but block-status",
    ),
    prop("errno", Kind::Uint { min: 0, max: 4095 }, "error number; 0: none").or("5"),
    prop("sector", Kind::Uint { min: 0, max: u64::MAX >> 9 }, "only requests that touch it"),
    prop("once", Kind::Bool, "only the first request").or("off"),
    prop("immediately", Kind::Bool, "it always is").ignored(),
];

const SET_STATE: &[Prop] = &[EVENT, STATE, prop("new_state", U32, "state from then on").required()];

/// `blkdebug`: QEMU's names; events that only formats inside QEMU raise are not there.
pub const BLKDEBUG: Table = Table {
    what: "blockdev driver",
    name: "blkdebug",
    help: "filter with QEMU's rules for errors",
    props: &[
        prop("image", Kind::Id, "node below, by name or in place").required(),
        prop("config", Kind::Path, "file with further rules"),
        prop("inject-error", Kind::Groups(INJECT_ERROR), "errors that events arm"),
        prop("set-state", Kind::Groups(SET_STATE), "events that change the state"),
        prop("align", Kind::BlockSize { min: 512, max: 64 << 10 }, "alignment of requests"),
        prop("max-transfer", ANY_SIZE, "largest transfer"),
        prop("opt-write-zero", ANY_SIZE, "no hint is needed").ignored(),
        prop("max-write-zero", ANY_SIZE, "largest write-zeroes"),
        prop("opt-discard", Kind::Size { min: 0, max: 1 << 31 }, "smallest discard of use"),
        prop("max-discard", ANY_SIZE, "largest discard"),
    ],
};

impl From<&BlkdebugSpec> for Blkdebug {
    /// The tables have only names that are known there.
    fn from(spec: &BlkdebugSpec) -> Self {
        let event = |name: &str| Event::named(name).unwrap_or(Event::None);
        let size = |size: Option<u32>| size.filter(|size| *size > 0);
        Self {
            inject_error: spec
                .inject_error
                .iter()
                .map(|rule| InjectError {
                    event: event(&rule.event),
                    state: rule.state,
                    iotype: rule.iotype.as_deref().and_then(IoType::named),
                    error: config::error(rule.errno),
                    sector: rule.sector,
                    once: rule.once,
                })
                .collect(),
            set_state: spec
                .set_state
                .iter()
                .map(|rule| SetState {
                    event: event(&rule.event),
                    state: rule.state,
                    new_state: rule.new_state,
                })
                .collect(),
            limits: Limits {
                align: size(spec.align),
                max_transfer: spec.max_transfer.filter(|size| *size > 0),
                max_write_zero: spec.max_write_zero,
                opt_discard: size(spec.opt_discard),
                max_discard: spec.max_discard,
            },
        }
    }
}
