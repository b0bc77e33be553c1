//! Which sizes a card can have.

/// The largest card whose CSD counts in the units of version 1: 2 GiB.
pub(super) const STANDARD_MAX: u64 = 2 << 30;
/// The largest card with 32-bit block addresses: 2 TiB.
const SIZE_MAX: u64 = 2 << 40;
/// What the CSD of version 2 counts in: 512 KiB (SD 5.3.3).
pub(super) const HIGH_UNIT: u64 = 512 << 10;
/// The largest value that C_SIZE of version 1 can count to.
const UNITS_MAX: u64 = 4096;
/// The smallest unit: C_SIZE_MULT is 0, a block is 512 bytes.
const UNIT_MIN: u64 = 4 * 512;

/// No card has this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is no multiple of what its CSD counts in.
    #[error(
        "a card cannot have {size} bytes: the next size that one can have is {next}; \
         resize the image"
    )]
    Unit {
        /// The size in bytes.
        size: u64,
        /// The next larger legal size in bytes.
        next: u64,
    },
    /// It is beyond what 32-bit block addresses reach.
    #[error("a card cannot have {0} bytes: {SIZE_MAX} is the most")]
    TooLarge(u64),
    /// There is nothing.
    #[error("a card cannot be empty: {UNIT_MIN} bytes is the least")]
    Empty,
}

/// What the CSD of a card of about `size` bytes counts in.
pub(super) fn unit(size: u64) -> u64 {
    if size > STANDARD_MAX {
        return HIGH_UNIT;
    }
    size.div_ceil(UNITS_MAX).next_power_of_two().max(UNIT_MIN)
}

/// Whether a card can have `size` bytes.
///
/// # Errors
/// When it cannot; the error says which size it can have.
pub fn check_size(size: u64) -> Result<(), SizeError> {
    if size == 0 {
        return Err(SizeError::Empty);
    }
    if size > SIZE_MAX {
        return Err(SizeError::TooLarge(size));
    }
    let next = size.next_multiple_of(unit(size));
    if next == size { Ok(()) } else { Err(SizeError::Unit { size, next }) }
}

/// C_SIZE, C_SIZE_MULT and READ_BL_LEN of version 1 (SD 5.3.2) for a legal size.
pub(super) fn standard_fields(size: u64) -> (u64, u64, u64) {
    let unit = unit(size);
    let exponent = u64::from(unit.trailing_zeros());
    // A block has 512 bytes unless the multiplier, at most 2^9, does not reach.
    let block = exponent.saturating_sub(9).max(9);
    (size / unit - 1, exponent - block - 2, block)
}
