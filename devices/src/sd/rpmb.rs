//! The replay protected memory block (eMMC 6.6.22).

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use spindle_block::{BlockError, Range};

use super::{
    job::{Job, Step},
    spec::BLOCK,
};
use crate::state_file::{DiskState, Fields, Section, Truncated};

/// Where the parts of a frame lie.
mod frame {
    use std::ops::Range;
    pub const MAC: Range<usize> = 196..228;
    pub const DATA: Range<usize> = 228..484;
    pub const NONCE: Range<usize> = 484..500;
    pub const COUNTER: Range<usize> = 500..504;
    pub const ADDRESS: Range<usize> = 504..506;
    pub const BLOCKS: Range<usize> = 506..508;
    pub const RESULT: Range<usize> = 508..510;
    pub const KIND: Range<usize> = 510..512;
}

/// Requests; a response is the same number, a byte higher.
mod kind {
    pub const KEY: u16 = 1;
    pub const COUNTER: u16 = 2;
    pub const WRITE: u16 = 3;
    pub const READ: u16 = 4;
    pub const RESULT: u16 = 5;
}

/// Results (eMMC table 20).
mod result {
    pub const OK: u16 = 0;
    pub const GENERAL: u16 = 1;
    pub const AUTHENTICATION: u16 = 2;
    pub const COUNTER: u16 = 3;
    pub const ADDRESS: u16 = 4;
    pub const WRITE: u16 = 5;
    pub const READ: u16 = 6;
    pub const NO_KEY: u16 = 7;
    pub const EXPIRED: u16 = 0x80;
}

const FRAME: usize = BLOCK as usize;
/// Bytes of data in a frame.
const HALF: u64 = 256;
/// The most half sectors of one write: REL_WR_SEC_C is 1 and EN_RPMB_REL_WR is set.
const WRITES: [usize; 3] = [1, 2, 32];

const SECTION: &str = "rpmb";
const SECTION_VERSION: u16 = 1;

/// What was asked for and not answered yet.
#[derive(Clone, Debug)]
struct Asked {
    kind: u16,
    result: u16,
    address: u16,
    nonce: [u8; 16],
}

/// The partition's state; its data are in the image.
pub(super) struct Rpmb {
    start: u64,
    len: u64,
    key: Option<[u8; 32]>,
    counter: u32,
    /// The write under way is a reliable one.
    reliable: bool,
    asked: Option<Asked>,
    /// The blocks of the read under way.
    blocks: u32,
}

fn number(frame: &[u8], at: std::ops::Range<usize>) -> u16 {
    frame[at].iter().fold(0, |value, byte| value << 8 | u16::from(*byte))
}

impl Rpmb {
    pub fn new(start: u64, len: u64, state: &Arc<DiskState>) -> Self {
        let mut rpmb =
            Self { start, len, key: None, counter: 0, reliable: false, asked: None, blocks: 0 };
        if let Some(section) = state.get(SECTION)
            && section.version == SECTION_VERSION
            && rpmb.load(&mut Fields::new(&section.bytes)).is_err()
        {
            log::warn!(
                "the kept key of a replay protected memory block is damaged: it has none now"
            );
            (rpmb.key, rpmb.counter) = (None, 0);
        }
        rpmb
    }

    fn load(&mut self, fields: &mut Fields<'_>) -> Result<(), Truncated> {
        self.counter = fields.u32()?;
        self.key = Some(fields.array()?);
        Ok(())
    }

    fn save(&self, job: &mut Job) {
        let mut bytes = self.counter.to_le_bytes().to_vec();
        bytes.extend(self.key.unwrap_or_default());
        job.push(Step::Save(SECTION, Section { version: SECTION_VERSION, bytes }));
    }

    pub fn place(&self) -> (u64, u64) {
        (self.start, self.len)
    }

    pub fn reset(&mut self) {
        self.asked = None;
    }

    /// Frames follow.
    pub fn expect(&mut self, reliable: bool) {
        self.reliable = reliable;
    }

