//! Firmware images, as drives of all kinds take them: what there is of firmware in an emulated drive
//! is the revision that it shows.
//!
//! An image begins with [`MAGIC`] and eight characters of a revision. Then comes its length in
//! blocks of 512 bytes (32 bits, little-endian) for those that are not told where the last piece
//! ends; 0 where it is not said. Anything may follow.

use crate::state_file::Fields;

/// What an image begins with.
pub const MAGIC: &[u8; 8] = b"spndlFW1";
/// Longest image, in bytes.
pub const IMAGE_MAX: usize = 4 << 20;

/// Eight characters, filled up with spaces or zeros.
pub type Revision = [u8; 8];

/// The revision of an image; `None`: it is none.
#[must_use]
pub fn revision(image: &[u8]) -> Option<Revision> {
    let mut fields = Fields::new(image);
    if fields.array() != Ok(*MAGIC) {
        return None;
    }
    let revision: Revision = fields.array().ok()?;
    let printable = revision.iter().all(|b| b.is_ascii_graphic() || *b == b' ' || *b == 0);
    (printable && revision[0] != 0).then_some(revision)
}

/// Blocks that an image says it has; 0: it does not say.
#[must_use]
pub fn blocks(image: &[u8]) -> u32 {
    let mut fields = Fields::new(image);
    match fields.take(16) {
        Ok(_) => fields.u32().unwrap_or(0),
        Err(_) => 0,
    }
}

/// A revision as text.
#[must_use]
pub fn text(revision: &Revision) -> String {
    String::from_utf8_lossy(revision).trim_end_matches([' ', '\0']).to_owned()
}
