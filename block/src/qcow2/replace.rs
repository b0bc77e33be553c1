//! Another header for an image that nobody has open: fields, extensions and the backing file's name
//! change at once, whenever the power fails.
//!
//! A disk writes a sector whole or not at all. Fields and extensions fit in the first one; the
//! backing file's name may lie anywhere in the first cluster. So: the new name is written to a
//! place that the old header does not use. **Sync.** The first sector. **Sync.** An image whose
//! extensions alone are longer than a sector loses the table of feature names, which is a courtesy;
//! one whose other extensions do not fit even so is written as a whole.

use super::{
    be,
    header::{Header, HeaderError},
    host::Host,
    mutation::{Rule, holds},
    open::{OpenError, read_first_cluster},
};
use crate::{BlockError, Cx};

const SECTOR: usize = 512;

/// Writes a header, durably.
///
/// # Errors
/// When it does not fit, and nothing is changed then; or when the file cannot be written.
pub(super) async fn replace_header(cx: &Cx, host: &Host, header: &Header) -> Result<(), OpenError> {
    let io = |source: BlockError| OpenError::Io { doing: "writing the image header", source };
    let (_, old) = read_first_cluster(cx, host).await?;
    let cluster = header.layout().cluster() as usize;
    let in_parts = parts(header, &old, cluster)?;
    // What the old header leads to is durable before the new one.
    host.sync(cx).await.map_err(io)?;
    match in_parts {
        Some((sector, name)) if holds(Rule::HeaderInOneSector) => {
            if let Some((at, bytes)) = name {
                host.write_bytes(cx, at as u64, &bytes).await.map_err(io)?;
                host.sync(cx).await.map_err(io)?;
            }
            host.write_bytes(cx, 0, &sector).await.map_err(io)?;
        }
        _ => {
            let mut whole = header.to_bytes()?;
            whole.resize(cluster, 0);
            host.write_bytes(cx, 0, &whole).await.map_err(io)?;
        }
    }
    host.sync(cx).await.map_err(io)
}

/// The first sector, and the backing file's name where it goes elsewhere.
type Parts = (Vec<u8>, Option<(usize, Vec<u8>)>);

/// `None` where one sector cannot hold it, or no place is left for the name.
fn parts(header: &Header, old: &[u8], cluster: usize) -> Result<Option<Parts>, HeaderError> {
    let mut bare = Header { backing_file: None, ..header.clone() };
    // Names too long for any place are refused here.
    header.to_bytes()?;
    let mut sector = bare.to_bytes()?;
    if sector.len() > SECTOR {
        // QEMU's table is longer than ours; better none than two sectors.
        bare.clear_feature_names();
        bare.set_feature_names();
        sector = bare.to_bytes()?;
    }
    if sector.len() > SECTOR {
        bare.clear_feature_names();
        sector = bare.to_bytes()?;
    }
    let used = sector.len();
    if used > SECTOR {
        return Ok(None);
    }
    sector.resize(SECTOR, 0);
    let Some(name) = header.backing_file.as_ref().map(|name| name.as_bytes().to_vec()) else {
        return Ok(Some((sector, None)));
    };
    let old_at = be::u64_at(old, 8) as usize;
    let old_end = if old_at == 0 { 0 } else { old_at.saturating_add(be::u32_at(old, 16) as usize) };
    let inside = used + name.len() <= SECTOR;
    let at = if inside {
        used
    } else if old_end <= SECTOR || old_at >= SECTOR + name.len() {
        SECTOR
    } else {
        old_end.next_multiple_of(8)
    };
    if at.saturating_add(name.len()) > cluster {
        return Ok(None);
    }
    be::put(&mut sector, 8, &(at as u64).to_be_bytes());
    be::put(&mut sector, 16, &(name.len() as u32).to_be_bytes());
    if inside {
        be::put(&mut sector, at, &name);
        return Ok(Some((sector, None)));
    }
    Ok(Some((sector, Some((at, name)))))
}
