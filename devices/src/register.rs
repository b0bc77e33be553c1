//! Registers as data.
//!
//! A device describes its registers in a const table; what they *do* is one `match` on the name.
//! Odd widths and alignments are handled here, once for all: an access that covers half a register,
//! or two, is cut into [`Part`]s.

use crate::Access;

/// One register.
#[derive(Clone, Copy, Debug)]
pub struct Register<N> {
    /// What the device calls it.
    pub name: N,
    /// Byte offset in the window.
    pub offset: u64,
    /// Width in bytes: 1 to 8.
    pub width: u8,
    /// Value after a reset.
    pub reset: u64,
    /// Bits a guest can write.
    pub writable: u64,
    /// Bits that a guest clears by writing one.
    pub write_one_clear: u64,
}

impl<N> Register<N> {
    /// A register that a guest can only read.
    #[must_use]
    pub const fn read_only(name: N, offset: u64, width: u8, reset: u64) -> Self {
        Self { name, offset, width, reset, writable: 0, write_one_clear: 0 }
    }

    /// A register whose bits in `writable` a guest can write.
    #[must_use]
    pub const fn read_write(name: N, offset: u64, width: u8, reset: u64, writable: u64) -> Self {
        Self { name, offset, width, reset, writable, write_one_clear: 0 }
    }

    /// What the register holds after a guest wrote `value` to the bits in `mask`.
    #[must_use]
    pub const fn merge(&self, old: u64, value: u64, mask: u64) -> u64 {
        let set = self.writable & mask;
        ((old & !set) | (value & set)) & !(value & self.write_one_clear & mask)
    }
}

/// The part of a register that an access covers.
#[derive(Debug)]
pub struct Part<'a, N> {
    /// The register.
    pub register: &'a Register<N>,
    /// Bits of the register that are covered.
    pub mask: u64,
    /// Bit of the register at which the part starts.
    low: u32,
    /// Bit of the access at which the part starts.
    at: u32,
}

impl<N> Part<'_, N> {
    /// Moves the covered bits of the register's value to where the access wants them.
    #[must_use]
    pub fn extract(&self, value: u64) -> u64 {
        ((value & self.mask) >> self.low) << self.at
    }

    /// Moves the bits of a written value to where they lie in the register.
    #[must_use]
    pub fn insert(&self, value: u64) -> u64 {
        ((value >> self.at) << self.low) & self.mask
    }

    /// Whether the whole register is covered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.mask == width_mask(self.register.width)
    }
}

/// All ones, `width` bytes wide.
#[must_use]
pub const fn width_mask(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (width as u32 * 8)) - 1 }
}

/// The parts of `table`'s registers that `access` covers, in the table's order.
pub fn parts<N>(table: &[Register<N>], access: Access) -> impl Iterator<Item = Part<'_, N>> {
    let (start, width) = (access.offset, u64::from(access.width.min(8)));
    table.iter().filter_map(move |register| {
        let end = register.offset + u64::from(register.width);
        let first = register.offset.max(start);
        let last = end.min(start.checked_add(width)?);
        if first >= last {
            return None;
        }
        let low = (first - register.offset) as u32 * 8;
        let mask = width_mask((last - first) as u8) << low;
        Some(Part { register, mask, low, at: (first - start) as u32 * 8 })
    })
}

/// Registers that are memory with rules: bytes, each bit read-only, writable or cleared by writing
/// one.
#[derive(Clone, Debug)]
pub struct RegisterFile {
    value: Vec<u8>,
    reset: Vec<u8>,
    writable: Vec<u8>,
    clear: Vec<u8>,
}

