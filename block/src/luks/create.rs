//! Making LUKS1 disks.

use std::{sync::Arc, time::Instant};

use super::{
    STRIPES,
    cipher::Spec,
    hash::Hash,
    random,
    v1::{DIGEST, Header, SALT, SLOTS, Slot},
};
use crate::{
    Cx, Node,
    formats::{FormatError, Secret, begin, io, new_uuid},
    qcow2::host::Host,
};

/// Where the first slot's stripes are, and what they are aligned to, in bytes.
const SLOT_ALIGN: u64 = 4096;
/// Rounds of PBKDF2 at least.
const ITERATIONS_MIN: u64 = 1000;

/// What a disk is to be like. The defaults are QEMU's.
#[derive(Clone, Debug)]
pub struct LuksOptions {
    /// Bytes of the disk; a multiple of 512.
    pub size: u64,
    /// `cipher-alg`: `aes-256`, `serpent-128`, …
    pub cipher_alg: String,
    /// `cipher-mode`: `xts`, `cbc`, `ecb` or `ctr`.
    pub cipher_mode: String,
    /// `ivgen-alg`: `plain64`, `plain` or `essiv`.
    pub ivgen_alg: String,
    /// `ivgen-hash-alg`, for `essiv`.
    pub ivgen_hash_alg: Option<String>,
    /// `hash-alg`.
    pub hash_alg: String,
    /// `iter-time`: how long finding the key of a slot shall take, in milliseconds.
    pub iter_time_ms: u64,
    /// The passphrase of the first slot.
    pub secret: Secret,
}

impl LuksOptions {
    /// A disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64, secret: Secret) -> Self {
        Self {
            size,
            cipher_alg: "aes-256".to_owned(),
            cipher_mode: "xts".to_owned(),
            ivgen_alg: "plain64".to_owned(),
            ivgen_hash_alg: None,
            hash_alg: "sha256".to_owned(),
            iter_time_ms: 2000,
            secret,
        }
    }
}

/// The cipher, and bytes of its key.
fn spec(options: &LuksOptions) -> Result<(Spec, usize), FormatError> {
    let unknown = |what: &str, name: &str| {
        FormatError::Option(format!("LUKS {what} '{}' is not supported", name.escape_debug()))
    };
    let cipher = &*options.cipher_alg;
    let (family, bits) = cipher.rsplit_once('-').ok_or_else(|| unknown("cipher", cipher))?;
    let bits: usize = bits.parse().map_err(|_| unknown("cipher", cipher))?;
    let mode = match (&*options.ivgen_alg, &options.ivgen_hash_alg) {
        ("essiv", hash) => {
            let hash = hash.as_deref().unwrap_or("sha256");
            format!("{}-essiv:{hash}", options.cipher_mode)
        }
        (ivgen, _) => format!("{}-{ivgen}", options.cipher_mode),
    };
    let spec = Spec::parse(family, &mode)?;
    let bytes = bits / 8 * if options.cipher_mode == "xts" { 2 } else { 1 };
    // To see that there are such keys.
    spec.keyed(&vec![1; bytes])?;
    Ok((spec, bytes))
}

/// Rounds of PBKDF2 that take so long here.
fn iterations(hash: Hash, len: usize, time_ms: u64) -> u32 {
    let mut rounds = 1000_u32;
    loop {
        let start = Instant::now();
        hash.pbkdf2(b"passphrase", &[0; SALT], rounds, len);
        let spent = start.elapsed().as_micros() as u64;
        if spent > 10_000 || rounds > 1 << 24 {
            let wanted = u64::from(rounds).saturating_mul(time_ms * 1000) / spent.max(1);
            return wanted.clamp(ITERATIONS_MIN, u64::from(super::ITERATIONS_MAX)) as u32;
        }
        rounds *= 4;
    }
}

/// A UUID as text.
fn uuid() -> String {
    let hex: String = new_uuid().iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn header(options: &LuksOptions, key: &[u8], spec: Spec, hash: Hash) -> Header {
    let stripes = (key.len() * STRIPES) as u64;
    let each = stripes.next_multiple_of(SLOT_ALIGN);
    let rounds = iterations(hash, key.len(), options.iter_time_ms);
    // The digest guards a key that is random: an eighth of the time is enough.
    let digest_iterations = (rounds / 8).max(ITERATIONS_MIN as u32);
    let digest_salt = random(SALT);
    let slots = (0..SLOTS as u64).map(|n| Slot {
        active: n == 0,
        iterations: if n == 0 { rounds } else { 0 },
        salt: if n == 0 { random(SALT) } else { vec![0; SALT] },
        at: SLOT_ALIGN + n * each,
        stripes: STRIPES as u32,
    });
    Header {
        spec,
        hash,
        payload_at: SLOT_ALIGN + SLOTS as u64 * each,
        key_len: key.len(),
        digest: hash.pbkdf2(key, &digest_salt, digest_iterations, DIGEST),
        digest_salt,
        digest_iterations,
        uuid: uuid(),
        slots: slots.collect(),
    }
}

/// Makes a disk in `file`, whose old contents are lost. What it reads as at first is whatever zeros
/// decrypt to.
///
/// # Errors
/// Options that cannot be, or a file that cannot be written.
pub async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &LuksOptions,
) -> Result<(), FormatError> {
    let (spec, key_len) = spec(options)?;
    let name = &*options.hash_alg;
    let hash = Hash::called(name).ok_or_else(|| {
        FormatError::Option(format!("LUKS hash '{}' is not supported", name.escape_debug()))
    })?;
    let key = random(key_len);
    let header = header(options, &key, spec, hash);
    let slot = &header.slots[0];
    let mut stripes = hash.split(&key, STRIPES);
    stripes.resize(stripes.len().next_multiple_of(512), 0);
    let derived = hash.pbkdf2(options.secret.bytes(), &slot.salt, slot.iterations, key_len);
    spec.keyed(&derived)?.sectors(true, 0, 512, &mut stripes);
    let end = header.payload_at.checked_add(options.size);
    let end = end.filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or_else(|| FormatError::Option("the disk is too large".to_owned()))?;
    let host = Host::new(Arc::clone(file));
    let make = async {
        begin(cx, &host, end).await?;
        host.write_bytes(cx, slot.at, &stripes).await?;
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &header.to_bytes()).await?;
        host.sync(cx).await
    };
    make.await.map_err(io("writing the new LUKS header"))
}
