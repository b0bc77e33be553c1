//! The lab: a complete KVM inside QEMU's TCG, for machines whose own KVM is missing or of no use.
//!
//! Level one (L1) is a Debian kernel under TCG with nested SVM. It sees the host's root read-only with a
//! tmpfs on top, so every path, tool and freshly built program is where it is outside. [`Lab`] starts one
//! and runs commands in it as if they ran outside; [`guest`] runs guests under a virtual machine monitor,
//! either in there or, where the host's KVM is real, on the host itself.

pub mod console;
pub mod guest;
pub mod image;
pub mod job;
pub mod kvm;
pub mod lock;
pub mod machine;
pub mod qmp;
pub mod session;

pub use machine::{Lab, Options};
pub use session::{Command, Output};

use std::path::PathBuf;
use std::time::Duration;

/// Directory of the RAM disk (ext4) in the lab: images under test live here, because O_DIRECT, locks and
/// io_uring work on it as on a disk.
pub const RAM_DISK: &str = "/lab";

/// Environment variable that is set to `1` for commands in the lab.
pub const INSIDE: &str = "SPINDLE_LAB";

/// Environment variable that names, for commands in the lab, the directory shared with the host.
pub const SHARE: &str = "SPINDLE_LAB_SHARE";

/// What can go wrong with the lab itself, as opposed to the command that runs in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file operation of the harness failed.
    #[error("{doing} {path}")]
    File {
        /// What was being done, as a verb: `create`, `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("start {program}: is the package that has it installed (images/packages.sh install)?")]
    Start {
        /// The program.
        program: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// An image recipe failed; what it said is already on standard error.
    #[error("the image recipe {0} failed; its output is above")]
    Recipe(String),
    /// The lab ended or fell silent.
    #[error("the lab {what} after {after:.1?}; the end of its console:\n{console}")]
    Lost {
        /// `ended` or `fell silent`.
        what: &'static str,
        /// Time since the lab or the command started.
        after: Duration,
        /// The last lines of L1's console.
        console: String,
    },
    /// Something inside the lab is not as it should be.
    #[error("{0}")]
    Broken(String),
}

impl LabError {
    /// Returns a closure that wraps an I/O error of `doing` something to `path`.
    pub fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| LabError::File { doing, path, source }
    }
}

/// The root directory of the source tree that this program was built from.
pub fn source_root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

/// Whether this process runs inside the lab.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some_and(|value| value == "1")
}
