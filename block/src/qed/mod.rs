//! QED: QEMU's enhanced disk format, with two levels of tables and backing files.
//!
//! Source: QEMU, `docs/interop/qed_spec.txt`. New tables are durable before the first-level entry that
//! points to them, and data before tables, so the `need check` bit is never set here; an image that
//! has it is checked and mended when it is opened to be written.

mod spec;
mod tables;

use std::sync::Arc;

use spec::{Header, features};
use tables::Levels;

use crate::{
    Cx, Node, Range,
    formats::{BackingName, CreateOptions, Facts, FormatError, Report, Request, begin, io, refuse},
    mapped::{Mapped, Place, Shape, le},
    qcow2::host::Host,
};

async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, FormatError> {
    let host = Host::new(Arc::clone(file));
    let reading = io("reading the image header");
    let bytes = host.read(cx, 0, spec::HEADER).await.map_err(&reading)?;
    let mut header = Header::parse(&bytes)?;
    if let Some(name) = header.backing_at {
        let bytes = host.read(cx, name.offset, name.len as usize).await.map_err(&reading)?;
        let name = String::from_utf8(bytes);
        header.backing_file = name.map_err(|_| refuse("backing filename", "is not UTF-8"))?;
    }
    Ok(header)
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let header = read_header(cx, file).await?;
    let raw = header.features & features::BACKING_RAW != 0;
    let backing = header
        .backing_at
        .map(|_| BackingName { file: header.backing_file.clone(), format: raw.then_some("raw") });
    Ok(Facts {
        size: header.size,
        cluster: Some(header.cluster),
        backing,
        dirty: Some(header.features & features::NEED_CHECK != 0),
        ..Facts::default()
    })
}

async fn read_levels(
    cx: &Cx,
    file: &Arc<dyn Node>,
    header: &Header,
) -> Result<(Levels, Vec<Range>), FormatError> {
    let host = Host::new(Arc::clone(file));
    let end = file.info().size;
    let bytes = host.read(cx, header.l1_at, header.table() as usize).await;
    let bytes = bytes.map_err(io("reading the L1 table"))?;
    let l1: Vec<u64> = le::table64(&bytes).collect();
    let mut reserved = vec![
        Range::new(0, header.header_clusters * header.cluster),
        Range::new(header.l1_at, header.table()),
    ];
    for (index, entry) in l1.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        let table = Range::new(*entry, header.table());
        let inside = table.checked_end().is_some_and(|_| *entry < end);
        if !entry.is_multiple_of(header.cluster) || !inside {
            return Err(refuse(
                "L1 table",
                format!("has entry {index} with {entry:#x}, where no table can be"),
            ));
        }
        if reserved.iter().take(2).any(|r| r.overlaps(table)) {
            return Err(refuse("L1 table", format!("has entry {index} that points to itself")));
        }
        reserved.push(table);
    }
    reserved.sort_unstable_by_key(|r| r.offset);
    if reserved.windows(2).any(|pair| pair[0].end() > pair[1].offset) {
        return Err(refuse("L1 table", "has two entries for one table"));
    }
    Ok((Levels::new(header.clone(), l1), reserved))
}

async fn open_mapped(cx: &Cx, request: Request<'_>) -> Result<Arc<Mapped>, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let (levels, reserved) = read_levels(cx, &request.file, &header).await?;
    let end = request.file.info().size.max(header.l1_at + header.table());
    let shape = Shape {
        driver: "qed",
        size: header.size,
        block: header.cluster,
        lead: 0,
        align: header.cluster,
        origin: 0,
        tail: 0,
        next: end.next_multiple_of(header.cluster),
        limit: i64::MAX as u64,
        reserved,
        zero_state: true,
        read_only: request.is_read_only(),
    };
    Ok(Mapped::new(request.file, request.backing, shape, Box::new(levels)))
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    if !request.is_read_only() {
        let header = read_header(cx, &request.file).await?;
        if header.features & features::NEED_CHECK != 0 {
            mend(cx, &request.file, &header).await?;
        }
    }
    Ok(open_mapped(cx, request).await? as _)
}

/// Clears entries that point where nothing can be, and then the bit that says there may be some.
async fn mend(cx: &Cx, file: &Arc<dyn Node>, header: &Header) -> Result<(), FormatError> {
    let request = Request::read(Arc::clone(file), &crate::formats::Alone);
    let mended = io("mending an image that was not closed properly");
    let image = open_mapped(cx, request).await?;
    let (levels, _) = read_levels(cx, file, header).await?;
    let host = Host::new(Arc::clone(file));
    let mut bad = Vec::new();
    let look = image.every_place(cx, |block, place| {
        let lost = match place {
            Place::Data(at) => !image.may_hold_data(at),
            other => other == Place::Bad,
        };
        if lost {
            bad.push(block);
        }
    });
    look.await.map_err(&mended)?;
    for block in bad {
        if let Some(at) = levels.entry_at(block) {
            host.write_bytes(cx, at, &[0; 8]).await.map_err(&mended)?;
        }
    }
    host.sync(cx).await.map_err(&mended)?;
    let features = header.features & !features::NEED_CHECK;
    host.write_bytes(cx, spec::FEATURES_AT, &features.to_le_bytes()).await.map_err(&mended)?;
    host.sync(cx).await.map_err(&mended)
}

/// Checks the tables.
pub(crate) async fn check(cx: &Cx, request: Request<'_>) -> Result<Report, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let length = request.file.info().size;
    let (levels, _) = read_levels(cx, &request.file, &header).await?;
    let image = open_mapped(cx, request).await?;
    let mut report = crate::mapped::check(cx, &image).await?;
    let tables = levels.tables() * header.table_clusters + header.table_clusters;
    let used = header.header_clusters + tables + report.allocated;
    report.leaks = length.div_ceil(header.cluster).saturating_sub(used);
    Ok(report)
}

/// Makes an image.
pub(crate) async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    let header = Header::new(options)?;
    let host = Host::new(Arc::clone(file));
    let end = header.l1_at + header.table();
    let make = async {
        begin(cx, &host, end).await?;
        host.write_bytes(cx, header.l1_at, &vec![0; header.table() as usize]).await?;
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &header.to_bytes()).await?;
        host.sync(cx).await
    };
    make.await.map_err(io("writing the new image"))
}
