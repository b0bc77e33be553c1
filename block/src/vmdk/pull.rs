//! Reading a streamOptimized image from front to back, as through a pipe: its grains say themselves
//! where they belong.

use std::io::{self, Read};

use super::{
    spec::{HEADER, Header, SECTOR, flags},
    stream::{END_OF_STREAM, FOOTER, GRAIN_DIRECTORY, GRAIN_TABLE},
};
use crate::{
    formats::{FormatError, refuse},
    mapped::le,
    qcow2::Piece,
};

/// Most sectors of a table, directory or footer that is skipped.
const SKIPPED_MAX: u64 = 1 << 26;

/// An image on its way through a pipe. What no piece has reads as zeros.
pub struct StreamReader<R> {
    from: R,
    header: Header,
}

fn failed(error: io::Error) -> FormatError {
    FormatError::Unsupported(if error.kind() == io::ErrorKind::UnexpectedEof {
        "the stream ends before the image does".to_owned()
    } else {
        format!("reading the stream: {error}")
    })
}

impl<R: Read> StreamReader<R> {
    /// Reads what lies before the grains.
    ///
    /// # Errors
    /// It is no streamOptimized image, or is over too early.
    pub fn open(mut from: R) -> Result<Self, FormatError> {
        let mut first = vec![0; HEADER];
        from.read_exact(&mut first).map_err(failed)?;
        let header = Header::parse(&first)?;
        if !header.is_compressed() || header.flags & flags::MARKERS == 0 {
            return Err(FormatError::Unsupported(
                "only a VMDK image with subformat=streamOptimized can be read from a pipe"
                    .to_owned(),
            ));
        }
        let rest = header
            .overhead
            .checked_sub(HEADER as u64)
            .filter(|rest| *rest < SKIPPED_MAX * SECTOR)
            .ok_or_else(|| refuse("overHead", format!("is {}", header.overhead)))?;
        let mut reader = Self { from, header };
        reader.skip(rest)?;
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
    /// The stream is damaged, or is over too early.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FormatError> {
        loop {
            let mut marker = [0; SECTOR as usize];
            self.from.read_exact(&mut marker).map_err(failed)?;
            let (value, len) = (le::u64_at(&marker, 0), le::u32_at(&marker, 8));
            if len > 0 {
                return self.grain(value, len as usize, &marker).map(Some);
            }
            match le::u32_at(&marker, 12) {
                END_OF_STREAM => {
                    // Whoever writes the other end should not be cut off.
                    io::copy(&mut self.from, &mut io::sink()).map_err(failed)?;
                    return Ok(None);
                }
                GRAIN_TABLE | GRAIN_DIRECTORY | FOOTER if value < SKIPPED_MAX => {
                    self.skip(value * SECTOR)?;
                }
                other => return Err(refuse("marker", format!("has the type {other}"))),
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), FormatError> {
        let skipped = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink());
        if skipped.map_err(failed)? < bytes {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// A grain whose packed bytes begin in its marker.
    fn grain(&mut self, sector: u64, len: usize, marker: &[u8]) -> Result<Piece, FormatError> {
        const AT: usize = 12;
        let size = self.header.grain;
        let offset = sector.checked_mul(SECTOR).filter(|at| at.is_multiple_of(size));
        let Some(offset) = offset.filter(|at| *at < self.header.size) else {
            return Err(refuse("grain marker", format!("puts a grain at sector {sector}")));
        };
        // Deflate makes nothing much longer than it was.
        if len as u64 > size + size / 8 + 1024 {
            return Err(refuse("grain marker", format!("gives a grain {len} bytes")));
        }
        let mut packed = marker[AT..].to_vec();
        if len > packed.len() {
            let have = packed.len();
            packed.resize((AT + len).next_multiple_of(SECTOR as usize) - AT, 0);
            self.from.read_exact(&mut packed[have..]).map_err(failed)?;
        }
        packed.truncate(len);
        let within = size.min(self.header.size - offset) as usize;
        let mut bytes = vec![0; size as usize];
        let mut inflate = flate2::Decompress::new(true);
        let finish = flate2::FlushDecompress::Finish;
        let done = inflate.decompress(&packed, &mut bytes, finish);
        if done.is_err() || (inflate.total_out() as usize) < within {
            return Err(refuse("grain", format!("at sector {sector} cannot be unpacked")));
        }
        bytes.truncate(within);
        Ok(Piece { offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Node,
        formats::{Alone, ImageFormat, Request, open},
        nodes::{
            file::{FileNode, FileOptions},
            testing::{close, on_ring, write},
        },
        vmdk::{Make, Subformat, VmdkOptions, create},
    };

    struct None_;

    impl Make for None_ {
        fn make(&self, name: &str) -> Result<Arc<dyn Node>, String> {
            Err(name.to_owned())
        }
    }

    #[test]
    fn what_is_written_in_one_go_is_read_in_one_go() {
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = temp.path().to_path_buf();
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(65536).collect();
        let written = noise.clone();
        let size = (3 << 20) + 512;
        on_ring(async move |cx| {
            let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
            let mut options = VmdkOptions::new(size);
            options.subformat = Subformat::StreamOptimized;
            create(&cx, &file, "a.vmdk", &options, &None_).await.expect("create");
            close(&cx, &file).await;
            // It is as long as it was when it was opened.
            let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
            let request = Request { once: true, ..Request::read(Arc::clone(&file), &Alone) };
            let request = Request { read_only: false, ..request };
            let image = open(&cx, ImageFormat::Vmdk, request).await.expect("open");
            write(&cx, &image, 65536, &written).await.expect("write");
            write(&cx, &image, 3 << 20, &[5; 512]).await.expect("write");
            close(&cx, &image).await;
            close(&cx, &file).await;
        });
        let bytes = std::fs::read(temp.path()).expect("read");
        let mut reader = StreamReader::open(&bytes[..]).expect("a stream");
        assert_eq!(reader.size(), size);
        let first = reader.next_piece().expect("a piece").expect("there is one");
        assert!(first == Piece { offset: 65536, bytes: noise });
        let last = reader.next_piece().expect("a piece").expect("there is one");
        assert_eq!(last, Piece { offset: 3 << 20, bytes: vec![5; 512] });
        assert_eq!(reader.next_piece().expect("the end"), None);
        for len in (0..bytes.len()).step_by(97) {
            let mut cut = match StreamReader::open(&bytes[..len]) {
                Ok(reader) => reader,
                Err(_) => continue,
            };
            let end = loop {
                match cut.next_piece() {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            assert!(!end, "cut at {len} of {}", bytes.len());
        }
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..500 {
            let mut bad = bytes.clone();
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..bad.len());
                bad[at] = random.u8(..);
            }
            let Ok(mut reader) = StreamReader::open(&bad[..]) else { continue };
            while let Ok(Some(piece)) = reader.next_piece() {
                assert!(piece.offset + piece.bytes.len() as u64 <= reader.size(), "seed {seed}");
            }
        }
    }
}