impl RegisterFile {
    /// `len` bytes that read as zero and cannot be written.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let zeros = || vec![0; len];
        Self { value: zeros(), reset: zeros(), writable: zeros(), clear: zeros() }
    }

    /// Puts a register in its place, with its reset value.
    ///
    /// # Panics
    /// When it does not lie inside the file: tables are const.
    pub fn add<N>(&mut self, register: &Register<N>) {
        let at = register.offset as usize;
        for i in 0..usize::from(register.width) {
            let byte = |v: u64| (v >> (i * 8)) as u8;
            self.reset[at + i] = byte(register.reset);
            self.value[at + i] = byte(register.reset);
            self.writable[at + i] = byte(register.writable);
            self.clear[at + i] = byte(register.write_one_clear);
        }
    }

    /// All registers as after power-on.
    pub fn reset(&mut self) {
        self.value.copy_from_slice(&self.reset);
    }

    /// A load. Bytes outside the file read as zero.
    #[must_use]
    pub fn read(&self, access: Access) -> u64 {
        (0..access.width.min(8)).fold(0, |value, i| {
            let at =
                access.offset.checked_add(u64::from(i)).and_then(|at| usize::try_from(at).ok());
            let byte = at.and_then(|at| self.value.get(at)).copied().unwrap_or(0);
            value | u64::from(byte) << (u32::from(i) * 8)
        })
    }

    /// A store by the guest. Bytes outside the file are ignored.
    pub fn write(&mut self, access: Access, value: u64) {
        for i in 0..access.width.min(8) {
            let Some(at) = access.offset.checked_add(u64::from(i)) else { return };
            let Ok(at) = usize::try_from(at) else { return };
            if at >= self.value.len() {
                return;
            }
            let byte = (value >> (u32::from(i) * 8)) as u8;
            let set = self.writable[at];
            self.value[at] = ((self.value[at] & !set) | (byte & set)) & !(byte & self.clear[at]);
        }
    }

    /// A store by the device, whatever a guest may.
    ///
    /// # Panics
    /// When the register does not lie inside the file: the device names its own registers.
    pub fn set(&mut self, offset: usize, width: u8, value: u64) {
        for i in 0..usize::from(width) {
            self.value[offset + i] = (value >> (i * 8)) as u8;
        }
    }

    /// A load by the device.
    #[must_use]
    pub fn get(&self, offset: u64, width: u8) -> u64 {
        self.read(Access { offset, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Register<char>] = &[
        Register::read_write('a', 0, 4, 0x4433_2211, 0xffff_ffff),
        Register::read_only('b', 4, 1, 0x55),
        Register::read_write('c', 5, 1, 0x66, 0x0f),
        Register {
            name: 'd',
            offset: 6,
            width: 2,
            reset: 0x8877,
            writable: 0,
            write_one_clear: 0xff00,
        },
        Register::read_write('e', 8, 8, 0x1122_3344_5566_7788, u64::MAX),
    ];

    fn by_parts(values: &[u64], access: Access) -> u64 {
        parts(TABLE, access).fold(0, |v, part| {
            let at = TABLE.iter().position(|r| r.name == part.register.name).unwrap();
            v | part.extract(values[at])
        })
    }

    #[test]
    fn every_width_and_offset_reads_the_same_bytes_in_both_forms() {
        let mut file = RegisterFile::new(16);
        TABLE.iter().for_each(|r| file.add(r));
        let values: Vec<u64> = TABLE.iter().map(|r| r.reset).collect();
        for offset in 0..20 {
            for width in [1, 2, 4, 8] {
                let access = Access { offset, width };
                assert_eq!(by_parts(&values, access), file.read(access), "{access:?}");
            }
        }
        assert_eq!(file.read(Access { offset: 3, width: 4 }), 0x7766_5544);
    }

    #[test]
    fn every_width_and_offset_writes_the_same_bytes_in_both_forms() {
        for offset in 0..20 {
            for width in [1, 2, 4, 8] {
                for value in [0, u64::MAX, 0xa5a5_5a5a_1234_8765] {
                    let access = Access { offset, width };
                    let mut file = RegisterFile::new(16);
                    TABLE.iter().for_each(|r| file.add(r));
                    file.write(access, value);
                    let mut values: Vec<u64> = TABLE.iter().map(|r| r.reset).collect();
                    for part in parts(TABLE, access) {
                        let at = TABLE.iter().position(|r| r.name == part.register.name).unwrap();
                        values[at] = part.register.merge(values[at], part.insert(value), part.mask);
                    }
                    for at in (0..16).step_by(4) {
                        let all = Access { offset: at, width: 4 };
                        assert_eq!(by_parts(&values, all), file.read(all), "{access:?} {value:x}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_reset_brings_back_the_table() {
        let mut file = RegisterFile::new(16);
        TABLE.iter().for_each(|r| file.add(r));
        file.write(Access { offset: 0, width: 8 }, u64::MAX);
        assert_eq!(file.get(0, 8), 0x0077_6f55_ffff_ffff);
        file.reset();
        assert_eq!(file.get(0, 8), 0x8877_6655_4433_2211);
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let mut file = RegisterFile::new(16);
        let access = Access { offset: u64::MAX, width: 8 };
        file.write(access, 1);
        assert_eq!(file.read(access), 0);
        assert_eq!(parts(TABLE, access).count(), 0);
    }
}
