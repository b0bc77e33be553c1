//! Making VHDs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::spec::{DYNAMIC, FOOTER, GEOMETRY_MAX, SECTORS_MAX, checksum, geometry};
use crate::{
    BlockError, Cx, Node,
    formats::{CreateOptions, FormatError, Subformat, begin, io, new_uuid},
    qcow2::{be, host::Host},
};

const BLOCK: u64 = 2 << 20;
/// Seconds from 1970 to 2000, where VHD's time begins.
const EPOCH: u64 = 946_684_800;
/// Where the table is: behind the footer's copy and the header.
const TABLE_AT: u64 = (FOOTER + DYNAMIC) as u64;

fn now() -> u32 {
    let since =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH));
    since.map_or(0, |time| time.as_secs() as u32)
}

/// Sectors and geometry of a disk: the next that has one, or exactly the size asked for.
fn sectors(size: u64, exact: bool) -> Result<(u64, (u64, u64, u64)), FormatError> {
    let wanted = size / 512;
    let too_large =
        || FormatError::Option("The image size is too large for file format 'vpc'".to_owned());
    if wanted > SECTORS_MAX {
        return Err(too_large());
    }
    let mut chs = geometry(wanted);
    if exact || wanted >= GEOMETRY_MAX {
        return Ok((wanted, if exact { geometry(GEOMETRY_MAX) } else { chs }));
    }
    let mut more = 0;
    while chs.0 * chs.1 * chs.2 < wanted {
        chs = geometry(wanted + more);
        more += 1;
    }
    Ok((chs.0 * chs.1 * chs.2, chs))
}

fn footer(options: &CreateOptions, kind: u32) -> Result<(u64, Vec<u8>), FormatError> {
    // A differencing disk has the size of its parent, whatever that is.
    let exact = options.force_size || options.backing.is_some();
    let (sectors, (cylinders, heads, per_track)) = sectors(options.size, exact)?;
    let mut bytes = vec![0; FOOTER];
    let mut put = |at, value: &[u8]| be::put(&mut bytes, at, value);
    put(0, b"conectix");
    put(8, &2_u32.to_be_bytes());
    put(12, &0x0001_0000_u32.to_be_bytes());
    let data = if kind == 2 { u64::MAX } else { FOOTER as u64 };
    put(16, &data.to_be_bytes());
    put(24, &now().to_be_bytes());
    // The programs that QEMU knows decide by this whether the size or the geometry counts.
    put(28, if exact { b"qem2" } else { b"qemu" });
    put(32, &[0, 5, 0, 3]);
    put(36, b"Wi2k");
    put(40, &(sectors * 512).to_be_bytes());
    put(48, &(sectors * 512).to_be_bytes());
    put(56, &(cylinders as u16).to_be_bytes());
    put(58, &[heads as u8, per_track as u8]);
    put(60, &kind.to_be_bytes());
    put(68, &new_uuid());
    let sum = checksum(&bytes, 64);
    be::put(&mut bytes, 64, &sum.to_be_bytes());
    Ok((sectors * 512, bytes))
}

/// The parent of a new differencing disk.
struct Parent {
    name: String,
    id: [u8; 16],
    locator_at: u64,
}

impl Parent {
    fn path(&self) -> Vec<u8> {
        let windows = self.name.replace('/', "\\");
        let relative =
            if windows.contains(['\\', ':']) { windows } else { format!(".\\{windows}") };
        relative.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }
}

fn dynamic(entries: u64, parent: Option<&Parent>) -> Vec<u8> {
    let mut bytes = vec![0; DYNAMIC];
    let mut put = |at, value: &[u8]| be::put(&mut bytes, at, value);
    put(0, b"cxsparse");
    put(8, &u64::MAX.to_be_bytes());
    put(16, &TABLE_AT.to_be_bytes());
    put(24, &0x0001_0000_u32.to_be_bytes());
    put(28, &(entries as u32).to_be_bytes());
    put(32, &(BLOCK as u32).to_be_bytes());
    if let Some(parent) = parent {
        put(40, &parent.id);
        put(56, &now().to_be_bytes());
        let file = parent.name.rsplit('/').next().unwrap_or_default();
        let units: Vec<u8> = file.encode_utf16().take(255).flat_map(u16::to_be_bytes).collect();
        put(64, &units);
        put(576, b"W2ru");
        put(580, &512_u32.to_be_bytes());
        put(584, &(parent.path().len() as u32).to_be_bytes());
        put(592, &parent.locator_at.to_be_bytes());
    }
    let sum = checksum(&bytes, 36);
    be::put(&mut bytes, 36, &sum.to_be_bytes());
    bytes
}

/// The footer is the last of a file, even where blocks are larger; a device has the length it has.
pub(super) async fn cut(cx: &Cx, host: &Host, len: u64) -> Result<(), BlockError> {
    host.set_len(cx, len).await.or_else(|error| match error {
        BlockError::Unsupported => Ok(()),
        other => Err(other),
    })
}

/// Makes an image.
pub(crate) async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    let host = Host::new(Arc::clone(file));
    let writing = io("writing the new image");
    if options.subformat == Subformat::Fixed {
        if options.backing.is_some() {
            return Err(FormatError::Option("a fixed VHD has no backing file".to_owned()));
        }
        let (size, footer) = footer(options, 2)?;
        let make = async {
            begin(cx, &host, size + FOOTER as u64).await?;
            host.write_bytes(cx, size, &footer).await?;
            cut(cx, &host, size + FOOTER as u64).await?;
            host.sync(cx).await
        };
        return make.await.map_err(writing);
    }
    let kind = if options.backing.is_some() { 4 } else { 3 };
    let (size, footer) = footer(options, kind)?;
    let entries = size.div_ceil(BLOCK);
    let table_end = TABLE_AT + (entries * 4).next_multiple_of(512);
    let parent = match &options.backing {
        Some((_, format)) if format != "vpc" => {
            return Err(FormatError::Option(format!(
                "the backing file of a VHD is a VHD (vpc), not {format}"
            )));
        }
        Some((name, _)) => {
            let id = options.backing_id.unwrap_or_default();
            Some(Parent { name: name.clone(), id, locator_at: table_end })
        }
        None => None,
    };
    let path = parent.as_ref().map(Parent::path).unwrap_or_default();
    if path.len() > 512 {
        return Err(FormatError::Option(
            "the backing file's name is longer than 256 characters".to_owned(),
        ));
    }
    let end = table_end + (path.len() as u64).next_multiple_of(512);
    let make = async {
        begin(cx, &host, end + FOOTER as u64).await?;
        host.write_bytes(cx, TABLE_AT, &vec![0xff; (table_end - TABLE_AT) as usize]).await?;
        if !path.is_empty() {
            host.write_bytes(cx, table_end, &path).await?;
        }
        host.write_bytes(cx, FOOTER as u64, &dynamic(entries, parent.as_ref())).await?;
        host.write_bytes(cx, end, &footer).await?;
        host.sync(cx).await?;
        // What makes it an image comes last.
        host.write_bytes(cx, 0, &footer).await?;
        cut(cx, &host, end + FOOTER as u64).await?;
        host.sync(cx).await
    };
    make.await.map_err(writing)
}
