//! The bytes of a state file.
//!
//! Little-endian: magic (8 bytes), version (4), number of sections (4); then for each section the
//! length of its name (1), its version (2), the length of its bytes (4), name, bytes; then the
//! FNV-1a hash of everything before (8).

use std::{collections::BTreeMap, io};

use super::Fields;

/// A named part of a disk's state: what it means is its owner's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The version of its layout; an owner refuses one that it does not know.
    pub version: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Sections by name.
pub type Sections = BTreeMap<String, Section>;

/// Why a state file cannot be used. It is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It could not be read.
    #[error("cannot read the state file: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no state file; move it away, or name another with state=")]
    Magic,
    /// A later program wrote it.
    #[error("the state file has version {0}, which is not known here")]
    Version(u32),
    /// It is longer than any state file.
    #[error("the state file has {0} bytes, more than any can have")]
    TooLong(u64),
    /// It is cut off, or its content contradicts itself.
    #[error("the state file is damaged; restore it, or remove it to begin with an empty one")]
    Damaged,
}

const MAGIC: &[u8; 8] = b"spndlSTA";
const VERSION: u32 = 1;
const HASH_LEN: usize = 8;
/// Longest file, in bytes.
pub(super) const FILE_MAX: u64 = 64 << 20;
const SECTIONS_MAX: u32 = 4096;
const NAME_MAX: usize = 64;
const SECTION_MAX: usize = 16 << 20;

/// Whether a section may be written under a name.
pub(super) fn fits(name: &str, section: &Section) -> bool {
    is_name(name.as_bytes()) && section.bytes.len() <= SECTION_MAX
}

fn is_name(name: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-./".contains(b);
    (1..=NAME_MAX).contains(&name.len()) && name.iter().all(plain)
}

/// The bytes that [`decode`] makes these sections of.
#[must_use]
pub fn encode(sections: &Sections) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((sections.len() as u32).to_le_bytes());
    for (name, section) in sections {
        out.push(name.len() as u8);
        out.extend(section.version.to_le_bytes());
        out.extend((section.bytes.len() as u32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(&section.bytes);
    }
    let hash = fnv1a(&out);
    out.extend(hash.to_le_bytes());
    out
}

/// The sections in the bytes of a state file.
///
/// # Errors
/// When they are not what [`encode`] makes.
pub fn decode(bytes: &[u8]) -> Result<Sections, StateError> {
    if bytes.len() as u64 > FILE_MAX {
        return Err(StateError::TooLong(bytes.len() as u64));
    }
    let damaged = |_| StateError::Damaged;
    if !bytes.starts_with(MAGIC) {
        return Err(StateError::Magic);
    }
    let (body, hash) = bytes.split_last_chunk::<HASH_LEN>().ok_or(StateError::Damaged)?;
    let mut fields = Fields::new(body);
    fields.take(MAGIC.len()).map_err(damaged)?;
    let version = fields.u32().map_err(damaged)?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    if fnv1a(body) != u64::from_le_bytes(*hash) {
        return Err(StateError::Damaged);
    }
    let count = fields.u32().map_err(damaged)?;
    if count > SECTIONS_MAX {
        return Err(StateError::Damaged);
    }
    let mut sections = Sections::new();
    for _ in 0..count {
        let (name, section) = take_section(&mut fields)?;
        if sections.insert(name, section).is_some() {
            return Err(StateError::Damaged);
        }
    }
    if fields.is_empty() { Ok(sections) } else { Err(StateError::Damaged) }
}

fn take_section(fields: &mut Fields<'_>) -> Result<(String, Section), StateError> {
    let damaged = |_| StateError::Damaged;
    let name_len = usize::from(fields.u8().map_err(damaged)?);
    let version = fields.u16().map_err(damaged)?;
    let len = fields.u32().map_err(damaged)? as usize;
    let name = fields.take(name_len).map_err(damaged)?;
    let bytes = fields.take(len).map_err(damaged)?;
    if !is_name(name) || len > SECTION_MAX {
        return Err(StateError::Damaged);
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Ok((name, Section { version, bytes: bytes.to_vec() }))
}

/// FNV-1a, 64 bits: it finds damage, not malice.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
