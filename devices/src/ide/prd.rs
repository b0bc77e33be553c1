//! From a table of physical region descriptors to memory (BMIDE, 1.2).

use spindle_block::IoBuf;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32},
};

use super::spec::{PRD_END, PRD_LEN, PRD_TABLE_MAX};
use crate::{Dma, dma::NotRam};

/// A descriptor. Base and count are even; their lowest bits do not exist.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
struct Prd {
    base: U32,
    /// 0: 64 KiB.
    count: U16,
    flags: U16,
}

const _: () = assert!(size_of::<Prd>() == PRD_LEN as usize);

/// How a table's memory compares with what a command moves (BMIDE, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The last byte of both is the same.
    Exact,
    /// There is more memory, or the table does not say that it ends.
    Longer,
    /// The table ends before: so many bytes there are.
    Shorter(u64),
}

/// Puts the first `want` bytes of the table's memory into `buf`, which is empty.
///
/// # Errors
/// When table or memory are not RAM.
pub(super) fn gather(dma: &Dma, table: u32, want: u64, buf: &mut IoBuf) -> Result<Shape, NotRam> {
    let mut at = 0;
    let mut got = 0;
    // A table that is longer than a table can be has ended.
    while at < PRD_TABLE_MAX {
        let prd: Prd = dma.read(u64::from(table) + at)?;
        at += PRD_LEN;
        let base = u64::from(prd.base.get() & !1);
        let len = match u64::from(prd.count.get() & !1) {
            0 => 0x1_0000,
            len => len,
        };
        let ends = prd.flags.get() & PRD_END != 0;
        let n = len.min(want - got);
        dma.push(buf, base, n)?;
        got += n;
        if got == want {
            return Ok(if n == len && ends { Shape::Exact } else { Shape::Longer });
        }
        if ends {
            break;
        }
    }
    Ok(Shape::Shorter(got))
}

/// Shortens what was gathered to its first `len` bytes.
pub(super) fn cut(buf: &mut IoBuf, len: u64) {
    if buf.len() > len {
        *buf = buf.view(0, len);
    }
}
