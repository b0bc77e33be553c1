//! Reading an image from front to back.

use std::{collections::BTreeMap, io, io::Read};

use super::{
    super::{
        be,
        header::{Header, V3_LENGTH, incompatible},
        layout::{COMPRESSED, Entry, Layout},
    },
    StreamError,
};

/// Most runs of clusters that are waited for at once.
const RUNS_MAX: usize = 1 << 20;
/// Most bytes of a piece.
const PIECE: u64 = 1 << 20;

/// What is expected at a cluster of the file.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// The L1 table.
    L1,
    /// The L2 table of this L1 entry.
    L2(u64),
    /// Data of so many guest clusters from this one on.
    Data { guest: u64, count: u64 },
}

/// Data of the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is on the disk, in bytes.
    pub offset: u64,
    /// The data; none of it lies behind the end of the disk.
    pub bytes: Vec<u8>,
}

/// An image on its way through a pipe. What no piece has reads as zeros.
pub struct StreamReader<R> {
    from: R,
    header: Header,
    layout: Layout,
    /// The next cluster of the file that has not been read.
    at: u64,
    /// What is to come, by cluster of the file.
    wanted: BTreeMap<u64, Wanted>,
}

impl<R: Read> StreamReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn open(mut from: R) -> Result<Self, StreamError> {
        let mut first = vec![0; V3_LENGTH];
        exact(&mut from, &mut first)?;
        let bits = be::u32_at(&first, 20);
        // Another size is refused by the parser.
        let cluster = 1_usize << bits.clamp(9, 21);
        first.resize(cluster, 0);
        exact(&mut from, &mut first[V3_LENGTH..])?;
        let header = Header::parse(&first)?;
        if header.incompatible & incompatible::DATA_FILE != 0 {
            return Err(StreamError::Order("the image's data is in another file"));
        }
        header.supported()?;
        if header.crypt_method != 0 {
            return Err(StreamError::Order("the image is encrypted"));
        }
        if header.backing_file.is_some() {
            return Err(StreamError::Order("the image has a backing file"));
        }
        let layout = header.layout();
        let mut wanted = BTreeMap::new();
        if header.l1_size > 0 {
            wanted.insert(header.l1_offset >> layout.cluster_bits, Wanted::L1);
        }
        let mut reader = Self { from, header, layout, at: 1, wanted };
        reader.refuse_what_is_behind()?;
        reader.at = 1;
        Ok(reader)
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.header.size
    }

    /// The next data; `None` at the end.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn next_piece(&mut self) -> Result<Option<Piece>, StreamError> {
        while let Some((at, wanted)) = self.wanted.pop_first() {
            self.skip_to(at)?;
            match wanted {
                Wanted::L1 => self.l1_table()?,
                Wanted::L2(index) => self.l2_table(index)?,
                Wanted::Data { guest, count } => return self.data(at, guest, count).map(Some),
            }
            self.refuse_what_is_behind()?;
        }
        // Whoever writes the other end should not be cut off.
        io::copy(&mut self.from, &mut io::sink())?;
        Ok(None)
    }

    fn refuse_what_is_behind(&self) -> Result<(), StreamError> {
        match self.wanted.first_key_value() {
            Some((at, Wanted::Data { .. })) if *at < self.at => {
                Err(StreamError::Order("the image's data lies before its tables"))
            }
            Some((at, _)) if *at < self.at => {
                Err(StreamError::Order("the image's L2 tables lie before its L1 table"))
            }
            _ => Ok(()),
        }
    }

    fn skip_to(&mut self, cluster: u64) -> Result<(), StreamError> {
        let bytes = cluster.checked_sub(self.at).ok_or(StreamError::Corrupt("clusters overlap"))?
            << self.layout.cluster_bits;
        let skipped = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(StreamError::Short);
        }
        self.at = cluster;
        Ok(())
    }

    fn clusters(&mut self, count: u64) -> Result<Vec<u8>, StreamError> {
        let mut bytes = vec![0; (count << self.layout.cluster_bits) as usize];
        exact(&mut self.from, &mut bytes)?;
        self.at += count;
        Ok(bytes)
    }

    fn l1_table(&mut self) -> Result<(), StreamError> {
        let len = u64::from(self.header.l1_size) * 8;
        let bytes = self.clusters(len.div_ceil(self.layout.cluster()))?;
        let needed = self.layout.l1_entries(self.header.size).unwrap_or(0);
        for (index, entry) in (0..needed).zip(be::table(&bytes)) {
            let bad = |()| StreamError::Corrupt("an entry of its L1 table is none");
            let table = self.layout.table_of(entry).map_err(bad)?;
            if table != 0 {
                self.want(table >> self.layout.cluster_bits, Wanted::L2(index))?;
            }
        }
        Ok(())
    }

    fn l2_table(&mut self, index: u64) -> Result<(), StreamError> {
        let bytes = self.clusters(1)?;
        let clusters = self.header.size.div_ceil(self.layout.cluster());
        let first = index << self.layout.l2_bits();
        let mut run: Option<(u64, u64, u64)> = None;
        let layout = self.layout;
        for (guest, raw) in (first..clusters).zip(layout.entries(&be::table(&bytes))) {
            if layout.bad_bitmaps(raw).is_some() {
                return Err(StreamError::Corrupt("a bitmap of subclusters contradicts its entry"));
            }
            if layout.extended && raw.word & COMPRESSED == 0 {
                match raw.placed() {
                    0 => continue,
                    u32::MAX => {}
                    _ => {
                        return Err(StreamError::Order(
                            "the image has clusters that are data in part",
                        ));
                    }
                }
            }
            let host = match layout.entry(raw.word) {
                Entry::Unallocated | Entry::Zero { .. } => continue,
                Entry::Data { host, .. } => host >> self.layout.cluster_bits,
                Entry::Compressed(_) => {
                    return Err(StreamError::Order("the image has compressed clusters"));
                }
                Entry::Bad => {
                    return Err(StreamError::Corrupt("an entry of an L2 table is none"));
                }
            };
            run = match run {
                Some((at, from, count)) if (at + count, from + count) == (host, guest) => {
                    Some((at, from, count + 1))
                }
                ended => {
                    self.want_run(ended)?;
                    Some((host, guest, 1))
                }
            };
        }
        self.want_run(run)
    }

    fn want_run(&mut self, run: Option<(u64, u64, u64)>) -> Result<(), StreamError> {
        let Some((at, guest, count)) = run else { return Ok(()) };
        self.want(at, Wanted::Data { guest, count })
    }

    /// Expects something at a cluster of the file, where nothing else may be expected.
    fn want(&mut self, at: u64, wanted: Wanted) -> Result<(), StreamError> {
        let count = |wanted: &Wanted| match wanted {
            Wanted::Data { count, .. } => *count,
            Wanted::L1 | Wanted::L2(_) => 1,
        };
        let before = self.wanted.range(..=at).next_back();
        let behind = self.wanted.range(at..).next();
        let overlaps = before.is_some_and(|(start, w)| start + count(w) > at)
            || behind.is_some_and(|(start, _)| at + count(&wanted) > *start);
        if overlaps {
            return Err(StreamError::Corrupt("clusters are in use twice"));
        }
        if self.wanted.len() >= RUNS_MAX {
            return Err(StreamError::Order("the image is too fragmented"));
        }
        self.wanted.insert(at, wanted);
        Ok(())
    }

    fn data(&mut self, at: u64, guest: u64, count: u64) -> Result<Piece, StreamError> {
        let bits = self.layout.cluster_bits;
        let now = count.min((PIECE >> bits).max(1));
        if now < count {
            let rest = Wanted::Data { guest: guest + now, count: count - now };
            self.wanted.insert(at + now, rest);
        }
        let offset = guest << bits;
        let within = (now << bits).min(self.header.size - offset);
        let mut bytes = vec![0; within as usize];
        exact(&mut self.from, &mut bytes)?;
        // The last cluster of a file may end with the disk.
        let rest = (now << bits) - within;
        io::copy(&mut (&mut self.from).take(rest), &mut io::sink())?;
        self.at += now;
        Ok(Piece { offset, bytes })
    }
}

fn exact(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), StreamError> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::Short,
        _ => StreamError::Io(error),
    })
}
