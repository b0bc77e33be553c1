//! Why a machine could not be made.

use std::{io, path::PathBuf};

use spindle_block::graph::GraphError;
use spindle_boot::{BootError, MemoryMapError};
use spindle_devices::{
    ahci::AhciError,
    ide::IdeError,
    nvme::NvmeError,
    pci::{AssignError, BusError, EndpointError},
    sdhci::CardError,
    virtio::scsi::LunError,
};

use crate::{kvm::KvmError, monitor::socket::SocketError, serial::SerialError};

/// Something the machine needs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The host's KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel or its initrd.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The amount of memory.
    #[error(transparent)]
    MemoryMap(#[from] MemoryMapError),
    /// The host gives no address space for the guest's memory.
    #[error("cannot map {size} bytes of guest memory: {reason}")]
    Memory {
        /// How much was asked for, in bytes.
        size: u64,
        /// Why not.
        reason: String,
    },
    /// A passphrase.
    #[error("--object secret,id={id}: {reason}")]
    Secret {
        /// Its id.
        id: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// There is nothing to start.
    #[error("there is nothing to start: give --kernel FILE, or --bios FILE")]
    NoKernel,
    /// Nobody is there to drive the machine.
    #[error("a machine with --accel qtest is driven from a socket: give --qtest unix:PATH")]
    NoQtest,
    /// A file that shows what is going on.
    #[error("cannot open '{}'", .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The serial console.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// A monitor's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A PCI address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// PCI address space.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// A PCI function.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A place where nothing can come or go.
    #[error(
        "PCI address {0} cannot be plugged: a device that comes or goes is function 0 of a slot from 01 \
         to 1e"
    )]
    NotPluggable(String),
    /// An image is too small.
    #[error("device '{id}': the image of {size} bytes is smaller than a block of {block}")]
    TooSmall {
        /// The device's id.
        id: String,
        /// The image's size in bytes.
        size: u64,
        /// The block's.
        block: u32,
    },
    /// A disk's state file.
    #[error("the state file '{}': {source}; state=none does without", .path.display())]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: spindle_devices::state_file::StateError,
    },
    /// A directory for namespaces that a guest creates.
    #[error("pool '{}': {reason}", .dir.display())]
    Pool {
        /// The directory.
        dir: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An NVMe controller or namespace.
    #[error(transparent)]
    Nvme(NvmeError),
    /// An AHCI controller, or a drive's place behind it.
    #[error(transparent)]
    Ahci(AhciError),
    /// A drive cannot be put on its cable.
    #[error(transparent)]
    Ide(IdeError),
    /// A SCSI unit's place.
    #[error(transparent)]
    Lun(LunError),
    /// A card that cannot be.
    #[error("device '{id}': {source}")]
    Card {
        /// The device's id.
        id: String,
        /// Why not.
        source: CardError,
    },
    /// A device with nothing to sit on.
    #[error("device '{0}': there is no controller that it could be behind")]
    Misplaced(String),
    /// The block graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An iothread.
    #[error("cannot start iothread '{name}'")]
    Iothread {
        /// Its id.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// An iothread ended while it was needed.
    #[error("an iothread ended while the disks were being opened")]
    IothreadGone,
    /// Threads, eventfds and their like.
    #[error("cannot get {what}")]
    Resources {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The main loop.
    #[error("the main loop: {0}")]
    Loop(String),
}
