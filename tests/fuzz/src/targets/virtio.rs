//! A virtio disk under a driver that goes wrong: its registers, and its rings.

use std::rc::Rc;

use arbitrary::{Result, Unstructured};
use spindle_devices::{
    pci::Address,
    testkit::{
        Machine,
        driver::{BlkDriver, Descriptor, Function},
    },
};

const DISK: u64 = 1 << 20;
const RING: u16 = 16;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

fn machine() -> (Rc<Machine>, Address) {
    let machine = Machine::new(1);
    let disk = machine.add_disk("disk0", DISK, |config| config.queue_size = RING);
    machine.assign();
    (Rc::new(machine), disk.at)
}

/// Whatever happened, after a reset it is a disk.
fn works(machine: &Rc<Machine>, at: Address) {
    machine.run();
    machine.reset(at);
    machine.assign();
    let mut driver = BlkDriver::new(machine, at, u64::MAX, 1, RING);
    let data = [0x5a; 4096];
    assert_eq!(driver.write(8, &data).status, 0);
    assert_eq!(driver.read(8, 4096).data, data);
    assert_eq!(machine.irqs.stray(), 0, "an interrupt without a message");
}

/// A number, most often a small one or a single bit.
pub(super) fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 => u.int_in_range(0..=15u64)?,
        1 => 1 << u.int_in_range(0..=63u32)?,
        2 => u.int_in_range(0..=0xffffu64)?,
        _ => u.arbitrary()?,
    })
}

/// Accesses to every register, in any order.
pub(super) fn registers(data: &[u8]) {
    let (machine, at) = machine();
    let driver = BlkDriver::new(&machine, at, u64::MAX, 1, RING);
    let mut u = Unstructured::new(data);
    // The bytes end where they end.
    while !u.is_empty() && register_step(&driver.function, true, &mut u).is_ok() {}
    works(&machine, at);
}

/// Whether an access to configuration space meets a BAR: where there are two devices, they must not
/// claim the same addresses.
pub(super) fn is_bar(offset: u64, width: u8) -> bool {
    offset < 0x28 && offset + u64::from(width) > 0x10
}

/// An access to any register; to BARs where the device is `alone`.
pub(super) fn register_step(
    function: &Function,
    alone: bool,
    u: &mut Unstructured<'_>,
) -> Result<()> {
    let width = *u.choose(&[1u8, 2, 4, 8])?;
    let machine = &function.machine;
    match u.int_in_range(0..=11u8)? {
        0..=4 => {
            let offset = u.int_in_range(0..=63u64)?;
            function.set(offset, width, number(u)?);
        }
        5 => drop(function.get(u.int_in_range(0..=79u64)?, width)),
        6 => {
            let offset = u.int_in_range(0..=79u64)?;
            machine.write(function.config.at + offset, width, number(u)?);
        }
        7 => {
            let offset = u.int_in_range(0..=0xffu64)?;
            let value = number(u)?;
            if alone || !is_bar(offset, width) {
                function.set_pci(offset, width, value);
            }
        }
        8 => {
            let offset = u.int_in_range(0..=63u64)?;
            machine.write(function.notify.at + offset, width, number(u)?);
        }
        9 => {
            let offset = u.int_in_range(0..=function.table.len + 16)?;
            machine.write(function.table.at + offset, width, number(u)?);
        }
        10 => machine.run(),
        _ => machine.turn(),
    }
    Ok(())
}

/// Requests that are right but for a descriptor, a length, an index or a byte now and then.
pub(super) fn rings(data: &[u8]) {
    let (machine, at) = machine();
    let mut u = Unstructured::new(data);
    let wanted =
        if u.ratio(1, 2u8).unwrap_or(true) { u64::MAX } else { number(&mut u).unwrap_or(0) };
    let mut driver = BlkDriver::new(&machine, at, wanted, 1, RING);
    while !u.is_empty() && ring_step(&mut driver, &mut u).is_ok() {}
    works(&machine, at);
}

