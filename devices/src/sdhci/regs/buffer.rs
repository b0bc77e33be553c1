//! The data port, and the buffer behind it.

use super::{
    super::spec::{mode, normal},
    Buffer, Effects, Name, Regs,
};

impl Regs {
    /// Takes bytes out of the buffer of the data port.
    pub(super) fn read_port(&mut self, mask: u64, effects: &mut Effects) -> u64 {
        let mut value = 0;
        if !self.buffer.open || self.buffer.write {
            return 0;
        }
        for i in 0..mask.count_ones() / 8 {
            let Some(byte) = self.buffer.bytes.get(self.buffer.at) else { break };
            value |= u64::from(*byte) << (i * 8);
            self.buffer.at += 1;
            self.after_byte(effects);
            if !self.buffer.open {
                break;
            }
        }
        value << mask.trailing_zeros()
    }

    /// Puts bytes into the buffer of the data port.
    pub(super) fn write_port(&mut self, value: u64, mask: u64, effects: &mut Effects) {
        let value = value >> mask.trailing_zeros();
        for i in 0..mask.count_ones() / 8 {
            if !self.buffer.open || !self.buffer.write {
                return;
            }
            let Some(byte) = self.buffer.bytes.get_mut(self.buffer.at) else { return };
            *byte = (value >> (i * 8)) as u8;
            self.buffer.at += 1;
            self.after_byte(effects);
        }
    }

    /// At the end of a block the guest is told of the next, at the end of the last the queue half.
    pub(super) fn after_byte(&mut self, effects: &mut Effects) {
        let buffer = &mut self.buffer;
        if buffer.block == 0 || !buffer.at.is_multiple_of(buffer.block) {
            return;
        }
        if buffer.at < buffer.bytes.len() {
            let ready = if buffer.write { normal::WRITE_READY } else { normal::READ_READY };
            self.raise(ready);
            (effects.interrupt, effects.message) = (true, true);
        } else {
            buffer.open = false;
            self.inbox.buffer = true;
            effects.bell = true;
        }
        self.count_blocks(1);
    }

    /// Opens the buffer of the data port: to be read, or to be written.
    pub fn open_buffer(&mut self, bytes: Vec<u8>, block: usize, write: bool) {
        self.buffer = Buffer { bytes, at: 0, block, write, open: true };
        self.raise(if write { normal::WRITE_READY } else { normal::READ_READY });
    }

    /// The bytes of a buffer that is full, or empty.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer).bytes
    }

    /// Blocks have been moved: the block count goes down, if it counts.
    pub fn count_blocks(&mut self, blocks: u32) {
        if self.get16(Name::TransferMode) & mode::COUNT != 0 {
            let left = self.get(Name::BlockCount).saturating_sub(blocks.into());
            self.set(Name::BlockCount, left);
        }
    }
}
