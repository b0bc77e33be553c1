//! VHD, which QEMU calls `vpc`: fixed, dynamic and differencing disks.
//!
//! A fixed disk is its bytes and a footer. The others begin with a copy of the footer; a header and a
//! table follow, then blocks, each behind a bitmap of its sectors, and the footer again. While a
//! dynamic disk is changed, its end has no footer: the copy at the beginning is the one that counts.
//!
//! Source: Microsoft, *Virtual Hard Disk Image Format Specification*, version 1.0 (2006).

mod create;
pub(crate) mod health;
mod spec;

use std::sync::Arc;

pub(crate) use create::create;
use spec::{Dynamic, FOOTER, Footer, Kind, UNUSED};

use crate::{
    Cx, Node, Range,
    formats::{BackingName, Facts, FormatError, Request, extents, io, refuse},
    mapped::{Change, Mapped, PIECE, Place, Shape, Space, Tables, Work},
    qcow2::{be, host::Host},
};

/// What the headers of a file say.
struct Headers {
    footer: Footer,
    dynamic: Option<Dynamic>,
    /// The footer as it is to be written at the end again.
    bytes: Vec<u8>,
    /// Where the footer at the end is, or would be.
    end: u64,
}

/// How far from its end the footer is looked for, in bytes.
const TAIL: u64 = 4096 + 512;

async fn read_headers(cx: &Cx, file: &Arc<dyn Node>) -> Result<Headers, FormatError> {
    let host = Host::new(Arc::clone(file));
    let size = file.info().size;
    let reading = io("reading the image header");
    let first = host.read(cx, 0, FOOTER).await.map_err(&reading)?;
    // Whoever writes by blocks of 4096 bytes leaves the file that much longer.
    let tail = size.min(TAIL) as usize;
    let last = host.read(cx, size - tail as u64, tail).await.map_err(&reading)?;
    let sectors = last.chunks_exact(FOOTER).enumerate();
    let mut found = sectors.rev().map(|(n, sector)| (size - (tail - n * FOOTER) as u64, sector));
    // A file may be so short that its first sector, the copy, is within its tail.
    let at_end = found.find(|(at, sector)| *at > 0 && Footer::parse(sector).is_ok());
    let at_end = at_end.map(|(at, sector)| (at, sector.to_vec()));
    let end = at_end.as_ref().map_or(size, |(at, _)| *at);
    let bytes = match at_end {
        Some((_, last)) if !Footer::is_one(&first) => last,
        _ => first,
    };
    let footer = Footer::parse(&bytes)?;
    if footer.kind == Kind::Fixed {
        if footer.size > end {
            return Err(refuse(
                "current size",
                format!("is {}, and the file has {end} bytes of data", footer.size),
            ));
        }
        return Ok(Headers { footer, dynamic: None, bytes, end });
    }
    let at = footer.data_offset;
    if at < FOOTER as u64 || at > end {
        return Err(refuse("data offset", format!("is {at}, which is outside the file")));
    }
    let header = host.read(cx, at, spec::DYNAMIC).await.map_err(&reading)?;
    let dynamic = Dynamic::parse(&header, &footer)?;
    if dynamic.table_at > end || dynamic.table_at < FOOTER as u64 {
        return Err(refuse("table offset", format!("is {}, outside the file", dynamic.table_at)));
    }
    Ok(Headers { footer, dynamic: Some(dynamic), bytes, end })
}

/// The name that a differencing disk has for its parent: a relative path where there is one.
async fn parent_name(cx: &Cx, file: &Arc<dyn Node>, dynamic: &Dynamic) -> Option<String> {
    let host = Host::new(Arc::clone(file));
    for locator in &dynamic.locators {
        if let Ok(bytes) = host.read(cx, locator.at, locator.len).await
            && let Some(name) = locator.path(&bytes)
        {
            return Some(name);
        }
    }
    Some(dynamic.parent_name.clone()).filter(|name| !name.is_empty())
}

/// What the headers say.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let headers = read_headers(cx, file).await?;
    let id = Some(headers.footer.uuid);
    let mut facts = Facts { size: headers.footer.size, id, ..Facts::default() };
    if let Some(dynamic) = &headers.dynamic {
        facts.cluster = Some(dynamic.block);
        facts.dirty = Some(false);
        if headers.footer.kind == Kind::Differencing {
            let name = parent_name(cx, file, dynamic).await;
            facts.backing = name.map(|file| BackingName { file, format: Some("vpc") });
        }
    }
    Ok(facts)
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    Ok(open_mapped(cx, request).await?.0)
}

