//! Writing a streamOptimized image: compressed grains one behind the other, and the tables behind
//! them when the image is closed.
//!
//! A grain that is written again is packed anew and put at the end: what it was before is waste. The
//! image counts only once it is closed; until then it has no footer, and whoever opens it is told so.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use super::{
    sparse,
    spec::{Header, SECTOR, TABLE, TABLE_BYTES},
};
use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Range,
    formats::{FormatError, io, refuse},
    mapped::le,
    qcow2::{
        host::Host,
        sync::{Semaphore, lock},
    },
};

/// Types of markers.
pub(super) const END_OF_STREAM: u32 = 0;
pub(super) const GRAIN_TABLE: u32 = 1;
pub(super) const GRAIN_DIRECTORY: u32 = 2;
pub(super) const FOOTER: u32 = 3;

/// See the module.
pub(super) struct Stream {
    header: Header,
    host: Host,
    info: Info,
    /// The sector of each grain; 0 where there is none.
    grains: Mutex<Vec<u32>>,
    /// Where the next grain goes, in bytes.
    next: Mutex<u64>,
    one_at_a_time: Semaphore,
}

/// Opens an image that has no grains yet.
pub(super) async fn open(cx: &Cx, file: Arc<dyn Node>) -> Result<Arc<Stream>, FormatError> {
    let host = Host::new(file);
    let header = sparse::read_header(cx, &host).await?;
    let at = header.directory_at.unwrap_or(0);
    let directory = sparse::read_directory(cx, &host, &header, at).await?;
    if directory.iter().any(|table| *table != 0) {
        return Err(FormatError::Unsupported(
            "the streamOptimized VMDK image is not empty; these are written in one go".to_owned(),
        ));
    }
    let below = host.node().info();
    let info = Info {
        size: header.size,
        preferred_write: header.grain.min(1 << 20) as u32,
        discard_granularity: 0,
        ..below
    };
    let end = host.node().info().size;
    if header.overhead < SECTOR || header.overhead > end {
        return Err(refuse("overHead", format!("is {}, outside the file", header.overhead)));
    }
    // Without a footer it is no image: it becomes one again when it is closed.
    host.set_len(cx, header.overhead).await.map_err(io("emptying the image"))?;
    Ok(Arc::new(Stream {
        grains: Mutex::new(vec![0; header.grains() as usize]),
        next: Mutex::new(header.overhead),
        one_at_a_time: Semaphore::new(1),
        info,
        header,
        host,
    }))
}

fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR as usize];
    le::put(&mut bytes, 0, &sectors.to_le_bytes());
    le::put(&mut bytes, 12, &kind.to_le_bytes());
    bytes
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
    bytes
}

/// The bytes of a grain behind its marker.
fn packed(sector: u64, bytes: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut out = sector.to_le_bytes().to_vec();
    out.extend([0; 4]);
    let mut encoder = flate2::write::ZlibEncoder::new(out, flate2::Compression::default());
    encoder.write_all(bytes).map_err(|_| BlockError::NoMemory)?;
    let mut out = encoder.finish().map_err(|_| BlockError::NoMemory)?;
    let len = out.len() as u32 - 12;
    le::put(&mut out, 8, &len.to_le_bytes());
    Ok(padded(out))
}

/// Bytes for the end of the image, which start at byte `next` of the file.
fn trailer(header: &Header, grains: &[u32], next: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for table in grains.chunks(TABLE as usize) {
        if table.iter().all(|sector| *sector == 0) {
            directory.push(0_u32);
            continue;
        }
        out.extend(marker(TABLE_BYTES / SECTOR, GRAIN_TABLE));
        directory.push(((next + out.len() as u64) / SECTOR) as u32);
        let mut bytes: Vec<u8> = table.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        bytes.resize(TABLE_BYTES as usize, 0);
        out.extend(bytes);
    }
    let directory = padded(directory.iter().flat_map(|at| at.to_le_bytes()).collect());
    out.extend(marker(directory.len() as u64 / SECTOR, GRAIN_DIRECTORY));
    let directory_at = Some(next + out.len() as u64);
    out.extend(directory);
    out.extend(marker(1, FOOTER));
    out.extend(Header { directory_at, ..header.clone() }.to_bytes());
    out.extend(marker(0, END_OF_STREAM));
    out
}

/// The end of an image without grains.
pub(super) fn empty_trailer(header: &Header) -> Vec<u8> {
    trailer(header, &vec![0; header.grains() as usize], header.overhead)
}

