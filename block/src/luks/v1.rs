//! Version 1: the header, and its key slots. Big-endian.

use serde_json::{Value, json};

use super::{
    ITERATIONS_MAX, STRIPES, Volume, cipher::Spec, hash::Hash, sectors::Sectors, wrong_password,
};
use crate::{
    Cx,
    formats::{FormatError, io, refuse},
    qcow2::{be, host::Host},
};

/// Bytes of the header.
pub(super) const HEADER: usize = 592;
pub(super) const SLOTS: usize = 8;
pub(super) const SLOTS_AT: usize = 208;
pub(super) const SLOT: usize = 48;
pub(super) const ENABLED: u32 = 0x00ac_71f3;
pub(super) const DISABLED: u32 = 0x0000_dead;
pub(super) const DIGEST: usize = 20;
pub(super) const SALT: usize = 32;
const SECTOR: u64 = 512;
/// Rounds of PBKDF2 that are done at most for all slots.
const ITERATIONS_SUM_MAX: u64 = 2 * ITERATIONS_MAX as u64;

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub active: bool,
    pub iterations: u32,
    pub salt: Vec<u8>,
    /// Where its stripes are, in bytes.
    pub at: u64,
    pub stripes: u32,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub spec: Spec,
    pub hash: Hash,
    /// Where the first sector is, in bytes.
    pub payload_at: u64,
    /// Bytes of the master key.
    pub key_len: usize,
    pub digest: Vec<u8>,
    pub digest_salt: Vec<u8>,
    pub digest_iterations: u32,
    pub uuid: String,
    pub slots: Vec<Slot>,
}

fn text(bytes: &[u8], at: usize, len: usize) -> Result<&str, FormatError> {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|b| *b == 0);
    let field = &field[..end.ok_or_else(|| refuse("LUKS header", "has a text without an end"))?];
    std::str::from_utf8(field).map_err(|_| refuse("LUKS header", "has a text that is not UTF-8"))
}

pub(super) fn checked(iterations: u32, field: &'static str) -> Result<u32, FormatError> {
    if iterations == 0 || iterations > ITERATIONS_MAX {
        return Err(refuse(field, format!("is {iterations}: none, or more than {ITERATIONS_MAX}")));
    }
    Ok(iterations)
}

