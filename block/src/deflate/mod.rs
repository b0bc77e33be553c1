//! Raw deflate (RFC 1951) in a window of 4 KiB, for the compressed clusters of qcow2.
//!
//! A packer for short, whole pieces: it keeps the symbols of 64 KiB, decides then where blocks begin
//! and end, and gives each its own codes. Everything that it looks at stays in the first level of
//! cache. Streams are those of `deflateInit2(…, -12, …)`: no match reaches back further than
//! 4096 bytes.

mod bits;
mod block;
mod finder;
mod huffman;

use bits::Bits;
use block::{Counts, Logs, Step};
use finder::{Finder, MATCH_MAX, MATCH_MIN, SLACK, WINDOW};

/// Bytes whose symbols are collected before they are written.
const PIECE: usize = 64 << 10;
/// Blocks begin only at such steps, in bytes.
const GRAIN: usize = 8 << 10;
/// Literals in a row before a step ends.
const LITERALS_MAX: u32 = 4096;
/// Behind a match of this length, no better one is looked for.
const GOOD: usize = 32;

/// Packs pieces of data, each for itself.
pub struct Encoder {
    finder: Finder,
    logs: Logs,
    data: Vec<u8>,
    steps: Vec<Step>,
    grains: Vec<Grain>,
}

/// What a part of the data became.
struct Grain {
    counts: Counts,
    /// Where its steps and its bytes end.
    steps: usize,
    end: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder. Takes about 300 KiB, and as much as the largest piece that it packs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            finder: Finder::new(),
            logs: Logs::new(),
            data: Vec::new(),
            steps: Vec::new(),
            grains: Vec::new(),
        }
    }

    /// Packs `data` into `out`, and returns how many bytes that took; `None` where they do not fit.
    pub fn encode(&mut self, data: &[u8], out: &mut [u8]) -> Option<usize> {
        self.finder.forget();
        self.data.clear();
        self.data.resize(WINDOW, 0);
        self.data.extend_from_slice(data);
        self.data.resize(WINDOW + data.len() + SLACK, 0);
        let mut bits = Bits::new(out);
        let mut from = 0;
        loop {
            let end = (from + PIECE).min(data.len());
            self.parse(from, end);
            self.merge();
            let mut steps = 0;
            for grain in &mut self.grains {
                let last = grain.end == data.len();
                let (bytes, own) = (&data[from..grain.end], &self.steps[steps..grain.steps]);
                block::write(&mut bits, &mut grain.counts, own, bytes, last);
                (from, steps) = (grain.end, grain.steps);
            }
            if !bits.fits() {
                return None;
            }
            if from == data.len() {
                bits.align();
                return bits.fits().then_some(bits.len());
            }
        }
    }

    /// Turns `from..end` into steps, in grains.
    fn parse(&mut self, from: usize, end: usize) {
        self.steps.clear();
        self.grains.clear();
        let data = &self.data[..];
        let mut grain = Grain { counts: Counts::NONE, steps: 0, end: from };
        let mut next_grain = from + GRAIN;
        let (mut at, mut literals) = (from, 0);
        while at < end {
            let found = self.finder.find(data, at, MATCH_MAX.min(end - at));
            if found.len < MATCH_MIN {
                grain.counts.literal(data[WINDOW + at]);
                literals += 1;
                at += 1;
                if literals == LITERALS_MAX {
                    self.steps.push(Step { literals, len: 0, dist: 0 });
                    literals = 0;
                }
            } else {
                let (mut found, mut entered) = (found, at + 1);
                while found.len < GOOD && at + 1 < end {
                    // A longer match one byte later is worth a literal.
                    let later = self.finder.find(data, at + 1, MATCH_MAX.min(end - at - 1));
                    entered = at + 2;
                    if later.len <= found.len {
                        break;
                    }
                    grain.counts.literal(data[WINDOW + at]);
                    literals += 1;
                    at += 1;
                    found = later;
                }
                grain.counts.found(found);
                self.steps.push(Step { literals, len: found.len as u16, dist: found.dist as u16 });
                literals = 0;
                at += found.len;
                while entered < at {
                    self.finder.insert(data, entered);
                    entered += 1;
                }
            }
            if literals == 0 && at >= next_grain {
                (grain.steps, grain.end) = (self.steps.len(), at);
                let fresh = Grain { counts: Counts::NONE, steps: 0, end: at };
                self.grains.push(std::mem::replace(&mut grain, fresh));
                next_grain = at + GRAIN;
            }
        }
        if literals > 0 {
            self.steps.push(Step { literals, len: 0, dist: 0 });
        }
        if grain.end < end || self.grains.is_empty() {
            (grain.steps, grain.end) = (self.steps.len(), end);
            self.grains.push(grain);
        }
    }

    /// Joins neighbouring grains that are shorter with common codes.
    fn merge(&mut self) {
        let together = |a: &Grain, b: &Grain, logs: &Logs| {
            let mut both = a.counts.clone();
            both.add(&b.counts);
            both.estimate(logs)
        };
        let mut alone: Vec<f32> =
            self.grains.iter().map(|g| g.counts.estimate(&self.logs)).collect();
        let pairs = self.grains.windows(2);
        let mut joined: Vec<f32> = pairs.map(|p| together(&p[0], &p[1], &self.logs)).collect();
        loop {
            let gain = |n: usize| alone[n] + alone[n + 1] - joined[n];
            let best = (0..joined.len()).max_by(|a, b| gain(*a).total_cmp(&gain(*b)));
            let Some(n) = best.filter(|n| gain(*n) > 0.0) else { return };
            let second = self.grains.remove(n + 1);
            let first = &mut self.grains[n];
            first.counts.add(&second.counts);
            (first.steps, first.end) = (second.steps, second.end);
            alone.remove(n + 1);
            alone[n] = joined.remove(n);
            let behind = (n + 1 < self.grains.len()).then_some(n);
            for m in n.checked_sub(1).into_iter().chain(behind) {
                joined[m] = together(&self.grains[m], &self.grains[m + 1], &self.logs);
            }
        }
    }
}

#[cfg(test)]
mod tests;
