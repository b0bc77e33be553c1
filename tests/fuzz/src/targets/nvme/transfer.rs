//! Where a command's data lie: PRP entries and lists, SGL descriptors and segments.

use arbitrary::{Result, Unstructured};
use spindle_devices::testkit::{Memory, driver::nvme::Cmd};

use crate::targets::virtio::number;

const PAGE: u64 = 4096;
/// Descriptor types (base 4.1.2.1).
const SEGMENT: u64 = 0x20;
const LAST_SEGMENT: u64 = 0x30;
/// Pages of data.
const DATA_PAGES: u64 = 16;
/// Pages that a transfer which begins in the last of them may reach.
const GUARD_PAGES: u64 = 8;

/// Pages that commands of a host take theirs from.
pub(super) struct Arena {
    /// Two pages of PRP lists.
    lists: u64,
    /// Two pages of SGL segments.
    segments: u64,
    data: u64,
    /// Addresses and descriptors are always right: nothing but these pages is written.
    sound: bool,
}

impl Arena {
    pub(super) fn new(memory: &Memory, sound: bool) -> Self {
        Self {
            lists: memory.alloc(2 * PAGE, PAGE),
            segments: memory.alloc(2 * PAGE, PAGE),
            data: memory.alloc((DATA_PAGES + GUARD_PAGES) * PAGE, PAGE),
            sound,
        }
    }

    fn page(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        Ok(self.data + PAGE * u.int_in_range(0..=DATA_PAGES - 1)?)
    }

    fn is_wrong(&self, u: &mut Unstructured<'_>) -> Result<bool> {
        Ok(!self.sound && u.ratio(1, 24u8)?)
    }

    /// An address that is right, or one that need not be.
    pub(super) fn address(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        if self.is_wrong(u)? { number(u) } else { self.page(u) }
    }

    /// Hides a page from the controller.
    pub(super) fn fail(&self, memory: &Memory, u: &mut Unstructured<'_>) -> Result<()> {
        memory.fail(self.page(u)?, PAGE);
        Ok(())
    }

    /// Gives `cmd` a data pointer for `len` bytes that begin with `bytes`.
    pub(super) fn place(
        &self,
        memory: &Memory,
        cmd: Cmd,
        bytes: &[u8],
        len: usize,
        u: &mut Unstructured<'_>,
    ) -> Result<Cmd> {
        let len = len as u64;
        if u.ratio(1, 3u8)? {
            self.sgl(memory, cmd, bytes, len, u)
        } else {
            self.prp(memory, cmd, bytes, len, u)
        }
    }

    fn prp(
        &self,
        memory: &Memory,
        cmd: Cmd,
        bytes: &[u8],
        len: u64,
        u: &mut Unstructured<'_>,
    ) -> Result<Cmd> {
        let offset = *u.choose(&[0u64, 0, 0, 0, 4, 512, 3968, 1])?;
        let page = self.page(u)?;
        memory.write(page + offset, &bytes[..bytes.len().min((PAGE - offset) as usize)]);
        let more = (offset + len).div_ceil(PAGE).saturating_sub(1);
        let second = match more {
            0 => 0,
            1 => self.address(u)?,
            _ => {
                // A list that ends with its page goes on in another one.
                let list = self.lists;
                let start = if u.ratio(1, 8u8)? { PAGE - 8 } else { 0 };
                for i in 0..more {
                    memory.set_number(list + start + i * 8, 8, self.address(u)?);
                }
                if start > 0 {
                    memory.set_number(list + start, 8, list + PAGE);
                }
                list + start
            }
        };
        let first = if self.is_wrong(u)? { number(u)? } else { page + offset };
        Ok(cmd.data(first, second))
    }

    fn sgl(
        &self,
        memory: &Memory,
        cmd: Cmd,
        bytes: &[u8],
        len: u64,
        u: &mut Unstructured<'_>,
    ) -> Result<Cmd> {
        let segments = self.segments;
        let parts = u.int_in_range(1..=4u64)?;
        let mut left = len;
        let mut descriptors = Vec::new();
        for part in 1..=parts {
            let here = if part == parts { left } else { left.min(u.int_in_range(0..=1024u64)?) };
            left -= here;
            let page = self.page(u)?;
            if part == 1 {
                memory.write(page, bytes);
            }
            descriptors.push((page, here, 0u64));
        }
        for descriptor in &mut descriptors {
            if self.is_wrong(u)? {
                match u.int_in_range(0..=2u8)? {
                    0 => descriptor.0 = number(u)?,
                    1 => descriptor.1 = number(u)?,
                    _ => descriptor.2 = u64::from(u.arbitrary::<u8>()?),
                }
            }
        }
        if let [(at, len, kind)] = descriptors[..]
            && u.arbitrary()?
        {
            return Ok(cmd.flags(0x40).data(at, len & 0xffff_ffff | kind << 56));
        }
        let put = |entry: u64, at: u64, len: u64, kind: u64| {
            memory.set_number(entry, 8, at);
            memory.set_number(entry + 8, 8, len & 0xffff_ffff | kind << 56);
        };
        for (i, (at, len, kind)) in descriptors.iter().enumerate() {
            put(segments + i as u64 * 16, *at, *len, *kind);
        }
        let bytes = descriptors.len() as u64 * 16;
        let (at, len, kind) = match u.int_in_range(0..=15u8)? {
            0 => {
                // A segment that names itself, for ever.
                put(segments + PAGE, segments + PAGE, 16, SEGMENT);
                (segments + PAGE, 16, SEGMENT)
            }
            1 => {
                put(segments + PAGE, segments, bytes, LAST_SEGMENT);
                (segments + PAGE, 16, SEGMENT)
            }
            2 => (segments, bytes, SEGMENT),
            _ => (segments, bytes, LAST_SEGMENT),
        };
        Ok(cmd.flags(0x40).data(at, len | kind << 56))
    }
}
