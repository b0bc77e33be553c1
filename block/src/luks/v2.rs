//! Version 2: a binary header twice, each followed by JSON. Read; the disk itself is also written.

use serde_json::Value;

use super::{
    MAGIC, STRIPES, Volume, cipher::Spec, hash::Hash, sectors::Sectors, v1::checked, wrong_password,
};
use crate::{
    Cx,
    formats::{FormatError, base64, io, refuse},
    qcow2::{be, host::Host},
};

pub(super) const BINARY: usize = 4096;
const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
/// Where the second header is, after the first of each possible size (2.1).
const SECOND_AT: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
const SIZE_MAX: u64 = 4 << 20;
const SLOTS_MAX: usize = 32;
/// Memory for Argon2 at most, in KiB: as much as cryptsetup ever asks for.
const MEMORY_MAX: u64 = 4 << 20;
/// Passes of Argon2 at most.
pub(super) const TIME_MAX: u64 = 1000;
/// Both together, in KiB: a minute or so.
const WORK_MAX: u64 = 64 << 20;

/// The JSON of the newer header that is whole.
pub(super) struct Header {
    json: Value,
}

/// A whole header at `at`, with its sequence number.
async fn header_at(
    cx: &Cx,
    host: &Host,
    at: u64,
    magic: &[u8; 6],
) -> Result<Option<(u64, Value)>, FormatError> {
    let reading = io("reading the LUKS2 header");
    let mut bytes = host.read(cx, at, BINARY).await.map_err(&reading)?;
    let size = be::u64_at(&bytes, 8);
    let sound = bytes.starts_with(magic)
        && be::u16_at(&bytes, 6) == 2
        && be::u64_at(&bytes, 256) == at
        && size.is_power_of_two()
        && (4 * BINARY as u64..=SIZE_MAX).contains(&size);
    if !sound || bytes.get(72..79) != Some(b"sha256\0") {
        return Ok(None);
    }
    let rest = host.read(cx, at + BINARY as u64, size as usize - BINARY).await.map_err(&reading)?;
    let stored = bytes.get(448..480).unwrap_or_default().to_vec();
    bytes[448..512].fill(0);
    if Hash::Sha256.digest(&[&bytes, &rest]) != stored {
        return Ok(None);
    }
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    let json = serde_json::from_slice(&rest[..end]);
    let json = json.map_err(|e| refuse("LUKS2 JSON", format!("cannot be read: {e}")))?;
    Ok(Some((be::u64_at(&bytes, 16), json)))
}

/// Reads the newer of both headers.
pub(super) async fn read(cx: &Cx, host: &Host) -> Result<Header, FormatError> {
    let mut best = header_at(cx, host, 0, MAGIC).await?;
    for at in SECOND_AT {
        if let Some(found) = header_at(cx, host, at, SECOND_MAGIC).await?
            && best.as_ref().is_none_or(|(sequence, _)| found.0 > *sequence)
        {
            best = Some(found);
        }
    }
    let (_, json) =
        best.ok_or_else(|| refuse("LUKS2 header", "is whole in neither of its places"))?;
    Ok(Header { json })
}

/// The headers that are whole: where each is, and its sequence number.
pub(super) struct Copies {
    pub first: Option<(u64, u64)>,
    pub second: Option<(u64, u64)>,
}

/// Looks at both places.
pub(super) async fn copies(cx: &Cx, host: &Host) -> Result<Copies, FormatError> {
    let first = whole_at(cx, host, 0, MAGIC).await?;
    let mut second = None;
    for at in SECOND_AT {
        second = second.or(whole_at(cx, host, at, SECOND_MAGIC).await?);
    }
    Ok(Copies { first, second })
}

