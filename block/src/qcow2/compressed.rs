//! Compressed clusters: read, unpacked, and the last few kept.

use std::{
    collections::VecDeque,
    io::Read,
    sync::{Arc, Mutex},
};

use flate2::{Decompress, FlushDecompress};

use super::{Qcow2, header::Compression, sync::lock};
use crate::{BlockError, Cx, Range};

/// Unpacked clusters that are kept: guests read compressed clusters in small pieces.
const KEPT: usize = 4;

/// Unpacks clusters, and remembers the last few by their place in the file. Before other compressed
/// data is written to a place, [`Unpacker::forget`] is called; whoever reads the old data has ended
/// by then, for a pin keeps its clusters from being used again.
pub(super) struct Unpacker {
    compression: Compression,
    kept: Mutex<VecDeque<(Range, Arc<[u8]>)>>,
}

impl Unpacker {
    pub fn new(compression: Compression) -> Self {
        Self { compression, kept: Mutex::new(VecDeque::new()) }
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Other data is going to be in this part of the file.
    pub fn forget(&self, part: Range) {
        lock(&self.kept).retain(|(at, _)| !at.overlaps(part));
    }

    fn find(&self, place: Range) -> Option<Arc<[u8]>> {
        lock(&self.kept).iter().find(|(at, _)| *at == place).map(|(_, bytes)| Arc::clone(bytes))
    }

    fn keep(&self, place: Range, bytes: &Arc<[u8]>) {
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((place, Arc::clone(bytes)));
    }
}

/// Unpacks exactly `len` bytes. What follows in `packed` is padding.
pub(super) fn unpack(compression: Compression, packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    match compression {
        Compression::Zlib => {
            let mut inflate = Decompress::new(false);
            inflate.decompress(packed, &mut bytes, FlushDecompress::Finish).ok()?;
            (inflate.total_out() == len as u64).then_some(bytes)
        }
        Compression::Zstd => {
            // The buffer bounds the output; the window is bounded by the library's default.
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).ok()?;
            decoder.read_exact(&mut bytes).ok()?;
            Some(bytes)
        }
    }
}

impl Qcow2 {
    /// The contents of a compressed cluster. The caller keeps the translation true.
    pub(super) async fn unpacked(&self, cx: &Cx, place: Range) -> Result<Arc<[u8]>, BlockError> {
        if let Some(bytes) = self.unpacker.find(place) {
            return Ok(bytes);
        }
        let packed = self.host.read(cx, place.offset, place.len as usize).await?;
        let len = self.layout.cluster() as usize;
        let bytes = unpack(self.unpacker.compression, &packed, len).ok_or(BlockError::Medium)?;
        let bytes: Arc<[u8]> = bytes.into();
        self.unpacker.keep(place, &bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_short_data_are_refused() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            assert_eq!(unpack(compression, &[], 512), None);
            assert_eq!(unpack(compression, &[0xff; 300], 512), None);
        }
        let packed = zstd::encode_all(&[7u8; 1024][..], 1).expect("zstd");
        let padded = [&packed[..], &[0; 100]].concat();
        assert_eq!(unpack(Compression::Zstd, &padded, 1024), Some(vec![7; 1024]));
        assert_eq!(unpack(Compression::Zstd, &padded, 1025), None);
    }
}