impl Header {
    /// Takes a header apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let field = |at| be::u32_at(bytes, at);
        let spec = Spec::parse(text(bytes, 8, 32)?, text(bytes, 40, 32)?)?;
        let name = text(bytes, 72, 32)?;
        let hash = Hash::called(name).ok_or_else(|| {
            FormatError::Unsupported(format!(
                "LUKS hash '{}' is not supported",
                name.escape_debug()
            ))
        })?;
        let key_len = field(108) as usize;
        if !(16..=64).contains(&key_len) {
            return Err(refuse("key-bytes", format!("is {key_len}, not 16 to 64")));
        }
        // A key of the right length, to see that the cipher has such keys.
        spec.keyed(&vec![1; key_len])?;
        let mut slots = Vec::new();
        for n in 0..SLOTS {
            let slot = bytes.get(SLOTS_AT + n * SLOT..).unwrap_or_default();
            let active = match be::u32_at(slot, 0) {
                ENABLED => true,
                DISABLED => false,
                other => return Err(refuse("key slot", format!("{n} is marked {other:#x}"))),
            };
            let iterations = be::u32_at(slot, 4);
            let stripes = be::u32_at(slot, 44);
            if active {
                checked(iterations, "key slot's iterations")?;
                if stripes as usize != STRIPES {
                    return Err(refuse("key slot", format!("{n} has {stripes} stripes, not 4000")));
                }
            }
            let at = u64::from(be::u32_at(slot, 40)) * SECTOR;
            let salt = slot.get(8..8 + SALT).unwrap_or_default().to_vec();
            slots.push(Slot { active, iterations, salt, at, stripes });
        }
        let total: u64 =
            slots.iter().filter(|s: &&Slot| s.active).map(|s| u64::from(s.iterations)).sum();
        if total > ITERATIONS_SUM_MAX {
            return Err(refuse("key slots", format!("have {total} iterations, too many to try")));
        }
        let payload_at = u64::from(field(104)) * SECTOR;
        let material = (key_len * STRIPES) as u64;
        for (n, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.active) {
            let end = slot.at + material;
            if slot.at < HEADER as u64 {
                return Err(refuse("key slot", format!("{n} overlaps the LUKS header")));
            }
            if payload_at != 0 && end > payload_at {
                return Err(refuse("key slot", format!("{n} overlaps the encrypted payload")));
            }
        }
        Ok(Self {
            spec,
            hash,
            payload_at,
            key_len,
            digest: bytes.get(112..112 + DIGEST).unwrap_or_default().to_vec(),
            digest_salt: bytes.get(132..132 + SALT).unwrap_or_default().to_vec(),
            digest_iterations: checked(field(164), "mk-digest-iter")?,
            uuid: text(bytes, 168, 40)?.to_owned(),
            slots,
        })
    }

    /// The bytes of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at, value: &[u8]| be::put(&mut bytes, at, value);
        put(0, super::MAGIC);
        put(6, &[0, 1]);
        put(8, self.spec.family.name().as_bytes());
        put(40, self.spec.mode_text().as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &((self.payload_at / SECTOR) as u32).to_be_bytes());
        put(108, &(self.key_len as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (n, slot) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + n * SLOT;
            put(at, &if slot.active { ENABLED } else { DISABLED }.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &((slot.at / SECTOR) as u32).to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        bytes
    }

    fn digest_of(&self, key: &[u8]) -> Vec<u8> {
        self.hash.pbkdf2(key, &self.digest_salt, self.digest_iterations, DIGEST)
    }

    /// The master key, where this slot holds it under this passphrase.
    pub async fn slot_key(
        &self,
        cx: &Cx,
        host: &Host,
        slot: &Slot,
        secret: &[u8],
    ) -> Result<Option<Vec<u8>>, FormatError> {
        let len = self.key_len * STRIPES;
        if slot.at + len as u64 > host.node().info().size {
            return Err(refuse("key slot", "lies beyond the end of the file"));
        }
        let stripes = host.read(cx, slot.at, len.next_multiple_of(512)).await;
        let mut stripes = stripes.map_err(io("reading a key slot"))?;
        let derived = self.hash.pbkdf2(secret, &slot.salt, slot.iterations, self.key_len);
        self.spec.keyed(&derived)?.sectors(false, 0, 512, &mut stripes);
        let key = self.hash.merge(&stripes[..len], self.key_len);
        Ok((self.digest_of(&key) == self.digest).then_some(key))
    }

    /// Finds the master key with a passphrase: the first slot that it opens.
    pub async fn find_key(
        &self,
        cx: &Cx,
        host: &Host,
        secret: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        for slot in self.slots.iter().filter(|slot| slot.active) {
            if let Some(key) = self.slot_key(cx, host, slot, secret).await? {
                return Ok(key);
            }
        }
        Err(wrong_password())
    }

    /// How the disk is encrypted, found with a passphrase.
    pub async fn unlock(self, cx: &Cx, host: &Host, secret: &[u8]) -> Result<Volume, FormatError> {
        let key = self.find_key(cx, host, secret).await?;
        let sectors = Sectors::new(self.spec.keyed(&key)?, SECTOR, 0);
        Ok(Volume { sectors, at: self.payload_at, size: None })
    }

    /// What `info` shows, with QEMU's names.
    pub fn report(&self) -> Value {
        let (ivgen, hash) = match self.spec.ivgen {
            super::cipher::IvGen::Plain => ("plain", None),
            super::cipher::IvGen::Plain64 => ("plain64", None),
            super::cipher::IvGen::Essiv(hash) => ("essiv", Some(hash.name())),
        };
        let bits = match self.spec.mode {
            super::cipher::Mode::Xts => self.key_len * 4,
            _ => self.key_len * 8,
        };
        let slots: Vec<Value> = self
            .slots
            .iter()
            .map(|slot| {
                let mut value = json!({"active": slot.active, "key-offset": slot.at});
                if slot.active {
                    value["iters"] = slot.iterations.into();
                    value["stripes"] = slot.stripes.into();
                }
                value
            })
            .collect();
        let mut value = json!({
            "ivgen-alg": ivgen,
            "detached-header": false,
            "hash-alg": self.hash.name(),
            "cipher-alg": format!("{}-{bits}", self.spec.family.name()),
            "uuid": self.uuid,
            "cipher-mode": self.spec.mode.name(),
            "slots": slots,
            "payload-offset": self.payload_at,
            "master-key-iters": self.digest_iterations,
        });
        if let Some(hash) = hash {
            value["ivgen-hash-alg"] = hash.into();
        }
        value
    }
}
