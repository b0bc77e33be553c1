//! Parallels: `.hdd` images, of both kinds.
//!
//! A header of 64 bytes, a table of 32-bit numbers behind it, and clusters. The number is a sector's
//! (`WithoutFreeSpace`) or a cluster's (`WithouFreSpacExt`). While an image is written to, its header
//! says so. Source: QEMU, `docs/interop/parallels.txt`.

mod spec;

use std::sync::Arc;

use spec::{HEADER, Header, IN_USE};

use crate::{
    BlockError, Cx, Node, Range,
    formats::{CreateOptions, Facts, FormatError, Report, Request, begin, io},
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
    Ok(Facts { size: header.size, ..Facts::default() })
}

async fn open_mapped(cx: &Cx, request: Request<'_>) -> Result<Arc<Mapped>, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let end = request.file.info().size;
    let table = Range::new(HEADER as u64, header.entries * 4);
    let data_at = header.data_at.max(table.end().next_multiple_of(512));
    let by_cluster = header.unit == header.cluster;
    let shape = Shape {
        driver: "parallels",
        size: header.size,
        block: header.cluster,
        lead: 0,
        align: header.cluster,
        origin: if by_cluster { 0 } else { data_at },
        tail: 0,
        next: end.max(data_at),
        limit: u64::from(u32::MAX) * header.unit,
        reserved: vec![Range::new(0, table.end())],
        zero_state: false,
        read_only: request.is_read_only(),
    };
    Ok(Mapped::new(request.file, None, shape, Box::new(Bat { header })))
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    Ok(open_mapped(cx, request).await? as _)
}

/// Checks the table.
pub(crate) async fn check(cx: &Cx, request: Request<'_>) -> Result<Report, FormatError> {
    let header = read_header(cx, &request.file).await?;
    let length = request.file.info().size;
    let image = open_mapped(cx, request).await?;
    let mut report = crate::mapped::check(cx, &image).await?;
    report.end = report.end.max(header.data_at);
    if header.in_use {
        report.corruptions += 1;
        report.messages.push("ERROR: the image was not closed correctly".to_owned());
    }
    report.leaks = length.saturating_sub(report.end).div_ceil(header.cluster);
    Ok(report)
}

/// Cuts off what nothing uses, and says that the image is closed.
pub(crate) async fn repair(cx: &Cx, file: &Arc<dyn Node>) -> Result<(), FormatError> {
    let report = check(cx, Request::read(Arc::clone(file), &crate::formats::Alone)).await?;
    let host = Host::new(Arc::clone(file));
    let mend = async {
        if report.leaks > 0 {
            host.set_len(cx, report.end).await?;
        }
        host.write_bytes(cx, spec::IN_USE_AT, &[0; 4]).await?;
        host.sync(cx).await
    };
    mend.await.map_err(io("mending the image"))
}

/// Makes an image.
pub(crate) async fn create(
    cx: &Cx,
    file: &Arc<dyn Node>,
    options: &CreateOptions,
) -> Result<(), FormatError> {
    let header = Header::new(options.size, options.cluster_size.unwrap_or(1 << 20))?;
    let host = Host::new(Arc::clone(file));
    let make = async {
        begin(cx, &host, header.data_at).await?;
        // Of a device nobody knows what it held.
        let mut at = 0;
        while at < header.data_at {
            let len = (header.data_at - at).min(1 << 20);
            host.write_bytes(cx, at, &vec![0; len as usize]).await?;
            at += len;
        }
        host.sync(cx).await?;
        host.write_bytes(cx, 0, &header.to_bytes()).await?;
        host.sync(cx).await
    };
    make.await.map_err(io("writing the new image"))
}

/// The table.
struct Bat {
    header: Header,
}

impl Bat {
    async fn mark(&self, cx: &Cx, host: &Host, mark: u32) -> Result<(), BlockError> {
        host.write_bytes(cx, spec::IN_USE_AT, &mark.to_le_bytes()).await?;
        host.sync(cx).await
    }
}

impl Tables for Bat {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let first = piece * PIECE;
            let count = self.header.entries.saturating_sub(first).min(PIECE);
            let bytes = host.read(cx, HEADER as u64 + first * 4, count as usize * 4).await?;
            let place = |entry| match entry {
                0 => Place::Unallocated,
                entry => Place::Data(u64::from(entry) * self.header.unit),
            };
            Ok(le::table32(&bytes).map(place).collect())
        })
    }

    fn store<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        _space: &'a Space,
        changes: &'a [Change],
    ) -> Work<'a, ()> {
        Box::pin(async move {
            for change in changes {
                for run in crate::mapped::runs(change) {
                    let entry = |place: &Place| match *place {
                        Place::Data(at) => (at / self.header.unit) as u32,
                        _ => 0,
                    };
                    let places = change.entries[run.clone()].iter();
                    let bytes: Vec<u8> = places.flat_map(|p| entry(p).to_le_bytes()).collect();
                    let at = HEADER as u64 + (change.first + run.start as u64) * 4;
                    host.write_bytes(cx, at, &bytes).await?;
                }
            }
            Ok(())
        })
    }

    fn begin<'a>(&'a self, cx: &'a Cx, host: &'a Host) -> Work<'a, ()> {
        Box::pin(async move {
            if self.header.extension != 0 {
                // Bitmaps of changed clusters, which are not kept up here: better none than wrong.
                host.write_bytes(cx, spec::EXTENSION_AT, &[0; 8]).await?;
            }
            self.mark(cx, host, IN_USE).await
        })
    }

    fn end<'a>(&'a self, cx: &'a Cx, host: &'a Host, _space: &'a Space) -> Work<'a, ()> {
        Box::pin(async move { self.mark(cx, host, 0).await })
    }
}
