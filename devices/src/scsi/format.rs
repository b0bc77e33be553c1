//! The parameter lists of FORMAT UNIT and SANITIZE (SBC-4, 5.4 and 5.30).

use std::sync::Arc;

use super::{
    background::{Background, Fill, Work},
    sense::Sense,
    unit::LogicalUnit,
};

/// Longest parameter list that is looked at, in bytes.
pub(super) const LIST_MAX: u32 = 1 << 16;

/// Service actions of SANITIZE (SBC-4, 5.30.1).
mod sanitize_action {
    pub const OVERWRITE: u8 = 0x01;
    pub const BLOCK_ERASE: u8 = 0x02;
    pub const EXIT_FAILURE_MODE: u8 = 0x1f;
}

/// What the medium is to be overwritten with, and whether anybody waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overwrite {
    work: Work,
    fill: Fill,
    pub immediate: bool,
    may_exit: bool,
}

impl Overwrite {
    pub fn background(&self, size: u64) -> Background {
        Background::new(self.work, self.fill.clone(), size, self.may_exit)
    }
}

/// A FORMAT UNIT's parameter list. Nothing but the initialization pattern can be chosen.
pub(super) fn format_unit(list: &[u8], long: bool, block: u64) -> Result<Overwrite, Sense> {
    let zeros =
        Overwrite { work: Work::Format, fill: Fill::Zeros, immediate: false, may_exit: false };
    if list.is_empty() {
        return Ok(zeros);
    }
    let header = if long { 8 } else { 4 };
    if list.len() < header {
        return Err(Sense::parameter_length());
    }
    // PROTECTION FIELD USAGE.
    if list[0] & 7 != 0 {
        return Err(Sense::parameter(0, Some(2)));
    }
    let flags = list[1];
    let (options_valid, pattern_given, immediate) =
        (flags & 0x80 != 0, flags & 0x08 != 0, flags & 0x02 != 0);
    // DPRY, DCRT, STPF and IP mean nothing unless FOV says so.
    if !options_valid && flags & 0x78 != 0 {
        return Err(Sense::parameter(1, Some(7)));
    }
    let defects = if long {
        u32::from_be_bytes([list[4], list[5], list[6], list[7]])
    } else {
        u16::from_be_bytes([list[2], list[3]]).into()
    };
    if long && list[3] != 0 {
        return Err(Sense::parameter(3, None));
    }
    if defects != 0 {
        return Err(Sense::parameter(if long { 4 } else { 2 }, None));
    }
    let fill =
        if pattern_given { initialization_pattern(list, header, block)? } else { Fill::Zeros };
    Ok(Overwrite { fill, immediate, ..zeros })
}

/// The initialization pattern descriptor (SBC-4, 5.4.2.3).
fn initialization_pattern(list: &[u8], at: usize, block: u64) -> Result<Fill, Sense> {
    let descriptor = list.get(at..at + 4).ok_or(Sense::parameter_length())?;
    let len = usize::from(u16::from_be_bytes([descriptor[2], descriptor[3]]));
    match descriptor[1] {
        0 if len == 0 => Ok(Fill::Zeros),
        1 if len > 0 && len as u64 <= block => {
            let pattern = list.get(at + 4..at + 4 + len).ok_or(Sense::parameter_length())?;
            Ok(Fill::Pattern { block: repeat(pattern, block), count: 1, invert: false })
        }
        0 | 1 => Err(Sense::parameter((at + 2) as u16, None)),
        _ => Err(Sense::parameter((at + 1) as u16, None)),
    }
}

fn repeat(pattern: &[u8], block: u64) -> Vec<u8> {
    pattern.iter().copied().cycle().take(block as usize).collect()
}

/// A SANITIZE. `None`: there is nothing to overwrite.
pub(super) fn sanitize(
    unit: &Arc<LogicalUnit>,
    action: u8,
    immediate: bool,
    may_exit: bool,
    list: &[u8],
    block: u64,
) -> Result<Option<Overwrite>, Sense> {
    // A sanitize that failed in restricted mode can only be sanitized again (SBC-4, 4.11.4).
    let failed = unit.lock().background.as_ref().filter(|work| work.failed).map(|w| w.may_exit);
    let fill = match action {
        sanitize_action::EXIT_FAILURE_MODE => {
            if failed == Some(false) {
                return Err(Sense::cdb_field(1, Some(4)));
            }
            unit.change(|state| state.background = None);
            return Ok(None);
        }
        sanitize_action::BLOCK_ERASE if list.is_empty() => Fill::Zeros,
        sanitize_action::OVERWRITE => overwrite_pattern(list, block)?,
        sanitize_action::BLOCK_ERASE => return Err(Sense::cdb_field(7, None)),
        // Nothing is encrypted.
        _ => return Err(Sense::cdb_field(1, Some(4))),
    };
    Ok(Some(Overwrite { work: Work::Sanitize, fill, immediate, may_exit }))
}

/// The parameter list of OVERWRITE (SBC-4, 5.30.2.2).
fn overwrite_pattern(list: &[u8], block: u64) -> Result<Fill, Sense> {
    // PARAMETER LIST LENGTH is that of a pattern of one byte to one block.
    if list.len() < 5 || list.len() as u64 > block + 4 {
        return Err(Sense::cdb_field(7, None));
    }
    if list[1] != 0 {
        return Err(Sense::parameter(1, None));
    }
    let count = list[0] & 0x1f;
    if count == 0 {
        return Err(Sense::parameter(0, Some(4)));
    }
    if list[0] & 0x60 != 0 {
        return Err(Sense::parameter(0, Some(6)));
    }
    let len = usize::from(u16::from_be_bytes([list[2], list[3]]));
    if len == 0 || len as u64 > block {
        return Err(Sense::parameter(2, None));
    }
    let pattern = list.get(4..4 + len).ok_or(Sense::parameter(2, None))?;
    Ok(Fill::Pattern { block: repeat(pattern, block), count, invert: list[0] & 0x80 != 0 })
}
