//! What can be told of a header without a passphrase, and the second header of LUKS2.

use std::sync::Arc;

use super::{MAGIC, STRIPES, v1, v2};
use crate::{
    Cx, Node,
    formats::{Ailment, FormatError, io},
    qcow2::{be, host::Host},
};

pub(crate) async fn ailments(cx: &Cx, file: &Arc<dyn Node>) -> Result<Vec<Ailment>, FormatError> {
    let host = Host::new(Arc::clone(file));
    let size = file.info().size;
    let bytes = host.read(cx, 0, v1::HEADER).await.map_err(io("reading the LUKS header"))?;
    let copies = v2::copies(cx, &host).await?;
    let is_first = bytes.starts_with(MAGIC);
    if is_first && be::u16_at(&bytes, 6) == 1 {
        return Ok(version_1(&bytes, size));
    }
    let mut found = Vec::new();
    match (copies.first, copies.second) {
        (None, None) => {
            found.push(Ailment::new(
                "there is no whole LUKS header in any of its places: without one (or a backup of \
                 it) the data cannot be decrypted by anybody",
                None,
            ));
            return Ok(found);
        }
        (None, Some(_)) => found.push(Ailment::new(
            "the first LUKS2 header is damaged; the second is whole",
            Some("writes the first again, from the second"),
        )),
        (Some(_), None) => found.push(Ailment::new(
            "the second LUKS2 header is damaged; the first is whole",
            Some("writes the second again, from the first"),
        )),
        (Some((_, a)), Some((_, b))) if a != b => found.push(Ailment::new(
            format!(
                "the two LUKS2 headers are of different age ({a} and {b}): a change was cut short"
            ),
            Some("writes the older again, from the newer"),
        )),
        _ => {}
    }
    match v2::read(cx, &host).await.and_then(|header| {
        let slots = header.slots();
        header.place().map(|place| (place, slots))
    }) {
        Ok(((at, len), slots)) => {
            if slots == 0 {
                found.push(Ailment::new("no key slot is in use: no passphrase opens it", None));
            }
            let end = len.and_then(|len| at.checked_add(len)).unwrap_or(at);
            if end > size {
                found.push(Ailment::new(
                    format!("the data end at byte {end}, and the file at {size}: it was cut off"),
                    None,
                ));
            }
        }
        Err(error) => found.push(Ailment::new(error.to_string(), None)),
    }
    Ok(found)
}

fn version_1(bytes: &[u8], size: u64) -> Vec<Ailment> {
    let header = match v1::Header::parse(bytes) {
        Ok(header) => header,
        Err(error) => return vec![Ailment::new(error.to_string(), None)],
    };
    let mut found = Vec::new();
    let material = (header.key_len * STRIPES) as u64;
    if !header.slots.iter().any(|slot| slot.active) {
        found.push(Ailment::new("no key slot is in use: no passphrase opens it", None));
    }
    for (n, slot) in header.slots.iter().enumerate().filter(|(_, slot)| slot.active) {
        let end = slot.at.saturating_add(material);
        if end > size {
            found.push(Ailment::new(
                format!("key slot {n} lies beyond the end of the file: it was cut off"),
                None,
            ));
        }
    }
    if header.payload_at > size {
        found.push(Ailment::new(
            format!("the data begin at byte {}, and the file ends at {size}", header.payload_at),
            None,
        ));
    }
    found
}

pub(crate) async fn cure(cx: &Cx, file: &Arc<dyn Node>) -> Result<(), FormatError> {
    let host = Host::new(Arc::clone(file));
    let bytes = host.read(cx, 0, v1::HEADER).await.map_err(io("reading the LUKS header"))?;
    if bytes.starts_with(MAGIC) && be::u16_at(&bytes, 6) == 1 {
        return Ok(());
    }
    v2::copy_newer(cx, &host).await
}
