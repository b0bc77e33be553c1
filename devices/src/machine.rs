//! What a device needs from the machine around it, and what it offers to it.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// One access of a guest to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Byte offset from the start of the device's window.
    pub offset: u64,
    /// Width in bytes: 1, 2, 4 or 8.
    pub width: u8,
}

/// The register half of a device, called by several vCPU threads at once.
pub trait Registers: Send + Sync {
    /// A load. Bytes beyond `width` are ignored by the caller.
    fn read(&self, access: Access) -> u64;
    /// A store of the low `width` bytes of `value`.
    fn write(&self, access: Access, value: u64);
}

/// Which address space a window lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Guest-physical memory.
    Memory,
    /// x86 I/O ports.
    Port,
}

/// A range of addresses that a device claims.
#[derive(Clone)]
pub struct Window {
    /// Address space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// Writes have no effect until another, trapping write to the same device: the machine may
    /// collect them and deliver them later, in order, before the next trapping access.
    pub coalesce: bool,
    /// Who answers; offsets count from `base`, plus `target_offset`.
    pub target: Arc<dyn Registers>,
    /// Added to the offset of every access.
    pub target_offset: u64,
}

/// A write that only rings a bell: the machine may signal `event` instead of calling
/// [`Registers::write`]. It lies inside a [`Window`] of the same device, which rings the same bell
/// when it does get the write.
#[derive(Clone)]
pub struct Doorbell {
    /// Address space.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// Width in bytes: 0 (any), 1, 2, 4 or 8.
    pub width: u8,
    /// Only writes of this value ring it; `None`: every write.
    pub value: Option<u64>,
    /// What is signalled.
    pub event: Arc<EventFd>,
}

/// All that a device claims at this moment.
#[derive(Clone, Default)]
pub struct Windows {
    /// Ranges that answer.
    pub ranges: Vec<Window>,
    /// Doorbells in them.
    pub doorbells: Vec<Doorbell>,
}

/// Where a device declares its windows. It does so whenever they change (a BAR was moved, decoding
/// was switched, a queue was enabled, a reset), on the thread that caused the change and before the
/// access that did returns; the machine has acted on it when `set` returns.
pub trait WindowSink: Send + Sync {
    /// Replaces what `device` (a number that is the device's own on this machine) claims. Where the
    /// claim collides with another device's, the earlier one keeps the addresses and the collision
    /// is logged.
    fn set(&self, device: u32, windows: Windows);
}

/// An address and a value that an MSI writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address.
    pub address: u64,
    /// The value.
    pub data: u32,
}

/// An edge: one message-signalled vector. Masking and pending bits are the device's
/// (`devices::pci::msix`); this only delivers.
pub trait MsiIrq: Send + Sync {
    /// Delivers the configured message. From any thread; one system call at most.
    fn raise(&self);
    /// Sets the message that [`MsiIrq::raise`] delivers from now on; `None`: none. Called on vCPU
    /// threads, in the access that changes it.
    fn configure(&self, message: Option<MsiMessage>);
}

/// Where a device gets vectors from when it is built.
pub trait MsiSource: Send + Sync {
    /// `count` vectors of its own.
    ///
    /// # Errors
    /// When the machine has no more interrupt routes.
    fn vectors(&self, count: u16) -> std::io::Result<Vec<Arc<dyn MsiIrq>>>;
}

/// A level: the wire of one interrupt source. The machine ORs the wires that share an input, and
/// keeps the line up as long as one of them is. Not `Clone`: each source has its own.
pub trait LineIrq: Send + Sync {
    /// Sets this source's level. Idempotent, from any thread.
    fn set(&self, level: bool);
}

/// What a device asks of the machine as a whole. It is only a request: the caller (a vCPU inside an
/// access) goes on, and the machine acts on it afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// ACPI S5.
    PowerOff,
    /// A reset, by whatever way.
    Reset,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The guest reported a panic.
    Panic,
}

/// Who hears of [`PowerRequest`]s.
pub trait PowerSink: Send + Sync {
    /// Notes the request, without waiting.
    fn request(&self, request: PowerRequest);
}
