//! Making VHDX images.

use std::sync::Arc;

use super::{
    bat::PRESENT,
    metadata::{self, Metadata, Parent},
    region,
    spec::{FILE_SIGNATURE, Header, KIB, MIB},
};
use crate::{
    Cx, Node, Range,
    formats::{CreateOptions, FormatError, Subformat, begin, io},
    qcow2::host::Host,
};

const TIB: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

/// As QEMU chooses it: larger disks have larger blocks.
fn block_for(size: u64) -> u64 {
    if size > 32 * TIB {
        64 * MIB
    } else if size > 100 * GIB {
        32 * MIB
    } else if size > GIB {
        16 * MIB
    } else {
        8 * MIB
    }
}

fn plan(options: &CreateOptions) -> Result<(Metadata, u64), FormatError> {
    let bad = |what: String| Err(FormatError::Option(what));
    if options.size > 64 * TIB {
        return bad("Image size too large; max of 64TB".to_owned());
    }
    let log = options.log_size.filter(|n| *n != 0).unwrap_or(MIB);
    if log < MIB || !log.is_multiple_of(MIB) || log > 256 * MIB {
        return bad("Log size must be a multiple of 1 MB, at most 256 MB".to_owned());
    }
    let block = options.cluster_size.filter(|n| *n != 0).unwrap_or(block_for(options.size));
    if !block.is_multiple_of(MIB) {
        return bad("Block size must be a multiple of 1 MB".to_owned());
    }
    if block > 256 * MIB {
        return bad("Block size must not exceed 268435456".to_owned());
    }
    if !block.is_power_of_two() {
        return bad("Block size must be a power of two".to_owned());
    }
    let has_parent = options.backing.is_some();
    let metadata =
        Metadata { size: options.size, block, sector: 512, has_parent, ..Metadata::default() };
    Ok((metadata, log))
}

/// Makes an image.
pub(crate) async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    let (metadata, log) = plan(options)?;
    let fixed = options.subformat == Subformat::Fixed;
    let parent = match &options.backing {
        Some(_) if fixed => {
            return Err(FormatError::Option("a fixed VHDX has no backing file".to_owned()));
        }
        Some((_, format)) if format != "vhdx" => {
            return Err(FormatError::Option(format!(
                "the backing file of a VHDX is a VHDX (vhdx), not {format}"
            )));
        }
        Some((name, _)) if name.len() > 4096 => {
            return Err(FormatError::Option("the backing file's name is too long".to_owned()));
        }
        Some((name, _)) => Some(Parent { file: name, id: options.backing_id.unwrap_or_default() }),
        None => None,
    };
    let host = Host::new(Arc::clone(file));
    let header = Header::new(MIB, log);
    let bat = Range::new(MIB + log, (metadata.bat_entries() * 8).max(1).next_multiple_of(MIB));
    let meta = Range::new(bat.end(), MIB);
    let data = meta.end();
    let end = if fixed { data + metadata.blocks() * metadata.block } else { data };
    let make = async {
        begin(cx, &host, end).await?;
        let items = metadata::region(&metadata, fixed, parent.as_ref());
        host.write_bytes(cx, meta.offset, &items).await?;
        write_bat(cx, &host, bat, &metadata, fixed.then_some(data)).await?;
        let table = region::table(bat, meta);
        for at in region::TABLES_AT {
            host.write_bytes(cx, at, &table).await?;
        }
        let header = header.replace(cx, &host).await?;
        header.replace(cx, &host).await?;
        let mut first = vec![0; 64 * KIB as usize];
        first[..8].copy_from_slice(FILE_SIGNATURE);
        for (place, unit) in
            first[8..].as_chunks_mut::<2>().0.iter_mut().zip("spindle".encode_utf16())
        {
            *place = unit.to_le_bytes();
        }
        host.write_bytes(cx, 0, &first).await?;
        host.sync(cx).await
    };
    make.await.map_err(io("writing the new image"))
}

/// Writes the table: all of it, because of a device nobody knows what it held.
async fn write_bat(
    cx: &Cx,
    host: &Host,
    bat: Range,
    metadata: &Metadata,
    data: Option<u64>,
) -> Result<(), crate::BlockError> {
    let ratio = metadata.chunk_ratio();
    let entry = |index: u64| -> u64 {
        let (chunk, in_chunk) = (index / (ratio + 1), index % (ratio + 1));
        let block = chunk * ratio + in_chunk;
        match data {
            Some(data) if in_chunk < ratio && block < metadata.blocks() => {
                (data + block * metadata.block) | PRESENT
            }
            _ => 0,
        }
    };
    let mut at = 0;
    while at < bat.len {
        let bytes: Vec<u8> =
            (at / 8..(at + MIB) / 8).flat_map(|n| entry(n).to_le_bytes()).collect();
        host.write_bytes(cx, bat.offset + at, &bytes).await?;
        at += MIB;
    }
    Ok(())
}
