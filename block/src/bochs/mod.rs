//! Bochs' growing images, to be read.
//!
//! A header, a catalogue of extents, and extents, each behind a bitmap of its sectors. Source: Bochs,
//! *User Manual*, "disk image modes: growing", and the declarations of its `hdimage.h`.

use std::sync::Arc;

use crate::{
    BlockError, Cx, Node, Range,
    formats::{Facts, FormatError, Request, io, read_only_only, refuse},
    mapped::{Change, Mapped, PIECE, Place, Shape, Space, Tables, Work, le},
    qcow2::host::Host,
};

const HEADER: usize = 512;
const ENTRIES_MAX: u64 = 1 << 20;
const ABSENT: u32 = 0xffff_ffff;

/// What a header says, in bytes.
#[derive(Clone, Debug)]
struct Header {
    size: u64,
    catalogue_at: u64,
    entries: u64,
    bitmap: u64,
    extent: u64,
}

fn text_is(bytes: &[u8], at: usize, len: usize, text: &str) -> bool {
    let field = bytes.get(at..at + len).unwrap_or_default();
    field.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !text_is(bytes, 0, 32, "Bochs Virtual HD Image") {
            return Err(FormatError::Magic("bochs"));
        }
        if !text_is(bytes, 32, 16, "Redolog") || !text_is(bytes, 48, 16, "Growing") {
            return Err(FormatError::Unsupported(
                "only growing Bochs images are supported".to_owned(),
            ));
        }
        let field = |at| u64::from(le::u32_at(bytes, at));
        let size = match field(64) {
            0x0001_0000 => le::u64_at(bytes, 84),
            0x0002_0000 => le::u64_at(bytes, 88),
            other => {
                return Err(FormatError::Unsupported(format!(
                    "Bochs image version {other:#x} is not supported"
                )));
            }
        };
        let (catalogue_at, entries, extent) = (field(68), field(72), field(80));
        if catalogue_at < HEADER as u64 || !catalogue_at.is_multiple_of(512) {
            return Err(refuse("header size", format!("is {catalogue_at}: no sectors")));
        }
        if entries > ENTRIES_MAX {
            return Err(refuse("catalog size", format!("is {entries}, more than {ENTRIES_MAX}")));
        }
        if !extent.is_power_of_two() || !(512..=64 << 20).contains(&extent) {
            return Err(refuse(
                "extent size",
                format!("is {extent}: no power of two from 512 to 64M"),
            ));
        }
        let bitmap = field(76).max(1).next_multiple_of(512);
        if bitmap * 8 < extent / 512 || bitmap > 1 << 20 {
            return Err(refuse("bitmap size", format!("is {bitmap}: not one bit for each sector")));
        }
        let size = size / 512 * 512;
        if size.div_ceil(extent) > entries {
            return Err(refuse("catalog size", format!("is {entries}: too few for {size} bytes")));
        }
        Ok(Self { size, catalogue_at, entries, bitmap, extent })
    }
}

async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, FormatError> {
    let host = Host::new(Arc::clone(file));
    let bytes = host.read(cx, 0, HEADER).await.map_err(io("reading the image header"))?;
    Header::parse(&bytes)
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    Ok(Facts { size: read_header(cx, file).await?.size, dirty: Some(false), ..Facts::default() })
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    read_only_only("bochs", &request)?;
    let header = read_header(cx, &request.file).await?;
    let catalogue = Range::new(header.catalogue_at, header.entries * 4);
    let shape = Shape {
        driver: "bochs",
        size: header.size,
        block: header.extent,
        lead: header.bitmap,
        align: 512,
        origin: 0,
        tail: 0,
        next: request.file.info().size,
        limit: 0,
        reserved: vec![Range::new(0, HEADER as u64), catalogue],
        zero_state: false,
        read_only: true,
    };
    Ok(Mapped::new(request.file, None, shape, Box::new(Catalogue { header })))
}

struct Catalogue {
    header: Header,
}

impl Tables for Catalogue {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let Header { catalogue_at, entries, bitmap, extent, .. } = self.header;
            let first = piece * PIECE;
            let count = entries.saturating_sub(first).min(PIECE);
            let bytes = host.read(cx, catalogue_at + first * 4, count as usize * 4).await?;
            let data_at = catalogue_at + entries * 4;
            let place = |entry| match entry {
                ABSENT => Place::Unallocated,
                n => Place::Partial(data_at + u64::from(n) * (bitmap + extent) + bitmap),
            };
            Ok(le::table32(&bytes).map(place).collect())
        })
    }

    fn store<'a>(
        &'a self,
        _cx: &'a Cx,
        _host: &'a Host,
        _space: &'a Space,
        _changes: &'a [Change],
    ) -> Work<'a, ()> {
        Box::pin(async { Err(BlockError::ReadOnly) })
    }

    fn present<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        _block: u64,
        at: u64,
    ) -> Work<'a, Vec<u8>> {
        Box::pin(host.read(cx, at - self.header.bitmap, self.header.bitmap as usize))
    }
}
