//! A sparse extent as a disk.

use std::sync::{Arc, Mutex};

use super::spec::{self, Header, SECTOR, TABLE, TABLE_BYTES, flags};
use crate::{
    BlockError, Cx, Node, Range,
    formats::{FormatError, io, refuse},
    mapped::{Change, Mapped, Place, Shape, Space, Tables, Work, le},
    qcow2::{host::Host, sync::lock},
};

/// Entry of a grain that reads as zeros.
const ZEROED: u32 = 1;
/// Bytes in front of a compressed grain: its sector, and how long it is.
const GRAIN_MARKER: usize = 12;

/// Reads the header, or the one at the end where that counts.
pub(super) async fn read_header(cx: &Cx, host: &Host) -> Result<Header, FormatError> {
    let reading = io("reading the extent header");
    let bytes = host.read(cx, 0, spec::HEADER).await.map_err(&reading)?;
    let header = Header::parse(&bytes)?;
    if header.directory_at.is_some() {
        return Ok(header);
    }
    // Marker, footer, end-of-stream marker: a sector each.
    let at = host.node().info().size.saturating_sub(2 * SECTOR);
    let bytes = host.read(cx, at, spec::HEADER).await.map_err(&reading)?;
    let missing = || refuse("footer", "is missing: the image was cut short");
    let footer = Header::parse(&bytes).map_err(|_| missing())?;
    if footer.directory_at.is_none() || footer.size != header.size || footer.grain != header.grain {
        return Err(refuse("footer", "contradicts the header"));
    }
    Ok(footer)
}

/// Reads a directory: where its tables are, in bytes.
pub(super) async fn read_directory(
    cx: &Cx,
    host: &Host,
    header: &Header,
    at: u64,
) -> Result<Vec<u64>, FormatError> {
    let len = header.tables() as usize * 4;
    let bytes = host.read(cx, at, len).await.map_err(io("reading the grain directory"))?;
    Ok(le::table32(&bytes).map(|sector| u64::from(sector) * SECTOR).collect())
}

/// Opens an extent.
pub(super) async fn open(
    cx: &Cx,
    file: Arc<dyn Node>,
    backing: Option<Arc<dyn Node>>,
    read_only: bool,
) -> Result<Arc<Mapped>, FormatError> {
    let host = Host::new(Arc::clone(&file));
    let header = read_header(cx, &host).await?;
    if header.is_compressed() && !read_only {
        return Err(FormatError::Unsupported(
            "streamOptimized VMDK images are written in one go; open it read-only, or convert it"
                .to_owned(),
        ));
    }
    let end = file.info().size;
    let directory_at = header.directory_at.unwrap_or(0);
    let directory = Range::new(directory_at, header.tables() * 4);
    if directory.end() > end.next_multiple_of(header.grain) {
        return Err(refuse("gdOffset", format!("is {directory_at:#x}, outside the file")));
    }
    let primary = read_directory(cx, &host, &header, directory_at).await?;
    let mut reserved = vec![
        Range::new(0, SECTOR),
        directory,
        Range::new(header.descriptor.offset, header.descriptor.len),
    ];
    let redundant = if header.redundant_at != 0 {
        reserved.push(Range::new(header.redundant_at, header.tables() * 4));
        read_directory(cx, &host, &header, header.redundant_at).await?
    } else {
        Vec::new()
    };
    for (n, table) in primary.iter().enumerate().filter(|(_, table)| **table != 0) {
        if table + TABLE_BYTES > end.next_multiple_of(header.grain) {
            return Err(refuse(
                "grain directory",
                format!("has entry {n} with {table:#x}, outside the file"),
            ));
        }
    }
    for table in primary.iter().chain(&redundant).filter(|table| **table != 0) {
        reserved.push(Range::new(*table, TABLE_BYTES));
    }
    let shape = Shape {
        driver: "vmdk",
        size: header.size,
        block: header.grain,
        lead: 0,
        align: header.grain,
        origin: 0,
        tail: 0,
        next: end.max(header.overhead),
        // Tables count sectors in 32 bits.
        limit: u64::from(u32::MAX) * SECTOR,
        reserved,
        zero_state: header.flags & flags::ZERO_GRAINS != 0,
        read_only,
    };
    let tables = Grains { directory_at, directories: Mutex::new((primary, redundant)), header };
    Ok(Mapped::new(file, backing, shape, Box::new(tables)))
}

