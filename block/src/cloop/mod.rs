//! cloop: the compressed loop device's images, to be read.
//!
//! A shell script of 128 bytes, the size and number of blocks, where each begins, and the blocks, each
//! deflated. Source: Klaus Knopper's cloop 2.x, `compressed_loop.h`.

use std::sync::Arc;

use crate::{
    BlockError, Cx, Node,
    formats::{BLOCKS_MAX, Facts, FormatError, Request, io, read_only_only, refuse},
    mapped::{Change, Mapped, PIECE, Place, Shape, Space, Tables, Work},
    qcow2::{be, host::Host},
};

/// What images of version 2 begin with.
pub(crate) const MAGIC: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
const FIELDS_AT: u64 = 128;
const OFFSETS_AT: u64 = 136;

#[derive(Clone, Debug)]
struct Header {
    block: u64,
    blocks: u64,
}

async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, FormatError> {
    let host = Host::new(Arc::clone(file));
    let bytes = host.read(cx, 0, OFFSETS_AT as usize).await;
    let bytes = bytes.map_err(io("reading the image header"))?;
    if !bytes.starts_with(MAGIC) {
        return Err(FormatError::Magic("cloop"));
    }
    let fields = bytes.get(FIELDS_AT as usize..).unwrap_or_default();
    let (block, blocks) = (u64::from(be::u32_at(fields, 0)), u64::from(be::u32_at(fields, 4)));
    if block == 0 || !block.is_multiple_of(512) || block > 64 << 20 {
        return Err(refuse("block size", format!("is {block}: no multiple of 512 up to 64M")));
    }
    if blocks > BLOCKS_MAX || OFFSETS_AT + (blocks + 1) * 8 > file.info().size {
        return Err(refuse("number of blocks", format!("is {blocks}: the file is shorter")));
    }
    Ok(Header { block, blocks })
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let header = read_header(cx, file).await?;
    let size = header.block * header.blocks;
    Ok(Facts { size, dirty: Some(false), ..Facts::default() })
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    read_only_only("cloop", &request)?;
    let header = read_header(cx, &request.file).await?;
    let shape = Shape {
        driver: "cloop",
        size: header.block * header.blocks,
        block: header.block,
        lead: 0,
        align: 512,
        origin: 0,
        tail: 0,
        next: request.file.info().size,
        limit: 0,
        reserved: Vec::new(),
        zero_state: false,
        read_only: true,
    };
    Ok(Mapped::new(request.file, None, shape, Box::new(Offsets { header })))
}

struct Offsets {
    header: Header,
}

impl Tables for Offsets {
    fn load<'a>(&'a self, _cx: &'a Cx, _host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        // Every block is compressed; where it is, is looked up when it is unpacked.
        Box::pin(
            async move { Ok((piece * PIECE..(piece + 1) * PIECE).map(Place::Packed).collect()) },
        )
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

    fn unpack<'a>(&'a self, cx: &'a Cx, host: &'a Host, block: u64, _at: u64) -> Work<'a, Vec<u8>> {
        Box::pin(async move {
            let bytes = host.read(cx, OFFSETS_AT + block * 8, 16).await?;
            let (start, end) = (be::u64_at(&bytes, 0), be::u64_at(&bytes, 8));
            // Deflate makes nothing twice as long.
            let len = end.checked_sub(start).filter(|len| *len <= 2 * self.header.block);
            let len = len.filter(|_| end <= host.node().info().size).ok_or(BlockError::Corrupt)?;
            let packed = host.read(cx, start, len as usize).await?;
            let mut bytes = vec![0; self.header.block as usize];
            let mut inflate = flate2::Decompress::new(true);
            let done = inflate.decompress(&packed, &mut bytes, flate2::FlushDecompress::Finish);
            if done.is_err() || inflate.total_out() != self.header.block {
                return Err(BlockError::Corrupt);
            }
            Ok(bytes)
        })
    }
}
