//! From DMA settings to guest memory: SDMA addresses and ADMA descriptors (SDHC 1.13, 1.14).

use spindle_block::IoBuf;

use super::spec::{adma_error, control};
use crate::Dma;

/// The most descriptors in a row that move no data: a table that links to itself ends.
const EMPTY_MAX: u32 = 4096;
/// After this many descriptors a piece ends with the next whole block.
const DESCRIPTORS_MAX: u32 = 4096;

/// Why ADMA stopped: what its error status register says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdmaError(pub u8);

/// Which descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// 32 bits: address or length, and attributes.
    Adma1,
    /// 64 bits.
    Adma2,
    /// 96 bits.
    Adma2Wide,
}

/// Attributes of a descriptor.
mod attribute {
    pub const VALID: u32 = 1 << 0;
    pub const END: u32 = 1 << 1;
    pub const INTERRUPT: u32 = 1 << 2;
    pub const ACTION: u32 = 3 << 4;
    /// ADMA1 only.
    pub const SET_LENGTH: u32 = 1 << 4;
    pub const TRANSFER: u32 = 2 << 4;
    pub const LINK: u32 = 3 << 4;
}

/// A walk through a descriptor table.
#[derive(Clone, Debug)]
pub(super) struct Adma {
    layout: Layout,
    /// The next descriptor.
    pub next: u64,
    /// What is left of the last one.
    address: u64,
    left: u64,
    /// ADMA1: the length that the next transfer has.
    length: u64,
    ended: bool,
    /// A descriptor that is done asked for an interrupt.
    pub interrupt: bool,
}

impl Adma {
    /// A walk from a table on, as DMA select says; `None`: it selects no ADMA.
    pub fn new(select: u8, table: u64) -> Option<Self> {
        let layout = match select & control::DMA {
            control::ADMA1 => Layout::Adma1,
            control::ADMA2 => Layout::Adma2,
            control::ADMA2_64 => Layout::Adma2Wide,
            _ => return None,
        };
        let next = if layout == Layout::Adma2Wide { table } else { table & 0xffff_ffff };
        Some(Self {
            layout,
            next: next & !3,
            address: 0,
            left: 0,
            length: 4096,
            ended: false,
            interrupt: false,
        })
    }

    fn step(&self) -> u64 {
        match self.layout {
            Layout::Adma1 => 4,
            Layout::Adma2 => 8,
            Layout::Adma2Wide => 12,
        }
    }

    /// Attributes, length and address of the next descriptor.
    fn fetch(&self, dma: &Dma) -> Result<(u32, u64, u64), AdmaError> {
        let not_ram = |_| AdmaError(adma_error::FETCH);
        Ok(match self.layout {
            Layout::Adma1 => {
                let word = u32::from_le(dma.read(self.next).map_err(not_ram)?);
                (word, u64::from(word >> 12 & 0xffff), u64::from(word & 0xffff_f000))
            }
            Layout::Adma2 => {
                let words: [u32; 2] = dma.read(self.next).map_err(not_ram)?;
                let [word, address] = words.map(u32::from_le);
                (word, u64::from(word >> 16), address.into())
            }
            Layout::Adma2Wide => {
                let words: [u32; 3] = dma.read(self.next).map_err(not_ram)?;
                let [word, low, high] = words.map(u32::from_le);
                (word, u64::from(word >> 16), u64::from(high) << 32 | u64::from(low))
            }
        })
    }

    /// Reads descriptors until one moves data.
    fn advance(&mut self, dma: &Dma) -> Result<(), AdmaError> {
        for _ in 0..EMPTY_MAX {
            if self.ended {
                return Err(AdmaError(adma_error::TRANSFER | adma_error::LENGTH));
            }
            let (word, length, address) = self.fetch(dma)?;
            if word & attribute::VALID == 0 {
                return Err(AdmaError(adma_error::FETCH));
            }
            let action = word & attribute::ACTION;
            self.interrupt |= word & attribute::INTERRUPT != 0;
            self.ended = word & attribute::END != 0;
            self.next = self.next.wrapping_add(self.step());
            match (self.layout, action) {
                (_, attribute::LINK) => {
                    self.next = address & !3;
                    // The end is where the link leads to.
                    continue;
                }
                (Layout::Adma1, attribute::SET_LENGTH) => {
                    self.length = if length == 0 { 0x1_0000 } else { length };
                }
                (Layout::Adma1, attribute::TRANSFER) => {
                    (self.address, self.left) = (address, self.length);
                    return Ok(());
                }
                (_, attribute::TRANSFER) => {
                    let length = if length == 0 { 0x1_0000 } else { length };
                    (self.address, self.left) = (address, length);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(AdmaError(adma_error::FETCH))
    }

    /// Adds the memory of the next `blocks` blocks to `buf`, or of fewer where the table is cut in many
    /// small pieces, or where it ends, if it is `open` how many there are. Returns how many.
    pub fn gather(
        &mut self,
        dma: &Dma,
        buf: &mut IoBuf,
        blocks: u32,
        block_len: u32,
        open: bool,
    ) -> Result<u32, AdmaError> {
        let len = u64::from(block_len);
        let (mut target, mut done) = (u64::from(blocks) * len, 0);
        let mut descriptors = 0;
        while done < target {
            if self.left == 0 {
                if open && self.ended && done > 0 && done.is_multiple_of(len) {
                    target = done;
                    continue;
                }
                descriptors += 1;
                if descriptors == DESCRIPTORS_MAX {
                    target = target.min(done.next_multiple_of(len).max(len));
                    continue;
                }
                self.advance(dma)?;
            }
            let n = self.left.min(target - done);
            dma.push(buf, self.address, n).map_err(|_| AdmaError(adma_error::TRANSFER))?;
            self.address = self.address.wrapping_add(n);
            self.left -= n;
            done += n;
        }
        Ok((target / len) as u32)
    }

    /// Whether the table describes more than was used.
    pub fn has_more(&self) -> bool {
        self.left > 0 || !self.ended
    }

    /// The length of all that is left ahead is wrong when the blocks are over.
    pub fn finish(&self) -> Result<(), AdmaError> {
        if self.left > 0 {
            return Err(AdmaError(adma_error::TRANSFER | adma_error::LENGTH));
        }
        Ok(())
    }
}

/// Where SDMA is: one address, that stops at every boundary (SDHC 2.2.1, 2.2.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sdma {
    pub address: u32,
    /// Bytes between boundaries: a power of two.
    boundary: u32,
}

impl Sdma {
    pub fn new(address: u32, block_size: u16) -> Self {
        Self { address, boundary: 4096 << (block_size >> 12 & 7) }
    }

    /// Bytes up to the next boundary.
    pub fn room(&self) -> u32 {
        self.boundary - (self.address & (self.boundary - 1))
    }

    /// Goes on by `len` bytes, at most to the next boundary. Returns whether it is there.
    pub fn advance(&mut self, len: u32) -> bool {
        self.address = self.address.wrapping_add(len);
        self.address & (self.boundary - 1) == 0
    }
}
