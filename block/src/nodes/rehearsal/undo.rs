//! Undo files: the old bytes of everything that a rehearsed change will touch.
//!
//! Layout, all numbers little-endian: a magic of 16 bytes; the length of the file before, after, and
//! the shortest in between; the longest in between; the name of the format (u32 length, bytes); the
//! blocks of 4096 bytes that change (u64 number, then each: u64 number, old bytes); what their sectors
//! may be from the first change to the last (u64 number, then each: u64 sector, u32 number, SHA-256 of
//! each); the ranges that were read and stay as they are (u64 number, then each: u64 offset, u64
//! length) and one SHA-256 of their bytes; SHA-256 of all of this.
//!
//! Before anything is put back, every sector must be the old one or one of those that the change made
//! of it, and what was read must still be there: so another image, or one that was used since, is
//! left alone, and a change that was cut short in the middle is undone all the same.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::{BLOCK, PIECE, Print, Rehearsal, SECTOR, print};
use crate::{BlockError, Cx, Node, Range, qcow2::host::Host, submit::read};

const MAGIC: &[u8; 16] = b"spindle undo\0\0\0\x01";
/// Longest name of a format.
const NAME_MAX: u32 = 64;
/// Most blocks, sectors and ranges of one file.
const COUNT_MAX: u64 = 1 << 26;
/// Most versions of one sector.
const VERSIONS_MAX: u32 = 4096;

/// Why a change cannot be recorded or undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The undo file cannot be read or written.
    #[error("{doing} the undo file")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The image cannot be read or written.
    #[error("{doing} the image")]
    Image {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: BlockError,
    },
    /// It is none, or damaged.
    #[error("this is no undo file, or it is damaged ({0})")]
    NoUndo(&'static str),
    /// The image is another.
    #[error(
        "the image is not the one that this undo file is of, or it was used since ({0}); nothing \
         was changed"
    )]
    Another(String),
}

fn image(doing: &'static str) -> impl Fn(BlockError) -> UndoError {
    move |source| UndoError::Image { doing, source }
}

fn writing(source: io::Error) -> UndoError {
    UndoError::File { doing: "writing", source }
}

fn reading(source: io::Error) -> UndoError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => UndoError::NoUndo("it is cut off"),
        _ => UndoError::File { doing: "reading", source },
    }
}

/// A stream that is fingerprinted on its way.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Hashing<T> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), UndoError> {
        self.hash.update(bytes);
        self.inner.write_all(bytes).map_err(writing)
    }

    fn number(&mut self, n: u64) -> Result<(), UndoError> {
        self.put(&n.to_le_bytes())
    }
}

