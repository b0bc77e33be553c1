//! VHDX: fixed, dynamic and differencing disks, with their log.
//!
//! Two headers, of which the newer counts; a region table that leads to the metadata and to the block
//! allocation table (BAT); blocks at multiples of 1 MiB. Changes of the BAT go through the log: an
//! entry is durable before the BAT is written, and the BAT before the log forgets it.
//!
//! Source: Microsoft, *\[MS-VHDX\]: Virtual Hard Disk v2 (VHDX) File Format*, revision 6.0.

mod bat;
mod crc;
mod create;
mod guid;
mod log;
mod metadata;
mod region;
mod spec;

use std::sync::Arc;

use bat::Bat;
pub(crate) use create::create;
use metadata::Metadata;
use region::Regions;
use spec::{Header, MIB};

use crate::{
    Cx, Node, Range,
    formats::{BackingName, Facts, FormatError, Report, Request, io},
    mapped::{Mapped, Shape},
    qcow2::host::Host,
};

/// Everything that stands before the blocks.
struct Front {
    header: Header,
    regions: Regions,
    metadata: Metadata,
}

async fn read_header(cx: &Cx, host: &Host) -> Result<Header, FormatError> {
    let reading = io("reading the image header");
    let signature = host.read(cx, 0, 8).await.map_err(&reading)?;
    if signature != spec::FILE_SIGNATURE {
        return Err(FormatError::Magic("vhdx"));
    }
    let mut newest: Option<Header> = None;
    for slot in 0..2 {
        let bytes = host.read(cx, spec::header_at(slot), spec::HEADER).await.map_err(&reading)?;
        if let Some(header) = Header::parse(&bytes, slot)?
            && newest.as_ref().is_none_or(|other| header.sequence > other.sequence)
        {
            newest = Some(header);
        }
    }
    newest.ok_or_else(|| crate::formats::refuse("header", "is whole in neither of its two places"))
}

async fn read_front(cx: &Cx, host: &Host) -> Result<Front, FormatError> {
    let header = read_header(cx, host).await?;
    let regions = Regions::read(cx, host, &header).await?;
    let metadata = Metadata::read(cx, host, regions.metadata).await?;
    regions.check_bat(&metadata)?;
    Ok(Front { header, regions, metadata })
}

/// What the headers say.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let host = Host::new(Arc::clone(file));
    let front = read_front(cx, &host).await?;
    let backing = front.metadata.parent_file.clone();
    Ok(Facts {
        size: front.metadata.size,
        cluster: Some(front.metadata.block),
        backing: backing.map(|file| BackingName { file, format: Some("vhdx") }),
        dirty: Some(front.header.has_log()),
        id: Some(front.header.data_write),
        ..Facts::default()
    })
}

async fn open_mapped(
    cx: &Cx,
    request: Request<'_>,
    with_log: bool,
) -> Result<Arc<Mapped>, FormatError> {
    let host = Host::new(Arc::clone(&request.file));
    let header = read_header(cx, &host).await?;
    if header.has_log() && !with_log {
        if request.is_read_only() {
            return Err(FormatError::Unsupported(
                "the image was not closed properly, and its log has to be replayed; it is open \
                 read-only, so run 'spindle img check -r all' on it first"
                    .to_owned(),
            ));
        }
        log::replay(cx, &host, &header).await?;
        header.closed(cx, &host).await.map_err(io("emptying the log"))?;
    }
    // The log may have changed everything.
    let Front { header, regions, metadata } = read_front(cx, &host).await?;
    let nobody = guid::text(&[0; 16]);
    let mut known =
        metadata.parent_ids.iter().filter(|id| !id.eq_ignore_ascii_case(&nobody)).peekable();
    if let Some(id) = request.backing_id.filter(|_| known.peek().is_some())
        && !known.any(|text| guid::is(&id, text))
    {
        return Err(FormatError::Unsupported(
            "the image belongs to a parent with another data write GUID than this one has: it was \
             changed since, or is another disk"
                .to_owned(),
        ));
    }
    // The file may be longer than it was.
    let opened = request.file.info().size;
    let mut reserved = regions.reserved.clone();
    reserved.push(Range::new(header.log_at, header.log_len));
    reserved.sort_unstable_by_key(|r| r.offset);
    let used = reserved.iter().map(|r| r.end()).max().unwrap_or(MIB);
    let shape = Shape {
        driver: "vhdx",
        size: metadata.size,
        block: metadata.block,
        lead: 0,
        align: MIB,
        origin: 0,
        tail: 0,
        next: opened.max(used).next_multiple_of(MIB),
        // The BAT has 44 bits for a number of MiB.
        limit: i64::MAX as u64,
        reserved,
        zero_state: true,
        read_only: request.is_read_only(),
    };
    let bat = Bat::new(header, regions.bat, &metadata, opened);
    Ok(Mapped::new(request.file, request.backing, shape, Box::new(bat)))
}

/// Opens an image. A log is replayed first.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    Ok(open_mapped(cx, request, false).await? as _)
}

/// Checks the block allocation table.
pub(crate) async fn check(cx: &Cx, request: Request<'_>) -> Result<Report, FormatError> {
    let host = Host::new(Arc::clone(&request.file));
    let dirty = read_header(cx, &host).await?.has_log();
    let image = open_mapped(cx, request, true).await?;
    let mut report = crate::mapped::check(cx, &image).await?;
    if dirty {
        report.corruptions += 1;
        report.messages.push(
            "ERROR: the image was not closed properly; its log has to be replayed".to_owned(),
        );
    }
    Ok(report)
}
