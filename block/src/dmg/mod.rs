//! DMG: Apple's compressed disk images (UDIF), to be read: chunks that are raw, zeros, zlib or bzip2.
//!
//! A trailer at the end of the file leads to a property list, whose `blkx` entries list the chunks of
//! each partition. Chunks of ADC and LZFSE, and images that list their chunks in a resource fork
//! alone, are refused by name. Source: the layout as QEMU's `block/dmg.c` and libdmg-hfsplus have it.

mod parse;

use std::{
    io::Read,
    sync::{Arc, Mutex},
};

use parse::{Chunk, Kind, Trailer};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Pin, Range,
    formats::{Facts, FormatError, Request, io, read_only_only, refuse},
    qcow2::{host::Host, sync::lock},
};

/// Bytes of the property list at most.
const LIST_MAX: u64 = 64 << 20;

async fn read_chunks(cx: &Cx, file: &Arc<dyn Node>) -> Result<Vec<Chunk>, FormatError> {
    let host = Host::new(Arc::clone(file));
    let reading = io("reading the image trailer");
    let end = file.info().size;
    // The file's length was rounded up to sectors: the trailer may begin anywhere in the last two.
    let start = end.saturating_sub(1024);
    let bytes = host.read(cx, start, (end - start) as usize).await.map_err(&reading)?;
    let at = bytes.windows(4).rposition(|window| window == b"koly");
    let trailer = bytes.get(at.ok_or(FormatError::Magic("dmg"))?..).unwrap_or_default();
    let trailer = Trailer::parse(trailer)?;
    if trailer.list.len == 0 {
        return Err(FormatError::Unsupported(
            "DMG images without a property list (only a resource fork) are not supported"
                .to_owned(),
        ));
    }
    if trailer.list.len > LIST_MAX || trailer.list.checked_end().is_none_or(|list| list > end) {
        return Err(refuse("XML offset", "leads outside the file, or to more than 64 MiB"));
    }
    let list = host.read(cx, trailer.list.offset, trailer.list.len as usize).await;
    parse::chunks(&list.map_err(&reading)?, trailer.data_at, end)
}

fn size(chunks: &[Chunk]) -> u64 {
    chunks.last().map_or(0, |chunk| chunk.range.end())
}

/// What the trailer says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let chunks = read_chunks(cx, file).await?;
    Ok(Facts { size: size(&chunks), dirty: Some(false), ..Facts::default() })
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    read_only_only("dmg", &request)?;
    let chunks = read_chunks(cx, &request.file).await?;
    let below = request.file.info();
    let info = Info {
        size: size(&chunks),
        preferred_write: below.request_alignment.max(4096),
        discard_granularity: 0,
        read_only: true,
        ..below
    };
    let host = Host::new(request.file);
    Ok(Arc::new(Dmg { host, info, chunks, unpacked: Mutex::new(None) }))
}

/// An open image.
struct Dmg {
    host: Host,
    info: Info,
    chunks: Vec<Chunk>,
    /// The chunk that was unpacked last.
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl Dmg {
    /// The chunk that holds `at`; `None` in a gap, which reads as zeros, with its end.
    fn chunk(&self, at: u64) -> (Option<&Chunk>, u64) {
        let index = self.chunks.partition_point(|chunk| chunk.range.end() <= at);
        match self.chunks.get(index) {
            Some(chunk) if chunk.range.offset <= at => (Some(chunk), chunk.range.end()),
            Some(chunk) => (None, chunk.range.offset),
            None => (None, self.info.size),
        }
    }

    async fn unpack(&self, cx: &Cx, chunk: &Chunk) -> Result<Arc<Vec<u8>>, BlockError> {
        let key = chunk.range.offset;
        if let Some((have, bytes)) = &*lock(&self.unpacked)
            && *have == key
        {
            return Ok(Arc::clone(bytes));
        }
        let packed = self.host.read(cx, chunk.at.offset, chunk.at.len as usize).await?;
        let mut bytes = Vec::with_capacity(chunk.range.len as usize);
        let read = match chunk.kind {
            Kind::Zlib => flate2::read::ZlibDecoder::new(&*packed)
                .take(chunk.range.len)
                .read_to_end(&mut bytes),
            _ => {
                bzip2::read::BzDecoder::new(&*packed).take(chunk.range.len).read_to_end(&mut bytes)
            }
        };
        if read.is_err() || bytes.len() as u64 != chunk.range.len {
            return Err(BlockError::Corrupt);
        }
        let bytes = Arc::new(bytes);
        *lock(&self.unpacked) = Some((key, Arc::clone(&bytes)));
        Ok(bytes)
    }

    async fn read(&self, cx: &Cx, range: Range, buf: &mut IoBuf) -> Result<(), BlockError> {
        let mut at = range.offset;
        while at < range.end() {
            let (chunk, end) = self.chunk(at);
            let len = (end - at).min(range.end() - at);
            let in_buf = at - range.offset;
            match chunk {
                Some(chunk) if chunk.kind == Kind::Raw => {
                    let from = chunk.at.offset + (at - chunk.range.offset);
                    self.host.read_into(cx, from, buf.view(in_buf, len), Pin::NONE).await?;
                }
                Some(chunk) if chunk.kind != Kind::Zero => {
                    let bytes = self.unpack(cx, chunk).await?;
                    let from = (at - chunk.range.offset) as usize;
                    let part = bytes.get(from..from + len as usize);
                    buf.write_at(in_buf, part.ok_or(BlockError::Corrupt)?);
                }
                _ => buf.zero(in_buf, len),
            }
            at += len;
        }
        Ok(())
    }
}

impl Node for Dmg {
    fn driver(&self) -> &'static str {
        "dmg"
    }

    fn info(&self) -> Info {
        self.info
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        if op != OpKind::Read {
            return if op == OpKind::Flush { Map::Done { len: range.len } } else { Map::Slow };
        }
        let (chunk, end) = self.chunk(range.offset);
        let len = (end - range.offset).min(range.len);
        match chunk {
            Some(chunk) if chunk.kind == Kind::Raw => {
                let from = chunk.at.offset + (range.offset - chunk.range.offset);
                self.host.node().map(lane, op, Range::new(from, len))
            }
            Some(chunk) if chunk.kind != Kind::Zero => Map::Slow,
            _ => Map::Zero { len },
        }
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = match io.op {
                Op::Read => self.read(&cx, io.range, &mut io.buf).await,
                Op::Flush => Ok(()),
                _ => Err(BlockError::ReadOnly),
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
            let (chunk, end) = self.chunk(range.offset);
            let len = (end - range.offset).min(range.len).max(1);
            let (kind, host_offset) = match chunk {
                Some(chunk) if chunk.kind == Kind::Raw => {
                    let from = chunk.at.offset + (range.offset - chunk.range.offset);
                    (ExtentKind::Data, Some(from))
                }
                Some(chunk) if chunk.kind != Kind::Zero => (ExtentKind::Data, None),
                _ => (ExtentKind::Zero { allocated: false }, None),
            };
            Ok(Extent { len, kind, host_offset })
        })
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        _size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Err(BlockError::ReadOnly) })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        vec![("file", Arc::clone(self.host.node()))]
    }
}