impl Stream {
    async fn read_grain(&self, cx: &Cx, grain: u64) -> Result<Vec<u8>, BlockError> {
        let size = self.header.grain as usize;
        let sector = lock(&self.grains).get(grain as usize).copied().unwrap_or(0);
        if sector == 0 {
            return Ok(vec![0; size]);
        }
        let at = u64::from(sector) * SECTOR;
        let marker = self.host.read(cx, at, 12).await?;
        let packed = self.host.read(cx, at + 12, le::u32_at(&marker, 8) as usize).await?;
        let mut bytes = Vec::with_capacity(size);
        let mut decoder = flate2::write::ZlibDecoder::new(&mut bytes);
        let done = decoder.write_all(&packed).and_then(|()| decoder.try_finish());
        drop(decoder);
        done.map_err(|_| BlockError::Corrupt)?;
        bytes.resize(size, 0);
        Ok(bytes)
    }

    async fn write_grain(&self, cx: &Cx, grain: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let packed = packed(grain * (self.header.grain / SECTOR), bytes)?;
        let (at, sector) = {
            let mut next = lock(&self.next);
            let at = *next;
            let sector = u32::try_from(at / SECTOR).map_err(|_| BlockError::NoSpace)?;
            *next += packed.len() as u64;
            (at, sector)
        };
        self.host.write_bytes(cx, at, &packed).await?;
        if let Some(place) = lock(&self.grains).get_mut(grain as usize) {
            *place = sector;
        }
        Ok(())
    }

    /// Writes `buf`, or zeros, to `range`.
    async fn write(&self, cx: &Cx, range: Range, buf: Option<&IoBuf>) -> Result<(), BlockError> {
        let _turn = self.one_at_a_time.take(1).await;
        let size = self.header.grain;
        let mut at = range.offset;
        while at < range.end() {
            let (grain, in_grain) = (at / size, at % size);
            let len = (size - in_grain).min(range.end() - at);
            let absent = lock(&self.grains).get(grain as usize).is_none_or(|s| *s == 0);
            if buf.is_none() && absent {
                at += len;
                continue;
            }
            let mut bytes = self.read_grain(cx, grain).await?;
            let part = &mut bytes[in_grain as usize..(in_grain + len) as usize];
            match buf {
                Some(buf) => buf.read_at(at - range.offset, part),
                None => part.fill(0),
            }
            self.write_grain(cx, grain, &bytes).await?;
            at += len;
        }
        Ok(())
    }

    async fn read(&self, cx: &Cx, range: Range, buf: &mut IoBuf) -> Result<(), BlockError> {
        let size = self.header.grain;
        let mut at = range.offset;
        while at < range.end() {
            let in_grain = at % size;
            let len = (size - in_grain).min(range.end() - at);
            let bytes = self.read_grain(cx, at / size).await?;
            let part = &bytes[in_grain as usize..(in_grain + len) as usize];
            buf.write_at(at - range.offset, part);
            at += len;
        }
        Ok(())
    }

    async fn finish(&self, cx: &Cx) -> Result<(), BlockError> {
        let _turn = self.one_at_a_time.take(1).await;
        let next = *lock(&self.next);
        let trailer = trailer(&self.header, &lock(&self.grains), next);
        self.host.sync(cx).await?;
        self.host.write_bytes(cx, next, &trailer).await?;
        self.host.set_len(cx, next + trailer.len() as u64).await?;
        self.host.sync(cx).await
    }
}

impl Node for Stream {
    fn driver(&self) -> &'static str {
        "vmdk"
    }

    fn info(&self) -> Info {
        self.info
    }

    fn map(&self, _lane: Lane, _op: OpKind, _range: Range) -> Map {
        Map::Slow
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = match io.op {
                Op::Read => self.read(&cx, io.range, &mut io.buf).await,
                Op::Write { .. } => self.write(&cx, io.range, Some(&io.buf)).await,
                Op::WriteZeroes { .. } => self.write(&cx, io.range, None).await,
                Op::Discard => Ok(()),
                Op::Flush => self.host.sync(&cx).await,
            };
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move {
            let size = self.header.grain;
            let len = (size - range.offset % size).min(range.len);
            let sector = lock(&self.grains).get((range.offset / size) as usize).copied();
            let absent = sector.unwrap_or(0) == 0;
            let kind = if absent { ExtentKind::Unallocated } else { ExtentKind::Data };
            Ok(Extent { len, kind, host_offset: None })
        })
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        _size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Err(BlockError::Unsupported) })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.finish(&cx).await })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        vec![("file", Arc::clone(self.host.node()))]
    }
}
