//! Objects that devices refer to.
use super::props::{Kind, Prop, Table, prop};
use serde::{Deserialize, Serialize};

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "qom-type")]
pub enum ObjectSpec {
    /// A thread with a ring of its own that serves queues of devices.
    #[serde(rename = "iothread")]
    Iothread(IothreadSpec),
    /// Random bytes from getrandom(2).
    #[serde(rename = "rng-builtin")]
    RngBuiltin(RngBuiltinSpec),
    /// Random bytes from a file or device.
    #[serde(rename = "rng-random")]
    RngRandom(RngRandomSpec),
}

/// `iothread`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IothreadSpec {
    /// Its id.
    pub id: String,
    /// The longest time it polls before it sleeps, in nanoseconds; 0: it never polls.
    pub poll_max_ns: u64,
}

/// `rng-builtin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngBuiltinSpec {
    /// Its id.
    pub id: String,
}

/// `rng-random`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngRandomSpec {
    /// Its id.
    pub id: String,
    /// Where the bytes come from.
    pub filename: std::path::PathBuf,
}

impl ObjectSpec {
    /// The object's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Iothread(o) => &o.id,
            Self::RngBuiltin(o) => &o.id,
            Self::RngRandom(o) => &o.id,
        }
    }
}

/// All object tables.
pub const OBJECTS: &[&Table] = &[&IOTHREAD, &RNG_BUILTIN, &RNG_RANDOM];

const ID: Prop = prop("id", Kind::Id, "name of the object").required();

/// `iothread`.
pub const IOTHREAD: Table = Table {
    what: "object",
    name: "iothread",
    help: "thread that serves queues of devices",
    props: &[
        ID,
        prop(
            "poll-max-ns",
            Kind::Uint { min: 0, max: 1_000_000_000 },
            "longest busy poll before sleeping, in ns; 0: never, and no interrupt moderation",
        )
        .or("32768"),
    ],
};

/// `rng-builtin`.
pub const RNG_BUILTIN: Table = Table {
    what: "object",
    name: "rng-builtin",
    help: "random bytes from getrandom(2)",
    props: &[ID],
};

/// `rng-random`.
pub const RNG_RANDOM: Table = Table {
    what: "object",
    name: "rng-random",
    help: "random bytes from a file or device",
    props: &[ID, prop("filename", Kind::Path, "where they come from").or("/dev/urandom")],
};
