//! From PRP entries or SGL descriptors to guest memory (Base 4.1).

use spindle_block::IoBuf;

use super::{
    spec::{SGL_LEN, SglDescriptor, Sqe, sgl},
    status::Status,
};
use crate::Dma;

/// Most descriptors read in one piece.
const CHUNK: usize = 32;
/// Most SGL descriptors of one command: what the largest transfer can sensibly need.
const DESCRIPTORS_MAX: u32 = 4096;

/// Which way data goes, in an opcode (Base figure 86).
const DIRECTION: u8 = 0b11;
const CONTROLLER_TO_HOST: u8 = 0b10;

/// Adds the `len` bytes that a command describes to `buf`, whose keep is that of `dma`'s memory.
/// `page` is the size of a memory page.
///
/// # Errors
/// What is wrong with the description; `buf` is of no use then.
#[inline]
pub fn gather(dma: &Dma, page: u64, sqe: &Sqe, len: u64, buf: &mut IoBuf) -> Result<(), Status> {
    if len == 0 {
        return Ok(());
    }
    match sqe.psdt() {
        0 => prp(dma, page, sqe.dptr[0].get(), sqe.dptr[1].get(), len, buf),
        1 | 2 => segments(dma, sqe, len, buf),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn push(dma: &Dma, buf: &mut IoBuf, at: u64, len: u64) -> Result<(), Status> {
    dma.push(buf, at, len).map_err(|_| Status::DATA_TRANSFER)
}

#[inline]
fn prp(
    dma: &Dma,
    page: u64,
    prp1: u64,
    prp2: u64,
    len: u64,
    buf: &mut IoBuf,
) -> Result<(), Status> {
    // Offsets are multiples of four (Base 4.1.1).
    if prp1 & 3 != 0 {
        return Err(Status::PRP_OFFSET);
    }
    let first = len.min(page - (prp1 & (page - 1)));
    push(dma, buf, prp1, first)?;
    let left = len - first;
    if left == 0 {
        return Ok(());
    }
    if left <= page {
        if prp2 & (page - 1) != 0 {
            return Err(Status::PRP_OFFSET);
        }
        return push(dma, buf, prp2, left);
    }
    prp_list(dma, page, prp2, left, buf)
}

/// Walks a PRP list: the last entry of a page names the next page of the list, if there is more.
/// Each entry stands for a page of data, so the walk is bounded by the length of the transfer.
fn prp_list(
    dma: &Dma,
    page: u64,
    mut list: u64,
    mut left: u64,
    buf: &mut IoBuf,
) -> Result<(), Status> {
    if list & 7 != 0 {
        return Err(Status::PRP_OFFSET);
    }
    loop {
        let room = (page - (list & (page - 1))) / 8;
        let pages = left.div_ceil(page);
        let (entries, more) = if pages > room { (room - 1, true) } else { (pages, false) };
        let mut done = 0;
        while done < entries {
            let n = (entries - done).min(CHUNK as u64);
            let mut raw = [0; CHUNK * 8];
            let raw = &mut raw[..n as usize * 8];
            dma.read_bytes(list + done * 8, raw).map_err(|_| Status::DATA_TRANSFER)?;
            for entry in raw.as_chunks::<8>().0 {
                let at = u64::from_le_bytes(*entry);
                if at & (page - 1) != 0 {
                    return Err(Status::PRP_OFFSET);
                }
                let part = left.min(page);
                push(dma, buf, at, part)?;
                left -= part;
            }
            done += n;
        }
        if !more {
            return Ok(());
        }
        let next: [u8; 8] = dma.read(list + entries * 8).map_err(|_| Status::DATA_TRANSFER)?;
        list = u64::from_le_bytes(next);
        // Only the first page of a list can begin inside a memory page.
        if list & (page - 1) != 0 {
            return Err(Status::PRP_OFFSET);
        }
    }
}

fn segments(dma: &Dma, sqe: &Sqe, len: u64, buf: &mut IoBuf) -> Result<(), Status> {
    let mut first = SglDescriptor { address: sqe.dptr[0], ..SglDescriptor::default() };
    let second = sqe.dptr[1].get().to_le_bytes();
    first.len = u32::from_le_bytes([second[0], second[1], second[2], second[3]]).into();
    first.kind = second[7];
    let to_host = sqe.opcode & DIRECTION == CONTROLLER_TO_HOST;
    let mut walk = SglWalk { dma, left: len, seen: 0, to_host, buf };
    let mut next = walk.descriptor(&first, true)?;
    while let Some(segment) = next {
        next = walk.segment(&segment)?;
    }
    // Less than the command transfers is an error; more is allowed (SGLS bit 18).
    if walk.left > 0 { Err(Status::SGL_LENGTH) } else { Ok(()) }
}

struct SglWalk<'a> {
    dma: &'a Dma,
    left: u64,
    seen: u32,
    /// The host gets the data.
    to_host: bool,
    buf: &'a mut IoBuf,
}

impl SglWalk<'_> {
    /// Takes a data block, or returns the segment that a descriptor names. `last` says that nothing
    /// follows it where it lies, so that it may be one.
    fn descriptor(
        &mut self,
        descriptor: &SglDescriptor,
        last: bool,
    ) -> Result<Option<SglDescriptor>, Status> {
        match descriptor.kind {
            sgl::DATA_BLOCK => {
                let part = self.left.min(descriptor.len.get().into());
                push(self.dma, self.buf, descriptor.address.get(), part)?;
                self.left -= part;
                Ok(None)
            }
            // Where the host has the data, it stands for none (Base 4.1.2.1).
            sgl::BIT_BUCKET if !self.to_host => Ok(None),
            sgl::BIT_BUCKET => {
                let part = self.left.min(descriptor.len.get().into());
                self.buf.push_discarded(part);
                self.left -= part;
                Ok(None)
            }
            sgl::SEGMENT | sgl::LAST_SEGMENT if last => Ok(Some(*descriptor)),
            sgl::SEGMENT | sgl::LAST_SEGMENT => Err(Status::SGL_SEGMENT),
            _ => Err(Status::SGL_TYPE),
        }
    }

    /// Reads the descriptors of a segment; returns the next one.
    fn segment(&mut self, segment: &SglDescriptor) -> Result<Option<SglDescriptor>, Status> {
        let (at, len) = (segment.address.get(), u64::from(segment.len.get()));
        if len == 0 || !len.is_multiple_of(SGL_LEN as u64) {
            return Err(Status::SGL_SEGMENT);
        }
        let count = (len / SGL_LEN as u64) as u32;
        self.seen = self.seen.saturating_add(count);
        if self.seen > DESCRIPTORS_MAX {
            return Err(Status::SGL_COUNT);
        }
        let mut done = 0;
        while done < count {
            let n = (count - done).min(CHUNK as u32);
            let mut raw = [SglDescriptor::default(); CHUNK];
            for (i, descriptor) in raw[..n as usize].iter_mut().enumerate() {
                let offset = (u64::from(done) + i as u64) * SGL_LEN as u64;
                let from = at.checked_add(offset).ok_or(Status::DATA_TRANSFER)?;
                *descriptor = self.dma.read(from).map_err(|_| Status::DATA_TRANSFER)?;
            }
            for (i, descriptor) in raw[..n as usize].iter().enumerate() {
                let last = done + i as u32 + 1 == count;
                // Nothing follows a last segment but data.
                let may = last && segment.kind == sgl::SEGMENT;
                let next = self.descriptor(descriptor, may)?;
                if next.is_some() {
                    return Ok(next);
                }
                if last && segment.kind == sgl::SEGMENT {
                    // A segment ends with the descriptor of the next one.
                    return Err(Status::SGL_SEGMENT);
                }
            }
            done += n;
        }
        Ok(None)
    }
}
