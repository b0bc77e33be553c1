//! qcow: version 1 of QEMU's copy-on-write format, to be read.
//!
//! Two levels of tables, clusters as they are or deflated, and a backing file. Source: the format's
//! description by its author (*The QCOW Image Format*, version 1), as QEMU's `block/qcow.c` reads it.

use std::sync::Arc;

use crate::{
    BlockError, Cx, Node, Range,
    formats::{BLOCKS_MAX, BackingName, Facts, FormatError, Request, io, read_only_only, refuse},
    luks::{self, Sectors},
    mapped::{Change, Mapped, PIECE, Place, Shape, Space, Tables, Work},
    qcow2::{be, host::Host},
};

const HEADER: usize = 48;
const NAME_MAX: u32 = 1023;
/// Bytes of the L1 table at most.
const L1_MAX: u64 = 32 << 20;
const COMPRESSED: u64 = 1 << 63;
/// The only way of encryption: AES-128 in CBC mode, sectors numbered by where they are on the disk.
const AES: u32 = 1;

/// What a header says.
#[derive(Clone, Debug)]
struct Header {
    size: u64,
    cluster_bits: u32,
    l2_bits: u32,
    l1_at: u64,
    backing: Option<Range>,
    encrypted: bool,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(b"QFI\xfb") || be::u32_at(bytes, 4) != 1 {
            return Err(FormatError::Magic("qcow"));
        }
        let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
        let (cluster_bits, l2_bits) = (byte(32), byte(33));
        if !(9..=16).contains(&cluster_bits) {
            return Err(refuse("cluster_bits", format!("is {cluster_bits}, not 9 to 16")));
        }
        if !(6..=13).contains(&l2_bits) {
            return Err(refuse("l2_bits", format!("is {l2_bits}, not 6 to 13")));
        }
        let encrypted = match be::u32_at(bytes, 36) {
            0 => false,
            AES => true,
            other => {
                return Err(FormatError::Unsupported(format!(
                    "Unsupported encryption method {other}"
                )));
            }
        };
        let size = be::u64_at(bytes, 24);
        let size =
            size.checked_next_multiple_of(512).filter(|size| *size >> cluster_bits <= BLOCKS_MAX);
        let size = size.ok_or_else(|| refuse("size", "has more clusters than can be held"))?;
        let l1_at = be::u64_at(bytes, 40);
        if l1_at < HEADER as u64 || l1_at > 1 << 56 {
            return Err(refuse("l1_table_offset", format!("is {l1_at:#x}, no place in a file")));
        }
        let (at, len) = (be::u64_at(bytes, 8), be::u32_at(bytes, 16));
        if at != 0 && (len > NAME_MAX || at > 1 << 32) {
            return Err(refuse(
                "backing_file_size",
                format!("is {len}: longer than 1023, or at {at:#x}"),
            ));
        }
        let backing = (at != 0 && len != 0).then_some(Range::new(at, u64::from(len)));
        let header = Self { size, cluster_bits, l2_bits, l1_at, backing, encrypted };
        if header.l1_entries() * 8 > L1_MAX {
            return Err(refuse("size", "has too many clusters of this size"));
        }
        Ok(header)
    }

    fn l1_entries(&self) -> u64 {
        self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }
}

async fn read_header(cx: &Cx, file: &Arc<dyn Node>) -> Result<Header, FormatError> {
    let host = Host::new(Arc::clone(file));
    let bytes = host.read(cx, 0, HEADER).await.map_err(io("reading the image header"))?;
    Header::parse(&bytes)
}

