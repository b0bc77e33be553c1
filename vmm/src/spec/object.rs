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
    /// A passphrase.
    #[serde(rename = "secret")]
    Secret(SecretSpec),
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

/// `secret`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// Its id.
    pub id: String,
    /// The passphrase itself, for all to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The file that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `raw` or `base64`.
    pub format: String,
}

impl std::fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretSpec").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ObjectSpec {
    /// The object's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Iothread(o) => &o.id,
            Self::RngBuiltin(o) => &o.id,
            Self::RngRandom(o) => &o.id,
            Self::Secret(o) => &o.id,
        }
    }
}

/// All object tables.
pub const OBJECTS: &[&Table] = &[&IOTHREAD, &RNG_BUILTIN, &RNG_RANDOM, &SECRET];

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

/// `secret`.
pub const SECRET: Table = Table {
    what: "object",
    name: "secret",
    help: "passphrase of an encrypted disk",
    props: &[
        ID,
        prop("data", Kind::Str { len_max: 1 << 20 }, "the passphrase itself, for all to see"),
        prop("file", Kind::Path, "file that holds it"),
        prop("format", Kind::Enum(&["raw", "base64"]), "how it is written").or("raw"),
    ],
};
