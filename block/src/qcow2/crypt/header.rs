//! What an image's header says of its encryption.

use super::{
    super::{
        be,
        header::{Extension, Header, HeaderError},
        layout::OFFSET,
    },
    method,
};
use crate::{Range, formats::FormatError};

/// The extension that says where the LUKS header is: offset and length, 64 bits each.
const EXT_CRYPTO: u32 = 0x0537_be77;
/// No LUKS header is longer: eight slots of 4000 stripes of 64 bytes each.
const LENGTH_MAX: u64 = 16 << 20;

impl Header {
    /// How the image is encrypted, in QEMU's words; `None`: it is not.
    #[must_use]
    pub fn encryption(&self) -> Option<&'static str> {
        match self.crypt_method {
            method::AES => Some("aes"),
            method::LUKS => Some("luks"),
            _ => None,
        }
    }

    /// Where the LUKS header is in the file.
    ///
    /// # Errors
    /// It cannot be where the image says.
    pub fn encryption_header(&self) -> Result<Option<Range>, HeaderError> {
        let wrong = |what| Err(HeaderError::Field(what));
        let Some(extension) = self.extensions.iter().find(|e| e.kind == EXT_CRYPTO) else {
            return Ok(None);
        };
        if self.crypt_method != method::LUKS {
            return wrong("an encryption header, but the method is not LUKS");
        }
        if extension.data.len() != 16 {
            return wrong("length of the encryption header extension");
        }
        let (at, len) = (be::u64_at(&extension.data, 0), be::u64_at(&extension.data, 8));
        if at == 0 || at & !OFFSET != 0 || !self.layout().is_cluster_offset(at) {
            return wrong("offset of the encryption header");
        }
        if len == 0 || len > LENGTH_MAX {
            return wrong("length of the encryption header");
        }
        Ok(Some(Range::new(at, len)))
    }

    /// The clusters of the LUKS header, where there is one that can be.
    pub(in super::super) fn encryption_clusters(&self) -> std::ops::Range<u64> {
        match self.encryption_header() {
            Ok(Some(range)) => self.layout().clusters_of(range),
            _ => 0..0,
        }
    }

    /// Names the LUKS header.
    pub(in super::super) fn set_encryption_header(&mut self, place: Range) {
        let mut data = place.offset.to_be_bytes().to_vec();
        data.extend(place.len.to_be_bytes());
        self.extensions.push(Extension { kind: EXT_CRYPTO, data });
    }
}

impl From<HeaderError> for FormatError {
    fn from(error: HeaderError) -> Self {
        Self::Unsupported(error.to_string())
    }
}