impl<T: Read> Hashing<T> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), UndoError> {
        self.inner.read_exact(bytes).map_err(reading)?;
        self.hash.update(&*bytes);
        Ok(())
    }

    fn long(&mut self) -> Result<u64, UndoError> {
        let mut bytes = [0; 8];
        self.take(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn short(&mut self) -> Result<u32, UndoError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn count(&mut self) -> Result<u64, UndoError> {
        let n = self.long()?;
        if n > COUNT_MAX { Err(UndoError::NoUndo("it names too many places")) } else { Ok(n) }
    }
}

/// Writes the undo file of what was rehearsed on an image of `format`. The caller makes it durable
/// before anything is performed.
///
/// # Errors
/// The image cannot be read, or the undo file not be written.
pub async fn write(
    cx: &Cx,
    rehearsal: &Rehearsal,
    format: &str,
    out: impl Write,
) -> Result<(), UndoError> {
    let mut out = Hashing { inner: BufWriter::new(out), hash: Sha256::new() };
    let (new_size, cut, longest) = {
        let state = rehearsal.state();
        (state.size, state.cut, state.longest)
    };
    let old_size = rehearsal.length;
    // All that is written to, also where it is at last what it was: it may be cut short before.
    let mut saved: Vec<u64> =
        rehearsal.state().versions.keys().map(|sector| sector * SECTOR / BLOCK).collect();
    // What is cut off is lost with the file's end; blocks of zeros come back by themselves.
    let mut at = cut / BLOCK;
    while at * BLOCK < old_size {
        let len = (old_size - at * BLOCK).min(PIECE).next_multiple_of(BLOCK);
        let bytes = rehearsal.original(cx, at * BLOCK, len).await.map_err(image("reading"))?;
        let blocks = (at..).zip(bytes.chunks(BLOCK as usize));
        saved.extend(blocks.filter(|(_, b)| b.iter().any(|b| *b != 0)).map(|(n, _)| n));
        at += len / BLOCK;
    }
    saved.sort_unstable();
    saved.dedup();
    out.put(MAGIC)?;
    for n in [old_size, new_size, cut, longest] {
        out.number(n)?;
    }
    out.put(&(format.len() as u32).to_le_bytes())?;
    out.put(format.as_bytes())?;
    out.number(saved.len() as u64)?;
    for number in &saved {
        out.number(*number)?;
        let old = rehearsal.original(cx, number * BLOCK, BLOCK).await.map_err(image("reading"))?;
        out.put(&old)?;
    }
    let (versions, mut reads) = {
        let state = rehearsal.state();
        (state.versions.clone(), state.reads.clone())
    };
    out.number(versions.len() as u64)?;
    for (sector, prints) in &versions {
        out.number(*sector)?;
        out.put(&(prints.len() as u32).to_le_bytes())?;
        prints.iter().try_for_each(|print| out.put(print))?;
        reads.remove(Range::new(sector * SECTOR, SECTOR));
    }
    reads.remove(Range::new(cut.min(old_size), u64::MAX - cut.min(old_size)));
    let ranges: Vec<Range> = reads.iter().collect();
    out.number(ranges.len() as u64)?;
    for range in &ranges {
        out.number(range.offset)?;
        out.number(range.len)?;
    }
    let witness = witness(cx, &rehearsal.below, &ranges).await?;
    out.put(&witness)?;
    let hash = out.hash.finalize_reset();
    out.inner.write_all(&hash).map_err(writing)?;
    out.inner.flush().map_err(writing)
}

/// One fingerprint of these bytes.
async fn witness(cx: &Cx, file: &Arc<dyn Node>, ranges: &[Range]) -> Result<Print, UndoError> {
    let host = Host::new(Arc::clone(file));
    let mut hash = Sha256::new();
    for range in ranges {
        let mut at = range.offset;
        while at < range.end() {
            let len = (range.end() - at).min(PIECE);
            let bytes = host.read(cx, at, len as usize).await.map_err(image("reading"))?;
            hash.update(&bytes);
            at += len;
        }
    }
    Ok(hash.finalize().into())
}

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undone {
    /// Blocks of 4096 bytes that were other than before.
    pub blocks: u64,
    /// The length that the file has again, in bytes.
    pub size: u64,
    /// Whether anything had to be done.
    pub changed: bool,
}

/// The tables of an undo file that is whole.
struct Tables {
    old_size: u64,
    cut: u64,
    longest: u64,
    format: String,
    /// Where the blocks begin in the undo file, and how many there are.
    blocks_at: u64,
    blocks: u64,
    versions: BTreeMap<u64, Vec<Print>>,
    ranges: Vec<Range>,
    witness: Print,
}

fn read_tables(from: &mut (impl Read + Seek)) -> Result<Tables, UndoError> {
    from.seek(SeekFrom::Start(0)).map_err(reading)?;
    let mut from = Hashing { inner: BufReader::new(from), hash: Sha256::new() };
    let mut magic = [0; 16];
    from.take(&mut magic)?;
    if magic != *MAGIC {
        return Err(UndoError::NoUndo("it does not begin like one"));
    }
    let (old_size, _new_size) = (from.long()?, from.long()?);
    let (cut, longest) = (from.long()?, from.long()?);
    let len = from.short()?;
    if len > NAME_MAX {
        return Err(UndoError::NoUndo("the name of its format is too long"));
    }
    let mut name = vec![0; len as usize];
    from.take(&mut name)?;
    let format = String::from_utf8_lossy(&name).into_owned();
    let blocks = from.count()?;
    let blocks_at = 16 + 32 + 4 + u64::from(len) + 8;
    let mut block = vec![0; BLOCK as usize];
    for _ in 0..blocks {
        from.long()?;
        from.take(&mut block)?;
    }
    let mut versions = BTreeMap::new();
    for _ in 0..from.count()? {
        let (sector, n) = (from.long()?, from.short()?);
        if n > VERSIONS_MAX {
            return Err(UndoError::NoUndo("it has too many versions of a sector"));
        }
        let mut prints = vec![[0; 32]; n as usize];
        prints.iter_mut().try_for_each(|print| from.take(print))?;
        versions.insert(sector, prints);
    }
    let mut ranges = Vec::new();
    for _ in 0..from.count()? {
        let range = Range::new(from.long()?, from.long()?);
        if range.checked_end().is_none_or(|end| end > i64::MAX as u64) {
            return Err(UndoError::NoUndo("it names impossible places"));
        }
        ranges.push(range);
    }
    let mut witness = [0; 32];
    from.take(&mut witness)?;
    let mut stored = [0; 32];
    from.inner.read_exact(&mut stored).map_err(reading)?;
    if Print::from(from.hash.finalize()) != stored {
        return Err(UndoError::NoUndo("its checksum is wrong"));
    }
    Ok(Tables { old_size, cut, longest, format, blocks_at, blocks, versions, ranges, witness })
}

/// The format of the image that an undo file is of.
///
/// # Errors
/// It is no undo file.
pub fn format_of(from: &mut (impl Read + Seek)) -> Result<String, UndoError> {
    Ok(read_tables(from)?.format)
}

/// Puts everything back into `file`, which is `length` bytes long and which nobody else uses. It is
/// durable then.
///
/// # Errors
/// See [`UndoError`]. Before the first byte is written, everything was checked.
pub async fn undo(
    cx: &Cx,
    from: &mut (impl Read + Seek),
    file: &Arc<dyn Node>,
    length: u64,
) -> Result<Undone, UndoError> {
    let tables = read_tables(from)?;
    if length < tables.cut || length > tables.longest.next_multiple_of(BLOCK) {
        return Err(UndoError::Another(format!("it is {length} bytes long")));
    }
    if witness(cx, file, &tables.ranges).await? != tables.witness {
        return Err(UndoError::Another("its tables have changed".to_owned()));
    }
    let mut different = Vec::new();
    from.seek(SeekFrom::Start(tables.blocks_at)).map_err(reading)?;
    let mut blocks = BufReader::new(&mut *from);
    for index in 0..tables.blocks {
        let (number, old) = next_block(&mut blocks)?;
        let now = present(cx, file, length, number).await?;
        if now == old {
            continue;
        }
        tables.allows(number, &old, &now)?;
        different.push(index);
    }
    let changed = !different.is_empty() || length != tables.old_size;
    let host = Host::new(Arc::clone(file));
    for index in &different {
        let at = tables.blocks_at + index * (8 + BLOCK);
        from.seek(SeekFrom::Start(at)).map_err(reading)?;
        let (number, old) = next_block(from)?;
        let len = tables.old_size.saturating_sub(number * BLOCK).min(BLOCK);
        if len == 0 {
            // It lies behind the old end.
            continue;
        }
        host.write_bytes(cx, number * BLOCK, &old[..len as usize])
            .await
            .map_err(image("writing"))?;
    }
    if changed {
        host.set_len(cx, tables.old_size).await.map_err(image("giving its old length to"))?;
        host.sync(cx).await.map_err(image("flushing"))?;
    }
    Ok(Undone { blocks: different.len() as u64, size: tables.old_size, changed })
}

fn next_block(from: &mut impl Read) -> Result<(u64, Vec<u8>), UndoError> {
    let mut number = [0; 8];
    from.read_exact(&mut number).map_err(reading)?;
    let mut bytes = vec![0; BLOCK as usize];
    from.read_exact(&mut bytes).map_err(reading)?;
    let number = u64::from_le_bytes(number);
    if number > i64::MAX as u64 / BLOCK {
        return Err(UndoError::NoUndo("it names impossible places"));
    }
    Ok((number, bytes))
}

/// A block as the file has it; what is beyond its end reads as zeros.
async fn present(
    cx: &Cx,
    file: &Arc<dyn Node>,
    length: u64,
    number: u64,
) -> Result<Vec<u8>, UndoError> {
    let mut bytes = vec![0; BLOCK as usize];
    if number * BLOCK < length {
        let buf = read(cx, file, number * BLOCK, BLOCK as usize).await.map_err(image("reading"))?;
        buf.read_at(0, &mut bytes);
    }
    Ok(bytes)
}

impl Tables {
    /// Whether the change can have made `now` of `old`.
    fn allows(&self, number: u64, old: &[u8], now: &[u8]) -> Result<(), UndoError> {
        let sectors = old.chunks(SECTOR as usize).zip(now.chunks(SECTOR as usize));
        for (sector, (old, now)) in (number * BLOCK / SECTOR..).zip(sectors) {
            let cut = (sector + 1) * SECTOR > self.cut && now.iter().all(|b| *b == 0);
            let made = self.versions.get(&sector).is_some_and(|p| p.contains(&print(now)));
            // The sector through which the end went.
            let through = (sector * SECTOR..(sector + 1) * SECTOR).contains(&self.cut) && {
                let keep = (self.cut - sector * SECTOR) as usize;
                old[..keep] == now[..keep] && now[keep..].iter().all(|b| *b == 0)
            };
            if old != now && !made && !cut && !through {
                return Err(UndoError::Another(format!("sector {sector} is another")));
            }
        }
        Ok(())
    }
}
