//! Encrypted images: data clusters by sectors of 512 bytes, metadata as ever.
//!
//! Two methods (QEMU, `docs/interop/qcow2.txt`, "Data encryption"). *LUKS*: a LUKS1 header in
//! clusters of its own, which a header extension names; sectors are numbered by where they are in the
//! file. *AES*, of old: AES-128 in CBC mode, keyed with the first 16 bytes of the password; sectors
//! are numbered by where they are on the disk. Compressed clusters are not encrypted.

mod amend;
mod data;
mod header;
mod make;

use std::sync::Arc;

pub use amend::amend_keys;
pub use make::Encrypt;
pub(super) use make::{header_len, write_header};

use super::{header::Header, host::Host};
use crate::{
    Cx, Node, Range,
    formats::{FormatError, Secret},
    luks::{self, Sectors},
    nodes::raw::RawNode,
};

/// `crypt_method`.
pub(super) mod method {
    pub const AES: u32 = 1;
    pub const LUKS: u32 = 2;
}

/// The unit of encryption, in bytes.
pub(super) const SECTOR: u32 = 512;

/// The cipher of an open image.
pub(super) struct Crypt {
    sectors: Sectors,
    /// Sectors are numbered by their place in the file, not on the disk.
    by_host: bool,
}

impl Crypt {
    fn number_at(&self, guest: u64, host: u64) -> u64 {
        if self.by_host { host } else { guest }
    }
}

/// A node that begins with the LUKS header of the image in `host`.
fn header_node(host: &Host, place: Range) -> Result<Arc<dyn Node>, FormatError> {
    let rest = host.node().info().size.saturating_sub(place.offset);
    let len = place.len.next_multiple_of(u64::from(SECTOR)).min(rest / 512 * 512);
    let window = RawNode::new(Arc::clone(host.node()), place.offset, Some(len), false);
    window.map(|node| node as Arc<dyn Node>).map_err(|error| {
        crate::formats::refuse("encryption header", format!("cannot be reached: {error}"))
    })
}

/// The LUKS header's node, where the image has one.
fn luks_node(host: &Host, header: &Header) -> Result<Arc<dyn Node>, FormatError> {
    let place = header.encryption_header()?.ok_or_else(|| {
        crate::formats::refuse("encryption header", "is not there, though the method is LUKS")
    })?;
    header_node(host, place)
}

/// The cipher of the image, where it has one. `format` is what the caller takes it to be.
pub(super) async fn open(
    cx: &Cx,
    host: &Host,
    header: &Header,
    secret: Option<&Secret>,
    format: Option<&str>,
) -> Result<Option<Crypt>, FormatError> {
    let found = header.encryption();
    header.encryption_header()?;
    match (found, format) {
        (None, Some(format)) => {
            return Err(FormatError::Option(format!(
                "No encryption in image header, but options specified format '{format}'"
            )));
        }
        (Some(found), Some(format)) if found != format => {
            return Err(FormatError::Option(format!(
                "Header reported '{found}' encryption format but options specify '{format}'"
            )));
        }
        (None, None) => return Ok(None),
        _ => {}
    }
    let secret = secret.ok_or_else(|| {
        FormatError::Option("Parameter 'encrypt.key-secret' is required for cipher".to_owned())
    })?;
    let by_host = header.crypt_method == method::LUKS;
    let sectors = if by_host {
        luks::unlock(cx, &luks_node(host, header)?, secret).await?
    } else {
        luks::aes_sectors(secret)?
    };
    Ok(Some(Crypt { sectors, by_host }))
}

/// What `info` shows of the encryption, with QEMU's names.
pub(super) async fn report(
    cx: &Cx,
    host: &Host,
    header: &Header,
) -> Result<Option<serde_json::Value>, FormatError> {
    let Some(format) = header.encryption() else { return Ok(None) };
    let mut report = match header.crypt_method {
        method::LUKS => luks::report(cx, &luks_node(host, header)?).await?,
        _ => serde_json::json!({}),
    };
    report["format"] = format.into();
    Ok(Some(report))
}
