//! What keeps a card busy.

use std::collections::VecDeque;

use spindle_block::{Op, Range};

use crate::state_file::Section;

/// One thing to be done before a card is ready again.
#[derive(Debug)]
pub enum Step {
    /// A request without data.
    Bare(Op, Range),
    /// A durable write of these bytes at this offset.
    Write(u64, Vec<u8>),
    /// This section of the state is to be kept.
    Save(&'static str, Section),
}

/// The longest range that one request covers, in bytes: others get their turn in between.
const PIECE_MAX: u64 = 1 << 30;

/// Steps that are left.
#[derive(Debug, Default)]
pub(super) struct Job(VecDeque<Step>);

impl Job {
    pub fn push(&mut self, step: Step) {
        self.0.push_back(step);
    }

    /// The next step; a long one is cut.
    pub fn next(&mut self) -> Option<Step> {
        match self.0.pop_front()? {
            Step::Bare(op, range) if range.len > PIECE_MAX => {
                let rest = Range::new(range.offset + PIECE_MAX, range.len - PIECE_MAX);
                self.0.push_front(Step::Bare(op, rest));
                Some(Step::Bare(op, Range::new(range.offset, PIECE_MAX)))
            }
            step => Some(step),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
