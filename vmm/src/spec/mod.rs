//! What machine to build, as plain data.
//!
//! Every way to describe a machine (short options, QEMU's long options, a configuration file)
//! goes through a [`Draft`] and comes out as one [`MachineSpec`], in which nothing is left to be
//! decided: defaults are filled in, every node and device has a name, every disk its queues and
//! iothread. `spindle run --print-spec` shows it as JSON, and `--config` takes that JSON back.
pub mod blkdebug;
pub mod block;
pub mod device;
mod disk;
pub mod draft;
pub mod endpoint;
mod error;
pub mod format;
pub mod help;
pub mod keyval;
pub mod names;
mod nodes;
pub mod object;
mod plug;
pub mod props;
pub mod size;
#[cfg(test)]
mod tests;

pub use block::{BlockdevSpec, DriverSpec, FaultRule};
pub use device::{DeviceSpec, ErrorPolicy, VirtioBlkSpec, VirtioRngSpec};
pub use disk::DISK;
pub use draft::Draft;
pub use endpoint::{QmpSpec, QtestSpec, SerialSpec, UnixSpec};
pub use error::SpecError;
pub use nodes::node_from_options;
pub use object::{IothreadSpec, ObjectSpec};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A machine, fully described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MachineSpec {
    /// What drives the machine.
    #[serde(default)]
    pub accel: AccelSpec,
    /// The socket that a machine without CPUs is driven from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qtest: Option<QtestSpec>,
    /// The file that shows what is said over that socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qtest_log: Option<PathBuf>,
    /// The kernel to start: a bzImage or an ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Firmware to start instead, which boots from a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<PathBuf>,
    /// The file that the firmware's messages go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_log: Option<PathBuf>,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
    /// Guest memory, in bytes; a multiple of 4096.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Where the serial console goes.
    pub serial: SerialSpec,
    /// QMP monitors.
    pub qmp: Vec<QmpSpec>,
    /// What the machine does when its guest reboots, powers off or panics.
    pub actions: Actions,
    /// The I/O port whose written value ends the process with that exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_exit: Option<u16>,
    /// Whether threads run under seccomp filters and io_uring restrictions.
    pub sandbox: bool,
    /// How many iothreads are made for disks that name none.
    pub iothreads_max: u32,
    /// Iothreads and other objects that devices refer to.
    pub objects: Vec<ObjectSpec>,
    /// The block graph, children before their parents.
    pub blockdevs: Vec<BlockdevSpec>,
    /// The devices, in the order of their PCI slots.
    pub devices: Vec<DeviceSpec>,
}

/// What drives a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccelSpec {
    /// Virtual CPUs in KVM.
    #[default]
    Kvm,
    /// A test, by QEMU's qtest protocol; there are no CPUs.
    Qtest,
}

/// What the machine does when its guest reboots, powers off or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Actions {
    /// On a reboot.
    pub reboot: RebootAction,
    /// On a power off.
    pub shutdown: ShutdownAction,
    /// On a panic that the guest tells of, or a CPU that cannot go on.
    pub panic: PanicAction,
}

/// What a reboot of the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootAction {
    /// The machine starts afresh.
    Reset,
    /// The machine shuts down (`--no-reboot`).
    Shutdown,
}

/// What a shutdown of the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownAction {
    /// The process ends.
    Poweroff,
    /// The machine pauses, and the monitor can still look at it.
    Pause,
}

/// What a panic of the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicAction {
    /// The machine pauses.
    Pause,
    /// The process ends as after a power off.
    Shutdown,
    /// The process ends with exit status 1.
    ExitFailure,
    /// Nothing.
    None,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
        }
    }
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            accel: AccelSpec::Kvm,
            qtest: None,
            qtest_log: None,
            kernel: None,
            bios: None,
            firmware_log: None,
            initrd: None,
            append: String::new(),
            memory: 1 << 30,
            cpus: 1,
            serial: SerialSpec::Stdio,
            qmp: Vec::new(),
            actions: Actions::default(),
            debug_exit: None,
            sandbox: true,
            iothreads_max: 8,
            objects: Vec::new(),
            blockdevs: Vec::new(),
            devices: Vec::new(),
        }
    }
}

impl MachineSpec {
    /// The node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&BlockdevSpec> {
        self.blockdevs.iter().find(|node| node.node_name == name)
    }

    /// The object called `id`.
    #[must_use]
    pub fn object(&self, id: &str) -> Option<&ObjectSpec> {
        self.objects.iter().find(|object| object.id() == id)
    }

    /// The device called `id`.
    #[must_use]
    pub fn device(&self, id: &str) -> Option<&DeviceSpec> {
        self.devices.iter().find(|device| device.id() == id)
    }

    /// The description as the JSON text that `--config` takes back.
    ///
    /// # Errors
    ///
    /// A file name that is not UTF-8, which JSON cannot hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