/// The same, and its table where it has one.
async fn open_mapped(
    cx: &Cx,
    request: Request<'_>,
) -> Result<(Arc<dyn Node>, Option<Arc<Mapped>>), FormatError> {
    let headers = read_headers(cx, &request.file).await?;
    let read_only = request.is_read_only();
    let Some(dynamic) = headers.dynamic else {
        let disk = extents::flat("vpc", request.file, 0, headers.footer.size, read_only);
        return Ok((disk, None));
    };
    let differencing = headers.footer.kind == Kind::Differencing;
    if let Some(id) = request.backing_id.filter(|_| differencing && dynamic.parent_id != [0; 16])
        && id != dynamic.parent_id
    {
        return Err(FormatError::Unsupported(
            "the image belongs to a parent with another unique id than this one has: it is not the \
             disk that it was made on"
                .to_owned(),
        ));
    }
    let table = Range::new(dynamic.table_at, dynamic.entries * 4);
    let header = Range::new(headers.footer.data_offset, spec::DYNAMIC as u64);
    let mut reserved = vec![Range::new(0, FOOTER as u64), table, header];
    for locator in &dynamic.locators {
        reserved.push(Range::new(locator.at, locator.len as u64));
    }
    reserved.sort_unstable_by_key(|r| r.offset);
    let used = reserved.iter().map(|r| r.end()).max().unwrap_or(0);
    let lead = dynamic.bitmap();
    let shape = Shape {
        driver: "vpc",
        size: headers.footer.size,
        block: dynamic.block,
        lead,
        align: 512,
        origin: 0,
        tail: FOOTER as u64,
        next: headers.end.max(used).next_multiple_of(512),
        // The table counts sectors in 32 bits.
        limit: u64::from(UNUSED) * 512,
        reserved,
        zero_state: false,
        read_only,
    };
    let bat = Bat {
        table_at: dynamic.table_at,
        blocks: shape.size.div_ceil(dynamic.block),
        lead,
        differencing,
        footer: headers.bytes,
    };
    let image = Mapped::new(request.file, request.backing, shape, Box::new(bat));
    Ok((Arc::clone(&image) as _, Some(image)))
}

/// The block allocation table.
struct Bat {
    table_at: u64,
    blocks: u64,
    /// Bytes of the bitmap in front of each block.
    lead: u64,
    differencing: bool,
    footer: Vec<u8>,
}

impl Tables for Bat {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let first = piece * PIECE;
            let count = self.blocks.saturating_sub(first).min(PIECE);
            let bytes = host.read(cx, self.table_at + first * 4, count as usize * 4).await?;
            let place = |entry: &[u8]| match be::u32_at(entry, 0) {
                UNUSED => Place::Unallocated,
                0 => Place::Bad,
                sector => {
                    let at = u64::from(sector) * 512 + self.lead;
                    // Which sectors are there is in the bitmap; only a differencing disk cares.
                    if self.differencing { Place::Partial(at) } else { Place::Data(at) }
                }
            };
            Ok(bytes.chunks_exact(4).map(place).collect())
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
                    let places = &change.entries[run.clone()];
                    if self.differencing {
                        for place in places {
                            // A block that was partly here is here as a whole now.
                            if let Place::Data(at) = place {
                                host.write_bytes(cx, at - self.lead, &self.lead()).await?;
                            }
                        }
                    }
                    let entry = |place: &Place| match *place {
                        Place::Data(at) => ((at - self.lead) / 512) as u32,
                        _ => UNUSED,
                    };
                    let bytes: Vec<u8> =
                        places.iter().flat_map(|place| entry(place).to_be_bytes()).collect();
                    let at = self.table_at + (change.first + run.start as u64) * 4;
                    host.write_bytes(cx, at, &bytes).await?;
                }
            }
            Ok(())
        })
    }

    fn end<'a>(&'a self, cx: &'a Cx, host: &'a Host, space: &'a Space) -> Work<'a, ()> {
        Box::pin(async move {
            // The file is long enough: space is taken with room for this.
            host.write_bytes(cx, space.end(), &self.footer).await?;
            create::cut(cx, host, space.end() + FOOTER as u64).await
        })
    }

    fn lead(&self) -> Vec<u8> {
        vec![0xff; self.lead as usize]
    }

    fn present<'a>(
        &'a self,
        cx: &'a Cx,
        host: &'a Host,
        _block: u64,
        at: u64,
    ) -> Work<'a, Vec<u8>> {
        Box::pin(async move {
            let bits = host.read(cx, at - self.lead, self.lead as usize).await?;
            // The first sector is the highest bit here.
            Ok(bits.into_iter().map(u8::reverse_bits).collect())
        })
    }
}
