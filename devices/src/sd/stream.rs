//! Blocks of the medium on their way.

use spindle_block::Range;

/// A read or write of blocks that a command has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// To the medium.
    pub write: bool,
    /// Each write is to be durable before it counts as done.
    pub durable: bool,
    /// Bytes of a block.
    pub block_len: u32,
    /// Blocks left; `None`: as many as the host wants.
    pub left: Option<u32>,
    /// Where the next block lies, in bytes from the start of the image.
    pub offset: u64,
    /// Where the partition ends.
    pub end: u64,
}

impl Stream {
    /// How many of `wanted` blocks can go at once. 0 while there are blocks left: the partition ends
    /// here.
    #[must_use]
    pub fn next(&self, wanted: u32) -> u32 {
        let room = self.end.saturating_sub(self.offset) / u64::from(self.block_len.max(1));
        let blocks = wanted.min(self.left.unwrap_or(u32::MAX));
        blocks.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Where the next `blocks` lie.
    #[must_use]
    pub fn range(&self, blocks: u32) -> Range {
        Range::new(self.offset, u64::from(blocks) * u64::from(self.block_len))
    }

    /// Whether no block is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left == Some(0)
    }
}
