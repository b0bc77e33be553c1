//! Making LUKS2 disks: one segment, one key slot with Argon2id, one digest (LUKS2 On-Disk Format
//! Specification 1.1, 2 and 3).

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    STRIPES,
    cipher::Spec,
    create::{Place, hash_called, iterations, spec, uuid},
    hash::Hash,
    random,
    v2::{BINARY, argon2id, binary_header},
};
use crate::{
    BlockError, Cx,
    formats::{FormatError, to_base64},
    luks::LuksOptions,
    qcow2::host::Host,
};

/// Bytes of each of both headers, with their JSON.
const HEADER: usize = 0x4000;
/// Where the first key slot is.
const SLOT_AT: u64 = 2 * HEADER as u64;
/// Where the disk begins, as cryptsetup has it: there is room for all slots that there can be.
pub(super) const DATA_AT: u64 = 16 << 20;
const ALIGN: u64 = 4096;
const SALT: usize = 32;
/// Passes of Argon2 at least, as cryptsetup has it.
const PASSES_MIN: u64 = 4;
/// Memory for Argon2, in KiB.
const MEMORY: std::ops::RangeInclusive<u64> = 8 << 10..=1 << 20;
/// What is measured: one pass over so many KiB.
const PROBE: u32 = 8 << 10;

/// Passes and memory of Argon2 (KiB) that take so long here, with as much memory as there may be.
fn cost(time_ms: u64) -> Result<(u32, u32), FormatError> {
    let start = Instant::now();
    argon2id(b"passphrase", &[0; SALT], (1, PROBE, 1), 32)?;
    let spent = (start.elapsed().as_micros() as u64).max(1);
    let work = time_ms.saturating_mul(1000).saturating_mul(u64::from(PROBE)) / spent;
    let memory = (work / PASSES_MIN).clamp(*MEMORY.start(), *MEMORY.end());
    let passes = (work / memory).clamp(PASSES_MIN, super::v2::TIME_MAX);
    Ok((passes as u32, memory as u32))
}

/// A header and the stripes of its slot.
pub(super) struct Made {
    headers: [Vec<u8>; 2],
    stripes: Vec<u8>,
}

/// Makes a header with a new key.
pub(super) fn make(options: &LuksOptions) -> Result<Made, FormatError> {
    let (spec, key_len) = spec(options)?;
    let hash = hash_called("hash-alg", &options.hash_alg)?;
    let key = random(key_len);
    let salt = random(SALT);
    let (passes, memory) = cost(options.iter_time_ms)?;
    let derived = argon2id(options.secret.bytes(), &salt, (passes, memory, 1), key_len)?;
    let mut stripes = hash.split(&key, STRIPES);
    stripes.resize(stripes.len().next_multiple_of(ALIGN as usize), 0);
    let split = (key_len * STRIPES).next_multiple_of(512);
    spec.keyed(&derived)?.sectors(true, 0, 512, &mut stripes[..split]);
    let kdf = json!({
        "type": "argon2id", "time": passes, "memory": memory, "cpus": 1, "salt": to_base64(&salt),
    });
    let text = describe(options, spec, hash, &key, (kdf, stripes.len())).to_string();
    let uuid = uuid();
    let headers = [false, true].map(|second| binary_header(second, HEADER, &uuid, &text));
    let [Some(first), Some(second)] = headers else {
        return Err(FormatError::Option("the LUKS2 header does not fit".to_owned()));
    };
    Ok(Made { headers: [first, second], stripes })
}

fn describe(
    options: &LuksOptions,
    spec: Spec,
    hash: Hash,
    key: &[u8],
    (kdf, area): (Value, usize),
) -> Value {
    let encryption = format!("{}-{}", spec.family.name(), spec.mode_text());
    // The digest guards a key that is random.
    let salt = random(SALT);
    let rounds = iterations(hash, key.len(), options.iter_time_ms / 8);
    let digest = hash.pbkdf2(key, &salt, rounds, hash.digest(&[]).len());
    let at = if options.detached { 0 } else { DATA_AT };
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": key.len(),
            "af": {"type": "luks1", "stripes": STRIPES, "hash": hash.name()},
            "area": {
                "type": "raw", "offset": SLOT_AT.to_string(), "size": area.to_string(),
                "encryption": encryption, "key_size": key.len(),
            },
            "kdf": kdf,
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": at.to_string(), "size": "dynamic", "iv_tweak": "0",
            "encryption": encryption, "sector_size": 512,
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": hash.name(),
            "iterations": rounds, "salt": to_base64(&salt), "digest": to_base64(&digest),
        }},
        "config": {
            "json_size": (HEADER - BINARY).to_string(),
            "keyslots_size": (DATA_AT - SLOT_AT).to_string(),
        },
    })
}

impl Place for Made {
    fn end(&self) -> u64 {
        DATA_AT
    }

    /// The first header comes last: what a crash leaves is none.
    async fn put(&self, cx: &Cx, host: &Host) -> Result<(), BlockError> {
        host.write_bytes(cx, SLOT_AT, &self.stripes).await?;
        host.write_bytes(cx, HEADER as u64, &self.headers[1]).await?;
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &self.headers[0]).await?;
        host.sync(cx).await
    }
}
