//! Descriptor chains (virtio 1.2, 2.7.5).

use super::RingError;
use crate::{Dma, dma::View};

/// Most descriptors that one request may have, however they are linked.
const CHAIN_MAX: u32 = 2048;

/// Bytes of an entry of a descriptor table.
pub(super) const DESCRIPTOR_LEN: u64 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// An entry of a descriptor table (2.7.5): address, length, flags and next, packed in this order.
#[derive(Clone, Copy)]
struct Descriptor([u64; 2]);

impl Descriptor {
    fn address(self) -> u64 {
        self.0[0]
    }

    fn len(self) -> u32 {
        self.0[1] as u32
    }

    fn has(self, flag: u16) -> bool {
        (self.0[1] >> 32) as u16 & flag != 0
    }

    fn next(self) -> u16 {
        (self.0[1] >> 48) as u16
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes to it; otherwise it only reads.
    pub writable: bool,
}

/// A descriptor chain that the driver made available. Every descriptor is read once, by value, and no
/// more of them than its table has: a loop ends as an error.
pub struct Chain<'a> {
    dma: &'a Dma,
    table: View<'a>,
    /// The table is an indirect one: it is the chain's last.
    indirect: bool,
    /// Entries of the table.
    entries: u32,
    head: u16,
    next: u16,
    more: bool,
    seen: u32,
    /// Most descriptors that may be seen.
    limit: u32,
    /// A chain has fewer than 2^32 bytes (2.7.5.2).
    bytes: u32,
}

impl<'a> Chain<'a> {
    #[inline]
    pub(super) fn new(dma: &'a Dma, table: View<'a>, size: u16, head: u16) -> Self {
        let entries = u32::from(size);
        Self {
            dma,
            table,
            indirect: false,
            entries,
            head,
            next: head,
            more: true,
            seen: 0,
            limit: entries.min(CHAIN_MAX),
            bytes: 0,
        }
    }

    /// The chain's name in the used ring.
    #[inline]
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The next buffer; `None` at the chain's end.
    ///
    /// # Errors
    /// When the chain is malformed: it ends although its last descriptor named a next one.
    #[inline]
    pub fn next_buffer(&mut self) -> Result<Option<Buffer>, RingError> {
        if !self.more {
            return Ok(None);
        }
        let mut descriptor = self.descriptor()?;
        if descriptor.has(INDIRECT) {
            self.enter(descriptor)?;
            descriptor = self.descriptor()?;
        }
        if descriptor.has(INDIRECT) || self.seen == self.limit {
            return Err(RingError::Chain);
        }
        let len = descriptor.len();
        self.bytes = self.bytes.checked_add(len).ok_or(RingError::Chain)?;
        self.seen += 1;
        self.more = descriptor.has(NEXT);
        self.next = descriptor.next();
        Ok(Some(Buffer { address: descriptor.address(), len, writable: descriptor.has(WRITE) }))
    }

    #[inline]
    fn descriptor(&self) -> Result<Descriptor, RingError> {
        if u32::from(self.next) >= self.entries {
            return Err(RingError::Chain);
        }
        Ok(Descriptor(self.table.load_u64s(u64::from(self.next) * DESCRIPTOR_LEN)))
    }

    /// Goes on in the table that `descriptor` names: there is no way back (2.7.5.3).
    #[inline]
    fn enter(&mut self, descriptor: Descriptor) -> Result<(), RingError> {
        let len = u64::from(descriptor.len());
        let entries = (len / DESCRIPTOR_LEN) as u32;
        if self.indirect || !len.is_multiple_of(DESCRIPTOR_LEN) || entries > 0xffff {
            return Err(RingError::Chain);
        }
        self.table = self.dma.view(descriptor.address(), len).map_err(|_| RingError::Chain)?;
        self.indirect = true;
        self.entries = entries;
        self.next = 0;
        self.limit = self.seen.saturating_add(entries).min(CHAIN_MAX);
        Ok(())
    }
}
