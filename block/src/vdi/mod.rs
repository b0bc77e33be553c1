//! VDI: VirtualBox's images, dynamic and static.
//!
//! A header, a block map of 32-bit block numbers, and blocks of one size behind them. Source: the
//! header declarations of VirtualBox (`VDICore.h`), as QEMU documents them in `block/vdi.c`.

mod spec;

use std::sync::Arc;

use spec::{DISCARDED, HEADER, Header, UNALLOCATED};

use crate::{
    Cx, Node, Range,
    formats::{CreateOptions, Facts, FormatError, Report, Request, Subformat, io},
    mapped::{Change, Mapped, PIECE, Place, Shape, Space, Tables, Work, le},
    qcow2::host::Host,
};

async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, FormatError> {
    let host = Host::new(Arc::clone(file));
    let bytes = host.read(cx, 0, HEADER).await.map_err(io("reading the image header"))?;
    Header::parse(&bytes)
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let header = read_header(cx, file).await?;
    Ok(Facts {
        size: header.size,
        cluster: Some(header.block),
        dirty: Some(false),
        ..Facts::default()
    })
}

async fn open_mapped(cx: &Cx, request: Request<'_>) -> Result<Arc<Mapped>, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let end = request.file.info().size;
    let map = Range::new(header.map_at, header.blocks * 4);
    let reserved = Range::new(0, map.end().max(header.data_at));
    let shape = Shape {
        driver: "vdi",
        size: header.size,
        block: header.block,
        lead: 0,
        align: header.block,
        origin: header.data_at,
        tail: 0,
        next: end.max(header.data_at),
        // The largest number that is a block's.
        limit: header.data_at + u64::from(DISCARDED) * header.block,
        reserved: vec![reserved],
        zero_state: true,
        read_only: request.is_read_only(),
    };
    Ok(Mapped::new(request.file, None, shape, Box::new(Map { header })))
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    Ok(open_mapped(cx, request).await? as _)
}

/// Checks the block map.
pub(crate) async fn check(cx: &Cx, request: Request<'_>) -> Result<Report, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let image = open_mapped(cx, request).await?;
    let mut report = crate::mapped::check(cx, &image).await?;
    if report.allocated > header.allocated {
        report.corruptions += 1;
        report.messages.push(format!(
            "ERROR: allocated blocks mismatch, is {}, should be {}",
            header.allocated, report.allocated
        ));
    }
    Ok(report)
}

/// Makes an image.
pub(crate) async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    let fixed = options.subformat == Subformat::Fixed;
    let header = Header::new(options.size, fixed)?;
    let host = Host::new(Arc::clone(file));
    let blocks = header.blocks;
    let end = header.data_at + if fixed { blocks * header.block } else { 0 };
    let make = async {
        crate::formats::begin(cx, &host, end).await?;
        let mut at = 0;
        while at < blocks {
            let next = blocks.min(at + (256 << 10));
            let number = |n: u64| if fixed { n as u32 } else { UNALLOCATED };
            let bytes: Vec<u8> = (at..next).flat_map(|n| number(n).to_le_bytes()).collect();
            host.write_bytes(cx, header.map_at + at * 4, &bytes).await?;
            at = next;
        }
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &header.to_bytes()).await?;
        host.sync(cx).await
    };
    make.await.map_err(io("writing the new image"))
}

/// The block map.
struct Map {
    header: Header,
}

impl Map {
    fn number(&self, at: u64) -> u32 {
        // Below `Shape::limit`.
        ((at - self.header.data_at) / self.header.block) as u32
    }
}

impl Tables for Map {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let first = piece * PIECE;
            let count = self.header.blocks.saturating_sub(first).min(PIECE);
            let at = self.header.map_at + first * 4;
            let bytes = host.read(cx, at, count as usize * 4).await?;
            let place = |number| match number {
                UNALLOCATED => Place::Unallocated,
                DISCARDED => Place::Zero,
                number => Place::Data(self.header.data_at + u64::from(number) * self.header.block),
            };
            Ok(le::table32(&bytes).map(place).collect())
        })
    }

    fn store<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        space: &'a Space,
        changes: &'a [Change],
    ) -> Work<'a, ()> {
        Box::pin(async move {
            // First how many blocks there are: who trusts that must not take one that is in use.
            let used =
                (space.end().saturating_sub(self.header.data_at)).div_ceil(self.header.block);
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            host.write_bytes(cx, spec::ALLOCATED as u64, &used.to_le_bytes()).await?;
            host.sync(cx).await?;
            for change in changes {
                let number = |place: &Place| match *place {
                    Place::Data(at) => self.number(at),
                    Place::Zero => DISCARDED,
                    _ => UNALLOCATED,
                };
                // Entries that mean nothing are left as they are.
                for run in crate::mapped::runs(change) {
                    let numbers = change.entries[run.clone()].iter().map(number);
                    let bytes: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
                    let at = self.header.map_at + (change.first + run.start as u64) * 4;
                    host.write_bytes(cx, at, &bytes).await?;
                }
            }
            Ok(())
        })
    }
}
