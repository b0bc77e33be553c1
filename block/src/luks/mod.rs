//! LUKS: encrypted disks, versions 1 and 2, with the header in the same file or in another.
//!
//! Sectors are encrypted on their way; nothing else about a disk is kept up, so what a flush means is
//! the file's business. Sources: *LUKS1 On-Disk Format Specification* 1.2.3 and *LUKS2 On-Disk Format
//! Specification* 1.1.

mod cipher;
mod create;
mod create2;
mod hash;
pub(crate) mod health;
mod node;
pub(crate) mod sectors;
mod slots;
mod v1;
mod v2;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

pub(crate) use create::write_header;
pub use create::{LuksOptions, create};
use node::Luks;
pub(crate) use sectors::Sectors;
pub use slots::{SlotChange, amend};

use crate::{
    Cx, Node,
    formats::{Facts, FormatError, Request, Secret, io, refuse},
    qcow2::host::Host,
};

/// What both versions begin with.
pub(crate) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// Stripes of every key slot.
const STRIPES: usize = 4000;
/// Rounds of PBKDF2 that are done at most for one slot.
const ITERATIONS_MAX: u32 = 100_000_000;

/// Random bytes from the kernel, for keys and salts.
fn random(len: usize) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; len];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    // Without it nothing that is made here would be a secret.
    assert!(read.is_ok(), "the kernel gives no random bytes");
    bytes
}

/// How a disk is encrypted, and where it is.
struct Volume {
    sectors: Sectors,
    /// Where its first sector is, in bytes.
    at: u64,
    /// Bytes of the disk, where the header gives them.
    size: Option<u64>,
}

fn wrong_password() -> FormatError {
    FormatError::Option("Invalid password, cannot unlock any keyslot".to_owned())
}

enum Header {
    V1(v1::Header),
    V2(v2::Header),
}

async fn read_header(cx: &Cx, host: &Host) -> Result<Header, FormatError> {
    let bytes = host.read(cx, 0, v1::HEADER).await.map_err(io("reading the LUKS header"))?;
    if !bytes.starts_with(MAGIC) {
        return Err(FormatError::Magic("luks"));
    }
    match crate::qcow2::be::u16_at(&bytes, 6) {
        1 => Ok(Header::V1(v1::Header::parse(&bytes)?)),
        2 => Ok(Header::V2(v2::read(cx, host).await?)),
        other => Err(FormatError::Unsupported(format!("LUKS version {other} is not supported"))),
    }
}

fn payload(at: u64, size: u64) -> Result<u64, FormatError> {
    let beyond = || refuse("payload offset", format!("is {at}, and the file has {size} bytes"));
    size.checked_sub(at).ok_or_else(beyond)
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let host = Host::new(Arc::clone(file));
    let size = file.info().size;
    match read_header(cx, &host).await? {
        Header::V1(header) => Ok(Facts {
            size: payload(header.payload_at, size)?,
            specific: Some(header.report()),
            encrypted: true,
            ..Facts::default()
        }),
        Header::V2(header) => {
            let (at, len) = header.place()?;
            let rest = payload(at, size)?;
            let size = len.unwrap_or(rest);
            Ok(Facts { size, encrypted: true, ..Facts::default() })
        }
    }
}

/// The cipher of what a LUKS1 header in `file` guards, of no disk of its own.
pub(crate) async fn unlock(
    cx: &Cx,
    file: &Arc<dyn Node>,
    secret: &Secret,
) -> Result<Sectors, FormatError> {
    let host = Host::new(Arc::clone(file));
    Ok(version_1(cx, &host).await?.unlock(cx, &host, secret.bytes()).await?.sectors)
}

/// What a LUKS1 header in `file` says, with QEMU's names.
pub(crate) async fn report(
    cx: &Cx,
    file: &Arc<dyn Node>,
) -> Result<serde_json::Value, FormatError> {
    Ok(version_1(cx, &Host::new(Arc::clone(file))).await?.report())
}

async fn version_1(cx: &Cx, host: &Host) -> Result<v1::Header, FormatError> {
    match read_header(cx, host).await? {
        Header::V1(header) => Ok(header),
        Header::V2(_) => {
            Err(FormatError::Unsupported("LUKS version 2 is not supported here".to_owned()))
        }
    }
}

/// The cipher of images that are encrypted the old way: AES-128 in CBC mode, keyed with the first 16
/// bytes of the password.
pub(crate) fn aes_sectors(secret: &Secret) -> Result<Sectors, FormatError> {
    let mut key = [0; 16];
    let len = secret.bytes().len().min(key.len());
    key[..len].copy_from_slice(&secret.bytes()[..len]);
    let cipher = cipher::Spec::parse("aes", "cbc-plain64")?.keyed(&key)?;
    Ok(Sectors::new(cipher, 512, 0))
}

/// Opens a disk with the passphrase that comes with the request.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    let secret = request.secret.clone().ok_or_else(|| {
        FormatError::Option("Parameter 'key-secret' is required for cipher".to_owned())
    })?;
    let detached = request.header.is_some();
    let front = Host::new(request.header.clone().unwrap_or_else(|| Arc::clone(&request.file)));
    let mut volume = match read_header(cx, &front).await? {
        Header::V1(header) => header.unlock(cx, &front, secret.bytes()).await?,
        Header::V2(header) => header.unlock(cx, &front, secret.bytes()).await?,
    };
    if detached {
        volume.at = 0;
    }
    let rest = payload(volume.at, request.file.info().size)?;
    let size = match volume.size {
        Some(size) if size > rest => {
            return Err(refuse("segment size", format!("is {size}, and the file has {rest}")));
        }
        Some(size) => size,
        None => rest,
    };
    let size = size / volume.sectors.size() * volume.sectors.size();
    let read_only = request.is_read_only();
    Ok(Luks::new(request.file, request.header, volume, size, read_only))
}