/// One whose JSON cannot be read is not whole.
async fn whole_at(
    cx: &Cx,
    host: &Host,
    at: u64,
    magic: &[u8; 6],
) -> Result<Option<(u64, u64)>, FormatError> {
    match header_at(cx, host, at, magic).await {
        Ok(found) => Ok(found.map(|(sequence, _)| (at, sequence))),
        Err(FormatError::Field { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the older or damaged header again, from the other.
pub(super) async fn copy_newer(cx: &Cx, host: &Host) -> Result<(), FormatError> {
    let copies = copies(cx, host).await?;
    let (from, to, magic) = match (copies.first, copies.second) {
        (Some((_, a)), Some((_, b))) if a == b => return Ok(()),
        (None, None) => return Ok(()),
        (Some((_, a)), Some((second, b))) if a < b => (second, 0, MAGIC),
        (None, Some((second, _))) => (second, 0, MAGIC),
        (Some(_), Some((second, _))) => (0, second, SECOND_MAGIC),
        (Some(_), None) => {
            let bytes = host.read(cx, 0, BINARY).await.map_err(io("reading the LUKS2 header"))?;
            // The second is right behind the first (2.1).
            (0, be::u64_at(&bytes, 8), SECOND_MAGIC)
        }
    };
    let reading = io("reading the LUKS2 header");
    let size = be::u64_at(&host.read(cx, from, BINARY).await.map_err(&reading)?, 8);
    if !size.is_power_of_two() || size > SIZE_MAX {
        return Ok(());
    }
    let mut bytes = host.read(cx, from, size as usize).await.map_err(&reading)?;
    be::put(&mut bytes, 0, magic);
    be::put(&mut bytes, 256, &to.to_be_bytes());
    be::put(&mut bytes, 448, &[0; 64]);
    let sum = Hash::Sha256.digest(&[&bytes]);
    be::put(&mut bytes, 448, &sum);
    let writing = io("writing the LUKS2 header");
    host.write_bytes(cx, to, &bytes).await.map_err(&writing)?;
    host.sync(cx).await.map_err(writing)
}

fn missing(what: &'static str) -> FormatError {
    refuse("LUKS2 JSON", format!("has no usable {what}"))
}

/// Numbers are strings there, because JSON's have 53 bits.
fn number(value: &Value, key: &'static str) -> Result<u64, FormatError> {
    let field = value.get(key);
    let found = field.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
    found.ok_or_else(|| missing(key))
}

fn text<'a>(value: &'a Value, key: &'static str) -> Result<&'a str, FormatError> {
    value.get(key).and_then(Value::as_str).ok_or_else(|| missing(key))
}

fn bytes(value: &Value, key: &'static str) -> Result<Vec<u8>, FormatError> {
    base64(text(value, key)?).ok_or_else(|| missing(key))
}

fn hash(value: &Value) -> Result<Hash, FormatError> {
    let name = text(value, "hash")?;
    Hash::called(name).ok_or_else(|| {
        FormatError::Unsupported(format!("LUKS hash '{}' is not supported", name.escape_debug()))
    })
}

fn spec(value: &Value) -> Result<Spec, FormatError> {
    let name = text(value, "encryption")?;
    let (cipher, mode) = name.split_once('-').ok_or_else(|| missing("encryption"))?;
    Spec::parse(cipher, mode)
}

fn derive(kdf: &Value, secret: &[u8], len: usize) -> Result<Vec<u8>, FormatError> {
    let salt = bytes(kdf, "salt")?;
    match text(kdf, "type")? {
        "pbkdf2" => {
            let iterations = u32::try_from(number(kdf, "iterations")?).unwrap_or(u32::MAX);
            let iterations = checked(iterations, "key slot's iterations")?;
            Ok(hash(kdf)?.pbkdf2(secret, &salt, iterations, len))
        }
        kind @ ("argon2i" | "argon2id") => {
            let (time, memory, lanes) =
                (number(kdf, "time")?, number(kdf, "memory")?, number(kdf, "cpus")?);
            let work = memory.saturating_mul(time);
            if memory > MEMORY_MAX || time > TIME_MAX || lanes > 64 || work > WORK_MAX {
                return Err(refuse(
                    "key slot's kdf",
                    format!("wants {memory} KiB, {time} passes and {lanes} lanes: too much"),
                ));
            }
            let bad = |e: argon2::Error| refuse("key slot's kdf", format!("is not possible: {e}"));
            let params = argon2::Params::new(memory as u32, time as u32, lanes as u32, Some(len));
            let algorithm = match kind {
                "argon2i" => argon2::Algorithm::Argon2i,
                _ => argon2::Algorithm::Argon2id,
            };
            let argon =
                argon2::Argon2::new(algorithm, argon2::Version::V0x13, params.map_err(bad)?);
            let mut key = vec![0; len];
            argon.hash_password_into(secret, &salt, &mut key).map_err(bad)?;
            Ok(key)
        }
        other => Err(FormatError::Unsupported(format!(
            "LUKS2 key derivation '{}' is not supported",
            other.escape_debug()
        ))),
    }
}

/// Argon2id with passes, KiB of memory, and lanes.
pub(super) fn argon2id(
    secret: &[u8],
    salt: &[u8],
    (time, memory, lanes): (u32, u32, u32),
    len: usize,
) -> Result<Vec<u8>, FormatError> {
    let bad = |e: argon2::Error| FormatError::Option(format!("Argon2 is not possible: {e}"));
    let params = argon2::Params::new(memory, time, lanes, Some(len)).map_err(bad)?;
    let algorithm = argon2::Algorithm::Argon2id;
    let argon = argon2::Argon2::new(algorithm, argon2::Version::V0x13, params);
    let mut key = vec![0; len];
    argon.hash_password_into(secret, salt, &mut key).map_err(bad)?;
    Ok(key)
}

/// The bytes of the first or the second header, `size` of them, with this JSON; `None` where it does
/// not fit.
pub(super) fn binary_header(second: bool, size: usize, uuid: &str, json: &str) -> Option<Vec<u8>> {
    if json.len() >= size - BINARY {
        return None;
    }
    let at = if second { size as u64 } else { 0 };
    let mut bytes = vec![0; size];
    be::put(&mut bytes, 0, if second { SECOND_MAGIC } else { MAGIC });
    be::put(&mut bytes, 6, &2_u16.to_be_bytes());
    be::put(&mut bytes, 8, &(size as u64).to_be_bytes());
    be::put(&mut bytes, 16, &1_u64.to_be_bytes());
    be::put(&mut bytes, 72, b"sha256");
    be::put(&mut bytes, 104, &super::random(64));
    be::put(&mut bytes, 168, uuid.as_bytes());
    be::put(&mut bytes, 256, &at.to_be_bytes());
    be::put(&mut bytes, BINARY, json.as_bytes());
    let sum = Hash::Sha256.digest(&[&bytes]);
    be::put(&mut bytes, 448, &sum);
    Some(bytes)
}

fn key_len(value: &Value) -> Result<usize, FormatError> {
    let len = number(value, "key_size")?;
    if !(16..=64).contains(&len) {
        return Err(refuse("key_size", format!("is {len}, not 16 to 64")));
    }
    Ok(len as usize)
}

impl Header {
    fn segment(&self) -> Result<(&str, &Value), FormatError> {
        let segments = self.json.get("segments").and_then(Value::as_object);
        let segments = segments.ok_or_else(|| missing("segments"))?;
        match segments.iter().next() {
            Some((name, segment)) if segments.len() == 1 => {
                if text(segment, "type")? != "crypt" || segment.get("integrity").is_some() {
                    return Err(FormatError::Unsupported(
                        "LUKS2 segments that are not plainly encrypted are not supported"
                            .to_owned(),
                    ));
                }
                Ok((name, segment))
            }
            _ => Err(FormatError::Unsupported(
                "LUKS2 disks of several segments (being reencrypted) are not supported".to_owned(),
            )),
        }
    }

    /// How many key slots there are.
    pub fn slots(&self) -> usize {
        self.json.get("keyslots").and_then(Value::as_object).map_or(0, serde_json::Map::len)
    }

    /// Where the disk is in the file, and its size where that is given.
    pub fn place(&self) -> Result<(u64, Option<u64>), FormatError> {
        let (_, segment) = self.segment()?;
        let size = match segment.get("size").and_then(Value::as_str) {
            Some("dynamic") => None,
            _ => Some(number(segment, "size")?),
        };
        Ok((number(segment, "offset")?, size))
    }

    /// The key of one slot with a passphrase, right or wrong.
    async fn slot_key(
        &self,
        cx: &Cx,
        host: &Host,
        slot: &Value,
        secret: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let len = key_len(slot)?;
        let af = slot.get("af").ok_or_else(|| missing("af"))?;
        let area = slot.get("area").ok_or_else(|| missing("area"))?;
        if number(af, "stripes")? != STRIPES as u64 {
            return Err(refuse("key slot", "has another number of stripes than 4000"));
        }
        let at = number(area, "offset")?;
        if at > 1 << 56 {
            return Err(refuse("key slot's area", format!("is at {at:#x}: no place in a file")));
        }
        let stripes = host.read(cx, at, (len * STRIPES).next_multiple_of(512)).await;
        let mut stripes = stripes.map_err(io("reading a key slot"))?;
        let kdf = slot.get("kdf").ok_or_else(|| missing("kdf"))?;
        let derived = derive(kdf, secret, key_len(area)?)?;
        spec(area)?.keyed(&derived)?.sectors(false, 0, 512, &mut stripes);
        Ok(hash(af)?.merge(&stripes[..len * STRIPES], len))
    }

    /// Finds the key with a passphrase: the first slot of the segment's that it opens.
    pub async fn unlock(self, cx: &Cx, host: &Host, secret: &[u8]) -> Result<Volume, FormatError> {
        let (name, segment) = self.segment()?;
        let digests = self.json.get("digests").and_then(Value::as_object);
        let digests = digests.ok_or_else(|| missing("digests"))?;
        let names = |digest: &Value, key: &str| -> Vec<String> {
            let list = digest.get(key).and_then(Value::as_array);
            let list = list.into_iter().flatten().filter_map(Value::as_str);
            list.map(str::to_owned).take(SLOTS_MAX).collect()
        };
        let digest = digests.values().find(|d| names(d, "segments").iter().any(|s| s == name));
        let digest = digest.ok_or_else(|| missing("digest"))?;
        if text(digest, "type")? != "pbkdf2" {
            return Err(FormatError::Unsupported("LUKS2 digests other than PBKDF2".to_owned()));
        }
        let expected = bytes(digest, "digest")?;
        let salt = bytes(digest, "salt")?;
        let iterations = u32::try_from(number(digest, "iterations")?).unwrap_or(u32::MAX);
        let iterations = checked(iterations, "digest's iterations")?;
        let sector = segment.get("sector_size").and_then(Value::as_u64).unwrap_or(512);
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) || expected.is_empty() {
            return Err(refuse("sector_size", format!("is {sector}: no power of two to 4096")));
        }
        let (at, size) = self.place()?;
        if at > 1 << 56 {
            return Err(refuse("segment offset", format!("is {at:#x}: no place in a file")));
        }
        for slot_name in names(digest, "keyslots") {
            let slot = self.json.get("keyslots").and_then(|slots| slots.get(&slot_name));
            let slot = slot.ok_or_else(|| missing("key slot"))?;
            let key = self.slot_key(cx, host, slot, secret).await?;
            let found = hash(digest)?.pbkdf2(&key, &salt, iterations, expected.len().min(64));
            if found == expected {
                let tweak = number(segment, "iv_tweak").unwrap_or(0);
                let sectors = Sectors::new(spec(segment)?.keyed(&key)?, sector, tweak);
                return Ok(Volume { sectors, at, size });
            }
        }
        Err(wrong_password())
    }
}
