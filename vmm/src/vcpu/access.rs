//! The access that made a CPU leave the guest, as KVM describes it.

use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO, kvm_run};
use spindle_devices::Space;

use super::ExitKind;
use crate::bus::BusView;

/// Does a port or memory access on the bus; `None` when the exit is for something else. `size` is
/// the length of the mapping that `run` is the start of.
pub(super) fn perform(run: &mut kvm_run, size: usize, bus: &mut BusView) -> Option<ExitKind> {
    match run.exit_reason {
        KVM_EXIT_IO => ports(run, size, bus),
        KVM_EXIT_MMIO => Some(memory(run, bus)),
        _ => None,
    }
}

fn memory(run: &mut kvm_run, bus: &mut BusView) -> ExitKind {
    // SAFETY: the exit reason says that this arm of the union was filled in.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let len = mmio.len.min(8) as usize;
    if mmio.is_write != 0 {
        bus.write(Space::Memory, mmio.phys_addr, &mmio.data[..len]);
        ExitKind::MemoryWrite
    } else {
        bus.read(Space::Memory, mmio.phys_addr, &mut mmio.data[..len]);
        ExitKind::MemoryRead
    }
}

/// A port access; one exit may carry many elements of a string instruction, all to the same port.
fn ports(run: &mut kvm_run, size: usize, bus: &mut BusView) -> Option<ExitKind> {
    // SAFETY: the exit reason says that this arm of the union was filled in.
    let io = unsafe { run.__bindgen_anon_1.io };
    let width = usize::from(io.size);
    let len = width.checked_mul(io.count as usize)?;
    let start = usize::try_from(io.data_offset).ok()?;
    if width == 0 || start.checked_add(len)? > size {
        log::error!("KVM describes port data at {start:#x}, beyond its page");
        return None;
    }
    // SAFETY: the range was checked to lie inside the mapping that `run` is the start of; KVM does
    // not touch it until the CPU is entered again.
    let data = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(start), len)
    };
    let port = u64::from(io.port);
    let input = u32::from(io.direction) == KVM_EXIT_IO_IN;
    for element in data.chunks_exact_mut(width) {
        if input {
            bus.read(Space::Port, port, element);
        } else {
            bus.write(Space::Port, port, element);
        }
    }
    Some(if input { ExitKind::PortRead } else { ExitKind::PortWrite })
}
