//! Erase: a start, an end, and the command (SD 4.3.5, eMMC 6.6.8).

use spindle_block::{Op, Range};

use super::{Card, card::Own, job::Step, registers::MMC_GROUP, spec::status};

/// What was selected so far, as addresses of the host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Selection {
    start: Option<u32>,
    end: Option<u32>,
}

/// Arguments of CMD38.
mod arg {
    /// Both: erase; eMMC: whole groups.
    pub const ERASE: u32 = 0;
    /// SD: discard. eMMC: trim.
    pub const ONE: u32 = 1;
    /// eMMC: discard.
    pub const MMC_DISCARD: u32 = 3;
}

impl Card {
    pub(super) fn erase_start(&mut self, arg: u32) {
        self.erase = Selection { start: Some(arg), end: None };
        self.check_erase_address(arg);
    }

    pub(super) fn erase_end(&mut self, arg: u32) {
        if self.erase.start.is_none() {
            self.errors |= status::ERASE_SEQ_ERROR;
            self.erase = Selection::default();
            return;
        }
        self.erase.end = Some(arg);
        self.check_erase_address(arg);
    }

    fn check_erase_address(&mut self, arg: u32) {
        if self.address(arg) >= self.area().1 {
            self.errors |= status::OUT_OF_RANGE;
            self.erase = Selection::default();
        }
    }

    /// Any other command ends a sequence (SD 4.3.5).
    pub(super) fn leave_erase(&mut self) {
        if self.erase.start.is_some() {
            self.erase = Selection::default();
            self.errors |= status::ERASE_RESET;
        }
    }

    /// Starts what was selected.
    pub(super) fn erase(&mut self, arg: u32) {
        let selection = std::mem::take(&mut self.erase);
        let (Some(start), Some(end)) = (selection.start, selection.end) else {
            self.errors |= status::ERASE_SEQ_ERROR;
            return;
        };
        let (start, end) = (self.address(start), self.address(end));
        if end < start {
            self.errors |= status::ERASE_PARAM;
            return;
        }
        let (base, limit) = self.area();
        // Both ends are included.
        let mut range = (start, end.saturating_add(u64::from(super::spec::BLOCK)));
        let op = match (&self.own, arg) {
            (_, arg::ERASE) => {
                if matches!(self.own, Own::Emmc(_)) {
                    range.0 = range.0 / MMC_GROUP * MMC_GROUP;
                    range.1 = range.1.next_multiple_of(MMC_GROUP);
                }
                ZEROES
            }
            (Own::Sd(card), arg::ONE) if card.can_discard() => Op::Discard,
            // What was discarded reads as zeros, so that nothing is left for a sanitize.
            (Own::Emmc(_), arg::ONE | arg::MMC_DISCARD) => ZEROES,
            _ => {
                self.errors |= status::ERASE_PARAM;
                return;
            }
        };
        let range = (range.0, range.1.min(limit));
        self.erase_range(op, range, base);
    }

    /// Erases what is not protected of these bytes of the partition at `base`.
    fn erase_range(&mut self, op: Op, (mut at, end): (u64, u64), base: u64) {
        if self.is_protected() {
            self.errors |= status::WP_VIOLATION;
            return;
        }
        let in_user_area = self.in_user_area();
        while at < end {
            let open =
                if in_user_area { self.protect.open(Range::new(at, end - at)) } else { end - at };
            if open > 0 {
                self.job.push(Step::Bare(op, Range::new(base + at, open)));
                at += open;
            }
            if at < end {
                self.errors |= status::WP_ERASE_SKIP;
                at = self.protect.skip(at).max(at + 1);
            }
        }
        self.dirty = true;
        if self.is_durable() {
            self.job.push(Step::Bare(Op::Flush, Range::default()));
        }
    }

    /// Forced erase: all of the data area.
    pub(super) fn erase_all(&mut self) {
        let (start, end) = self.user_area();
        self.job.push(Step::Bare(ZEROES, Range::new(start, end - start)));
        self.job.push(Step::Bare(Op::Flush, Range::default()));
    }
}

const ZEROES: Op = Op::WriteZeroes { unmap: true, fua: false };
