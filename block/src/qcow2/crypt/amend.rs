//! Other passphrases for an image that nobody has open.

use std::sync::Arc;

use super::{
    super::{host::Host, open::read_header},
    luks_node, method,
};
use crate::{
    Cx, Node,
    formats::{FormatError, Secret},
    luks::{self, SlotChange},
};

/// Changes the key slots of the image in `file`; `secret` opens it.
///
/// # Errors
/// QEMU's sentence about a change that is not possible, or a file that cannot be written.
pub async fn amend_keys(
    cx: &Cx,
    file: &Arc<dyn Node>,
    secret: &Secret,
    change: &SlotChange,
) -> Result<(), FormatError> {
    let header = read_header(cx, file).await;
    let header = header.map_err(|e| FormatError::Unsupported(crate::error::with_causes(&e)))?;
    match header.crypt_method {
        method::LUKS => {
            let node = luks_node(&Host::new(Arc::clone(file)), &header)?;
            luks::amend(cx, &node, secret, change).await
        }
        method::AES => {
            Err(FormatError::Option("Only LUKS encryption options can be amended".to_owned()))
        }
        _ => Err(FormatError::Option(
            "Can't amend encryption options - encryption not present".to_owned(),
        )),
    }
}