    fn mac<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key?).ok()?;
        frames.for_each(|frame| mac.update(&frame[frame::DATA.start..]));
        Some(mac)
    }

    fn note(&mut self, kind: u16, result: u16, frame: &[u8]) {
        let nonce = frame[frame::NONCE].first_chunk().copied().unwrap_or_default();
        let address = number(frame, frame::ADDRESS);
        self.asked = Some(Asked { kind, result, address, nonce });
    }

    /// Frames have come.
    pub fn receive(&mut self, bytes: &[u8], read_only: bool, job: &mut Job) {
        let Some(last) = bytes.len().checked_sub(FRAME).and_then(|at| bytes.get(at..)) else {
            return;
        };
        let kind = number(last, frame::KIND);
        match kind {
            kind::KEY => {
                let result = self.program_key(last, read_only, job);
                self.note(kind, result, last);
            }
            kind::WRITE => {
                let result = match self.write(bytes, last, read_only, job) {
                    Ok(()) => result::OK,
                    Err(result) => result,
                };
                self.note(kind, result, last);
            }
            kind::COUNTER | kind::READ => self.note(kind, result::OK, last),
            // Nothing was asked whose result could be read.
            kind::RESULT if self.asked.is_some() => {}
            _ => self.note(kind, result::GENERAL, last),
        }
    }

    fn program_key(&mut self, frame: &[u8], read_only: bool, job: &mut Job) -> u16 {
        if self.key.is_some() || !self.reliable {
            return result::GENERAL;
        }
        if read_only {
            return result::WRITE;
        }
        self.key = frame[frame::MAC].first_chunk().copied();
        self.save(job);
        result::OK
    }

    fn write(
        &mut self,
        bytes: &[u8],
        last: &[u8],
        read_only: bool,
        job: &mut Job,
    ) -> Result<(), u16> {
        let frames = bytes.chunks_exact(FRAME);
        let count = frames.len();
        let mac = self.mac(frames.clone()).ok_or(result::NO_KEY)?;
        if self.counter == u32::MAX {
            return Err(result::EXPIRED | result::WRITE);
        }
        if !self.reliable
            || !WRITES.contains(&count)
            || usize::from(number(last, frame::BLOCKS)) != count
        {
            return Err(result::GENERAL);
        }
        let address = u64::from(number(last, frame::ADDRESS)) * HALF;
        let len = count as u64 * HALF;
        if address >= self.len || self.len - address < len {
            return Err(result::ADDRESS);
        }
        mac.verify_slice(&last[frame::MAC]).map_err(|_| result::AUTHENTICATION)?;
        if last[frame::COUNTER] != self.counter.to_be_bytes() {
            return Err(result::COUNTER);
        }
        if read_only {
            return Err(result::WRITE);
        }
        let data = frames.flat_map(|frame| &frame[frame::DATA]).copied().collect();
        // The data first: a write that was lost half-way is sent again with the counter that it had.
        job.push(Step::Write(self.start + address, data));
        self.counter += 1;
        self.save(job);
        Ok(())
    }

    /// A step of what was asked for has failed.
    pub fn failed(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        if asked.result == result::OK {
            match asked.kind {
                kind::KEY => self.key = None,
                kind::WRITE => self.counter = self.counter.saturating_sub(1),
                _ => {}
            }
            asked.result = result::WRITE;
        }
    }

    /// A response frame, without its MAC.
    fn frame(&self, asked: &Asked, result: u16) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        let expired = if self.counter == u32::MAX { result::EXPIRED } else { 0 };
        bytes[frame::RESULT].copy_from_slice(&(result | expired).to_be_bytes());
        bytes[frame::KIND].copy_from_slice(&(asked.kind << 8).to_be_bytes());
        bytes
    }

    fn seal(&self, frames: &mut [u8]) {
        let Some(mac) = self.mac(frames.chunks_exact(FRAME)) else { return };
        let at = frames.len() - FRAME + frame::MAC.start;
        frames[at..at + frame::MAC.len()].copy_from_slice(&mac.finalize().into_bytes());
    }

    /// What a read of this many frames brings, or what of the image it needs first.
    pub fn answer(&mut self, blocks: u32) -> Result<Vec<u8>, Range> {
        let Some(asked) = self.asked.clone() else {
            let none = Asked { kind: 0, result: result::GENERAL, address: 0, nonce: [0; 16] };
            return Ok(self.frame(&none, result::GENERAL).to_vec());
        };
        if asked.kind == kind::READ && self.key.is_some() {
            let (at, len) = (u64::from(asked.address) * HALF, u64::from(blocks) * HALF);
            if blocks > 0 && at < self.len && self.len - at >= len {
                self.blocks = blocks;
                return Err(Range::new(self.start + at, len));
            }
        }
        self.asked = None;
        let result = match asked.kind {
            kind::READ | kind::COUNTER if self.key.is_none() => result::NO_KEY,
            kind::READ => result::ADDRESS,
            _ => asked.result,
        };
        let mut frame = self.frame(&asked, result);
        match asked.kind {
            kind::COUNTER => {
                frame[frame::COUNTER].copy_from_slice(&self.counter.to_be_bytes());
                frame[frame::NONCE].copy_from_slice(&asked.nonce);
            }
            kind::READ => frame[frame::NONCE].copy_from_slice(&asked.nonce),
            kind::WRITE => {
                frame[frame::COUNTER].copy_from_slice(&self.counter.to_be_bytes());
                frame[frame::ADDRESS].copy_from_slice(&asked.address.to_be_bytes());
            }
            _ => {}
        }
        // The answer to a key, or to nothing, has no MAC.
        if matches!(asked.kind, kind::COUNTER | kind::READ | kind::WRITE) {
            self.seal(&mut frame);
        }
        Ok(frame.to_vec())
    }

    /// The frames of an authenticated read.
    pub fn answer_read(&mut self, read: Result<Vec<u8>, BlockError>) -> Vec<u8> {
        let Some(asked) = self.asked.take() else { return vec![0; FRAME] };
        let result = if read.is_ok() { result::OK } else { result::READ };
        let data = read.unwrap_or_default();
        let mut frames = Vec::with_capacity(self.blocks as usize * FRAME);
        for i in 0..self.blocks as usize {
            let mut frame = self.frame(&asked, result);
            if let Some(half) = data.chunks_exact(HALF as usize).nth(i) {
                frame[frame::DATA].copy_from_slice(half);
            }
            frame[frame::NONCE].copy_from_slice(&asked.nonce);
            frame[frame::ADDRESS].copy_from_slice(&asked.address.to_be_bytes());
            frame[frame::BLOCKS].copy_from_slice(&(self.blocks as u16).to_be_bytes());
            frames.extend(frame);
        }
        self.seal(&mut frames);
        frames
    }
}