/// Directory, tables, and their copies.
struct Grains {
    header: Header,
    directory_at: u64,
    directories: Mutex<(Vec<u64>, Vec<u64>)>,
}

impl Grains {
    /// Where the tables of this number are: the first, and the copy.
    fn tables(&self, index: usize) -> (u64, u64) {
        let directories = lock(&self.directories);
        let at = |list: &[u64]| list.get(index).copied().unwrap_or(0);
        (at(&directories.0), at(&directories.1))
    }
}

impl Tables for Grains {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let (table, _) = self.tables(piece as usize);
            if table == 0 {
                return Ok(vec![Place::Unallocated; TABLE as usize]);
            }
            let bytes = host.read(cx, table, TABLE_BYTES as usize).await?;
            let zeros = self.header.flags & flags::ZERO_GRAINS != 0;
            let place = |entry| match entry {
                0 => Place::Unallocated,
                ZEROED if zeros => Place::Zero,
                sector if self.header.is_compressed() => Place::Packed(u64::from(sector) * SECTOR),
                sector => Place::Data(u64::from(sector) * SECTOR),
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
            let mut made = Vec::new();
            for change in changes {
                let index = (change.first / TABLE) as usize;
                let (mut table, copy) = self.tables(index);
                if table == 0 {
                    let taken = space.take(cx, host, TABLE_BYTES).await?;
                    if !taken.zeroed {
                        host.write_bytes(cx, taken.at, &[0; TABLE_BYTES as usize]).await?;
                    }
                    table = taken.at;
                    made.push((index, table));
                }
                let entry = |place: &Place| match *place {
                    Place::Data(at) => (at / SECTOR) as u32,
                    Place::Zero => ZEROED,
                    _ => 0,
                };
                for run in crate::mapped::runs(change) {
                    let places = change.entries[run.clone()].iter();
                    let bytes: Vec<u8> = places.flat_map(|p| entry(p).to_le_bytes()).collect();
                    for table in [copy, table].into_iter().filter(|table| *table != 0) {
                        host.write_bytes(cx, table + run.start as u64 * 4, &bytes).await?;
                    }
                }
            }
            if made.is_empty() {
                return Ok(());
            }
            // New tables are whole before the directory points to them.
            host.sync(cx).await?;
            for (index, table) in made {
                let entry = ((table / SECTOR) as u32).to_le_bytes();
                host.write_bytes(cx, self.directory_at + index as u64 * 4, &entry).await?;
                if let Some(known) = lock(&self.directories).0.get_mut(index) {
                    *known = table;
                }
            }
            Ok(())
        })
    }

    fn unpack<'a>(&'a self, cx: &'a Cx, host: &'a Host, block: u64, at: u64) -> Work<'a, Vec<u8>> {
        Box::pin(async move {
            let grain = self.header.grain as usize;
            let with_marker = self.header.flags & flags::MARKERS != 0;
            // Deflate makes nothing much longer than it was.
            let longest = grain + grain / 8 + 1024;
            let (start, len) = if with_marker {
                let marker = host.read(cx, at, GRAIN_MARKER).await?;
                let (sector, len) = (le::u64_at(&marker, 0), le::u32_at(&marker, 8) as usize);
                if sector.checked_mul(SECTOR) != Some(block * self.header.grain) || len > longest {
                    return Err(BlockError::Corrupt);
                }
                (at + GRAIN_MARKER as u64, len)
            } else {
                (at, longest)
            };
            let packed = host.read(cx, start, len).await?;
            inflate(&packed, grain).ok_or(BlockError::Corrupt)
        })
    }
}

/// Unpacks a grain; what is missing of the last one is zeros.
fn inflate(packed: &[u8], grain: usize) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::with_capacity(grain);
    let mut decoder = flate2::read::ZlibDecoder::new(packed).take(grain as u64);
    decoder.read_to_end(&mut bytes).ok()?;
    bytes.resize(grain, 0);
    Some(bytes)
}