fn ring_step(driver: &mut BlkDriver, u: &mut Unstructured<'_>) -> Result<()> {
    const KINDS: &[u32] = &[0, 0, 1, 1, 4, 8, 10, 11, 13, 14];
    let kind = if u.ratio(1, 16u8)? { u.arbitrary()? } else { *u.choose(KINDS)? };
    let sector = if u.ratio(1, 16u8)? { number(u)? } else { u.int_in_range(0..=DISK / 512 - 16)? };
    let memory = driver.function.machine.memory.clone();
    let header = memory.alloc(16, 8);
    memory.set_number(header, 4, kind.into());
    memory.set_number(header + 8, 8, sector);
    let mut buffers = vec![(header, 16, false)];
    let (parts, writes) = match kind {
        0 | 8 | 10 => (u.int_in_range(1..=4u32)?, true),
        4 => (0, false),
        _ => (u.int_in_range(1..=4u32)?, false),
    };
    for _ in 0..parts {
        let len = match kind {
            8 => 20,
            10 => 6,
            11 | 13 | 14 => 16,
            _ => 512 * u.int_in_range(1..=4u32)?,
        };
        let at = memory.alloc(len.into(), 16);
        if matches!(kind, 11 | 13 | 14) {
            memory.set_number(at, 8, sector);
            memory.set_number(at + 8, 4, u.int_in_range(0..=16u64)?);
            memory.set_number(at + 12, 4, u64::from(u.ratio(1, 4u8)?));
        }
        buffers.push((at, len, writes));
    }
    buffers.push((memory.alloc(1, 1), 1, true));
    if u.ratio(1, 8u8)? {
        spoil(&mut buffers, u)?;
    }
    let ring = &mut driver.rings[0];
    let indirect = u.ratio(1, 4u8)?;
    let head = if indirect { ring.indirect(&buffers) } else { ring.chain(&buffers) };
    if u.ratio(1, 8u8)? {
        spoil_descriptor(driver, u)?;
    }
    let ring = &mut driver.rings[0];
    ring.offer(if u.ratio(1, 32u8)? { u.arbitrary()? } else { head });
    if u.ratio(1, 32u8)? {
        memory.set_number(ring.avail + 2, 2, number(u)?);
    }
    if u.ratio(1, 16u8)? {
        ring.set_used_event(u.arbitrary()?);
    }
    ring.notify();
    match u.int_in_range(0..=3u8)? {
        0 => driver.function.machine.run(),
        1 => driver.function.machine.turn(),
        _ => {}
    }
    // What was answered was asked for, and is not longer than memory.
    while let Some((_, len)) = driver.rings[0].take() {
        assert!(u64::from(len) <= 20 << 20, "{len} bytes written");
    }
    Ok(())
}

type Buffer = (u64, u32, bool);

fn spoil(buffers: &mut Vec<Buffer>, u: &mut Unstructured<'_>) -> Result<()> {
    let at = u.choose_index(buffers.len())?;
    match u.int_in_range(0..=5u8)? {
        0 => buffers[at].0 = number(u)?,
        1 => buffers[at].0 = buffers[at].0.wrapping_add(number(u)?),
        2 => buffers[at].1 = number(u)? as u32,
        3 => buffers[at].2 = !buffers[at].2,
        4 => drop(buffers.remove(at)),
        _ => buffers.insert(at, buffers[at]),
    }
    if buffers.is_empty() {
        buffers.push((0, 0, false));
    }
    Ok(())
}

fn spoil_descriptor(driver: &BlkDriver, u: &mut Unstructured<'_>) -> Result<()> {
    let descriptor = Descriptor {
        address: number(u)?,
        len: number(u)? as u32,
        flags: u.int_in_range(0..=15u16)?,
        next: u.int_in_range(0..=RING + 1)?,
    };
    driver.rings[0].set(u.int_in_range(0..=RING - 1)?, descriptor);
    Ok(())
}