/// What the header says.
pub(crate) async fn facts(cx: &Cx, file: &Arc<dyn Node>) -> Result<Facts, FormatError> {
    let header = read_header(cx, file).await?;
    let mut facts = Facts {
        size: header.size,
        cluster: Some(1 << header.cluster_bits),
        dirty: Some(false),
        encrypted: header.encrypted,
        ..Facts::default()
    };
    if let Some(name) = header.backing {
        let host = Host::new(Arc::clone(file));
        let bytes = host.read(cx, name.offset, name.len as usize).await;
        let bytes = bytes.map_err(io("reading the backing file's name"))?;
        let file = String::from_utf8(bytes);
        let file = file.map_err(|_| refuse("backing file name", "is not UTF-8"))?;
        facts.backing = Some(BackingName { file, format: None });
    }
    Ok(facts)
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    read_only_only("qcow", &request)?;
    let header = read_header(cx, &request.file).await?;
    let sectors = match (header.encrypted, &request.secret) {
        (false, _) => None,
        (true, Some(secret)) => Some(luks::aes_sectors(secret)?),
        (true, None) => {
            let sentence = "Parameter 'encrypt.key-secret' is required for cipher";
            return Err(FormatError::Option(sentence.to_owned()));
        }
    };
    let host = Host::new(Arc::clone(&request.file));
    let l1 = host.read(cx, header.l1_at, header.l1_entries() as usize * 8).await;
    let l1 = be::table(&l1.map_err(io("reading the L1 table"))?);
    let end = request.file.info().size;
    let shape = Shape {
        driver: "qcow",
        size: header.size,
        block: 1 << header.cluster_bits,
        lead: 0,
        align: 512,
        origin: 0,
        tail: 0,
        next: end,
        limit: 0,
        reserved: vec![Range::new(0, HEADER as u64)],
        zero_state: false,
        read_only: true,
    };
    let tables = Levels { header, l1, sectors };
    Ok(Mapped::new(request.file, request.backing, shape, Box::new(tables)))
}

/// Both levels; the second is in the file.
struct Levels {
    header: Header,
    l1: Vec<u64>,
    sectors: Option<Sectors>,
}

impl Levels {
    /// Where the entry of a block is, if its table is there.
    fn entry_at(&self, block: u64) -> Option<u64> {
        let table = *self.l1.get((block >> self.header.l2_bits) as usize)?;
        let index = block & ((1 << self.header.l2_bits) - 1);
        (table != 0 && table < 1 << 56).then(|| table + index * 8)
    }
}

impl Tables for Levels {
    fn load<'a>(&'a self, cx: &'a Cx, host: &'a Host, piece: u64) -> Work<'a, Vec<Place>> {
        Box::pin(async move {
            let mut places = Vec::with_capacity(PIECE as usize);
            let per_table = (1 << self.header.l2_bits).min(PIECE);
            let mut block = piece * PIECE;
            while places.len() < PIECE as usize {
                let Some(at) = self.entry_at(block) else {
                    places.resize(places.len() + per_table as usize, Place::Unallocated);
                    block += per_table;
                    continue;
                };
                let bytes = host.read(cx, at, per_table as usize * 8).await?;
                for (n, entry) in (0..).zip(be::table(&bytes)) {
                    places.push(match entry {
                        0 => Place::Unallocated,
                        // What is known of it does not fit: the entry is looked at again.
                        entry if entry & COMPRESSED != 0 => Place::Packed(at + n * 8),
                        at if at.is_multiple_of(512) => Place::Data(at),
                        _ => Place::Bad,
                    });
                }
                block += per_table;
            }
            Ok(places)
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

    fn sectors(&self) -> Option<&Sectors> {
        self.sectors.as_ref()
    }

    fn unpack<'a>(&'a self, cx: &'a Cx, host: &'a Host, _block: u64, at: u64) -> Work<'a, Vec<u8>> {
        Box::pin(async move {
            let entry = be::u64_at(&host.read(cx, at, 8).await?, 0);
            let (cluster, shift) =
                (1_u64 << self.header.cluster_bits, 63 - self.header.cluster_bits);
            let len = (entry & !COMPRESSED) >> shift & (cluster - 1);
            let place = entry & ((1 << shift) - 1);
            let packed = host.read(cx, place, len as usize).await?;
            let mut bytes = vec![0; cluster as usize];
            let mut inflate = flate2::Decompress::new(false);
            let done = inflate.decompress(&packed, &mut bytes, flate2::FlushDecompress::Finish);
            if done.is_err() || inflate.total_out() != cluster {
                return Err(BlockError::Corrupt);
            }
            Ok(bytes)
        })
    }
}
