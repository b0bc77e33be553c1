//! Making LUKS1 disks.

use std::{sync::Arc, time::Instant};

use super::{
    STRIPES,
    cipher::Spec,
    create2,
    hash::Hash,
    random,
    slots::seal,
    v1::{DIGEST, Header, SALT, SLOTS, Slot},
};
use crate::{
    BlockError, Cx, Node,
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
    /// 1 or 2. QEMU reads version 1 only.
    pub version: u32,
    /// `detached-header`: only the header is made; the disk is in another file, from its beginning.
    pub detached: bool,
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
            version: 1,
            detached: false,
            secret,
        }
    }
}

/// QEMU's sentence about a name that it does not know either, or ours.
fn unknown(option: &str, value: &str) -> FormatError {
    FormatError::Option(format!(
        "Parameter '{option}' does not accept value '{}'",
        value.escape_debug()
    ))
}

/// The hash called `name`.
pub(super) fn hash_called(option: &str, name: &str) -> Result<Hash, FormatError> {
    Hash::called(name).ok_or_else(|| unknown(option, name))
}

/// The cipher, and bytes of its key.
pub(super) fn spec(options: &LuksOptions) -> Result<(Spec, usize), FormatError> {
    let cipher = &*options.cipher_alg;
    let no_cipher = || unknown("cipher-alg", cipher);
    let (family, bits) = cipher.rsplit_once('-').ok_or_else(no_cipher)?;
    let bits = match bits {
        "128" => 128,
        "192" => 192,
        "256" => 256,
        _ => return Err(no_cipher()),
    };
    let mode = &*options.cipher_mode;
    if !["ecb", "cbc", "ctr", "xts"].contains(&mode) {
        return Err(unknown("cipher-mode", mode));
    }
    let ivgen = match &*options.ivgen_alg {
        "essiv" => {
            let hash = options.ivgen_hash_alg.as_deref().unwrap_or("sha256");
            format!("essiv:{}", hash_called("ivgen-hash-alg", hash)?.name())
        }
        ivgen @ ("plain" | "plain64") => ivgen.to_owned(),
        other => return Err(unknown("ivgen-alg", other)),
    };
    let spec = Spec::parse(family, &format!("{mode}-{ivgen}")).map_err(|_| no_cipher())?;
    let bytes = bits / 8 * if mode == "xts" { 2 } else { 1 };
    // To see that there are such keys.
    spec.keyed(&vec![1; bytes])?;
    Ok((spec, bytes))
}

/// Rounds of PBKDF2 that take so long here.
pub(super) fn iterations(hash: Hash, len: usize, time_ms: u64) -> u32 {
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
pub(super) fn uuid() -> String {
    let hex: String = new_uuid().iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The bytes of the header and all slots, for a key of so many bytes.
fn header_len(key_len: usize) -> u64 {
    SLOT_ALIGN + SLOTS as u64 * slot_len(key_len)
}

fn slot_len(key_len: usize) -> u64 {
    ((key_len * STRIPES) as u64).next_multiple_of(SLOT_ALIGN)
}

impl LuksOptions {
    /// How many bytes stand before the disk, or are the whole file of a detached header.
    ///
    /// # Errors
    /// Options that cannot be.
    pub fn header_len(&self) -> Result<u64, FormatError> {
        let (_, key_len) = spec(self)?;
        match self.version {
            1 => Ok(header_len(key_len)),
            2 => Ok(create2::DATA_AT),
            other => Err(FormatError::Option(format!("there is no LUKS version {other}"))),
        }
    }
}

/// A header and the stripes of its one slot.
struct Made {
    header: Header,
    stripes: Vec<u8>,
}

fn make(options: &LuksOptions) -> Result<Made, FormatError> {
    let (spec, key_len) = spec(options)?;
    let hash = hash_called("hash-alg", &options.hash_alg)?;
    let key = random(key_len);
    let digest_salt = random(SALT);
    let slots = (0..SLOTS as u64).map(|n| Slot {
        active: false,
        iterations: 0,
        salt: vec![0; SALT],
        at: SLOT_ALIGN + n * slot_len(key_len),
        stripes: STRIPES as u32,
    });
    let mut header = Header {
        spec,
        hash,
        payload_at: if options.detached { 0 } else { header_len(key_len) },
        key_len,
        digest: Vec::new(),
        digest_salt,
        digest_iterations: 0,
        uuid: uuid(),
        slots: slots.collect(),
    };
    let sealed = seal(&header, &key, &options.secret, options.iter_time_ms)?;
    // The digest guards a key that is random: an eighth of the time is enough.
    header.digest_iterations = (sealed.slot.iterations / 8).max(ITERATIONS_MIN as u32);
    header.digest = hash.pbkdf2(&key, &header.digest_salt, header.digest_iterations, DIGEST);
    header.slots[0] = Slot { at: header.slots[0].at, ..sealed.slot };
    Ok(Made { header, stripes: sealed.stripes })
}

/// Writes a header to the beginning of `host`, where [`LuksOptions::header_len`] bytes are zeros.
pub(crate) async fn write_header(
    cx: &Cx,
    host: &Host,
    options: &LuksOptions,
) -> Result<(), FormatError> {
    let made = make(options)?;
    made.put(cx, host).await.map_err(io("writing the new LUKS header"))
}

/// A header that is made and has its place.
pub(super) trait Place {
    /// The bytes that it takes.
    fn end(&self) -> u64;

    /// Writes it where zeros are.
    async fn put(&self, cx: &Cx, host: &Host) -> Result<(), BlockError>;
}

impl Place for Made {
    fn end(&self) -> u64 {
        header_len(self.header.key_len)
    }

    async fn put(&self, cx: &Cx, host: &Host) -> Result<(), BlockError> {
        host.write_bytes(cx, self.header.slots[0].at, &self.stripes).await?;
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &self.header.to_bytes()).await?;
        host.sync(cx).await
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
    // Versions that there are not are refused here.
    options.header_len()?;
    if options.version == 2 {
        return create_at(cx, file, options, &create2::make(options)?).await;
    }
    create_at(cx, file, options, &make(options)?).await
}

async fn create_at(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &LuksOptions,
    made: &impl Place,
) -> Result<(), FormatError> {
    let size = if options.detached { 0 } else { options.size };
    let end = made.end().checked_add(size);
    let end = end.filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or_else(|| FormatError::Option("the disk is too large".to_owned()))?;
    let host = Host::new(Arc::clone(file));
    let written = async {
        begin(cx, &host, end).await?;
        made.put(cx, &host).await
    };
    written.await.map_err(io("writing the new LUKS header"))
}
