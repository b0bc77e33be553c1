//! The encryption of new images.

use super::{
    super::{header::Header, host::Host},
    header_node, method,
};
use crate::{
    Cx,
    formats::{FormatError, Secret},
    luks::{self, LuksOptions},
};

/// How a new image is encrypted.
#[derive(Clone, Debug)]
pub enum Encrypt {
    /// `encrypt.format=luks`; the size is the image's own.
    Luks(LuksOptions),
    /// `encrypt.format=aes`, for programs that know nothing better. It is weak.
    Aes(Secret),
}

impl Encrypt {
    /// The passphrase.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Luks(options) => &options.secret,
            Self::Aes(secret) => secret,
        }
    }

    pub(in super::super) fn method(&self) -> u32 {
        match self {
            Self::Luks(_) => method::LUKS,
            Self::Aes(_) => method::AES,
        }
    }
}

/// Bytes that the encryption header of such an image takes.
pub(in super::super) fn header_len(encrypt: Option<&Encrypt>) -> Result<u64, FormatError> {
    match encrypt {
        Some(Encrypt::Luks(options)) => options.header_len(),
        Some(Encrypt::Aes(secret)) => luks::aes_sectors(secret).map(|_| 0),
        None => Ok(0),
    }
}

/// Writes the encryption header to where the image's header says that it is.
pub(in super::super) async fn write_header(
    cx: &Cx,
    host: &Host,
    header: &Header,
    encrypt: Option<&Encrypt>,
) -> Result<(), FormatError> {
    let (Some(Encrypt::Luks(options)), Some(place)) = (encrypt, header.encryption_header()?) else {
        return Ok(());
    };
    luks::write_header(cx, &Host::new(header_node(host, place)?), options).await
}
