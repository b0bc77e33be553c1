//! Constants and layouts of the PCI transport: virtio 1.2, sections 2.1, 2.2, 4.1, 6.

use crate::register::Register;

/// PCI vendor ID of virtio devices (4.1.2).
pub const VENDOR: u16 = 0x1af4;
/// Added to the virtio device type to get the PCI device ID (4.1.2).
pub const DEVICE_ID_BASE: u16 = 0x1040;
/// "No vector" in the MSI-X vector registers (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Device status bits (2.1).
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed upon.
    pub const FEATURES_OK: u8 = 8;
    /// The device needs a reset.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
    /// What a driver may set.
    pub const DRIVER_BITS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Feature bits that are no device's own (6).
pub mod feature {
    /// Indirect descriptors.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event`.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// Queues can be reset one by one.
    pub const RING_RESET: u64 = 1 << 40;
}

/// ISR status bits (4.1.4.5).
pub mod isr {
    /// A queue has used buffers.
    pub const QUEUE: u8 = 1;
    /// The configuration has changed.
    pub const CONFIG: u8 = 2;
}

/// `cfg_type` of the vendor capabilities (4.1.4).
pub mod cap {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications.
    pub const NOTIFY: u8 = 2;
    /// ISR status.
    pub const ISR: u8 = 3;
    /// Device-specific configuration.
    pub const DEVICE: u8 = 4;
    /// Access to the BAR through configuration space.
    pub const PCI: u8 = 5;
}

/// The registers of the common configuration (4.1.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Common {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    DeviceStatus,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDesc,
    QueueDriver,
    QueueDevice,
    QueueNotifyData,
    QueueReset,
}

const ALL32: u64 = 0xffff_ffff;
const ALL16: u64 = 0xffff;

/// See [`Common`]. Reset values are those of the state behind them.
pub const COMMON: &[Register<Common>] = &[
    Register::read_write(Common::DeviceFeatureSelect, 0, 4, 0, ALL32),
    Register::read_only(Common::DeviceFeature, 4, 4, 0),
    Register::read_write(Common::DriverFeatureSelect, 8, 4, 0, ALL32),
    Register::read_write(Common::DriverFeature, 12, 4, 0, ALL32),
    Register::read_write(Common::ConfigVector, 16, 2, NO_VECTOR as u64, ALL16),
    Register::read_only(Common::NumQueues, 18, 2, 0),
    Register::read_write(Common::DeviceStatus, 20, 1, 0, 0xff),
    Register::read_only(Common::ConfigGeneration, 21, 1, 0),
    Register::read_write(Common::QueueSelect, 22, 2, 0, ALL16),
    Register::read_write(Common::QueueSize, 24, 2, 0, ALL16),
    Register::read_write(Common::QueueVector, 26, 2, NO_VECTOR as u64, ALL16),
    Register::read_write(Common::QueueEnable, 28, 2, 0, ALL16),
    Register::read_only(Common::QueueNotifyOff, 30, 2, 0),
    Register::read_write(Common::QueueDesc, 32, 8, 0, u64::MAX),
    Register::read_write(Common::QueueDriver, 40, 8, 0, u64::MAX),
    Register::read_write(Common::QueueDevice, 48, 8, 0, u64::MAX),
    Register::read_only(Common::QueueNotifyData, 56, 2, 0),
    Register::read_write(Common::QueueReset, 58, 2, 0, ALL16),
];
/// Length of the common configuration.
pub const COMMON_LEN: u64 = 60;
