//! Sparse bytes in memory that are cheap to copy.

use std::{collections::BTreeMap, sync::Arc};

/// The unit that is allocated and shared between copies, in bytes.
const CHUNK: u64 = 4096;

type Chunk = [u8; CHUNK as usize];

/// The bytes of a file. Copies share what neither has changed; holes take no space.
#[derive(Clone, Debug, Default)]
pub struct Image {
    len: u64,
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

/// The pieces of `offset..offset + len` within chunks: chunk number, start in it, length.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (chunk, start) = (at / CHUNK, at % CHUNK);
            let n = (CHUNK - start).min(end - at);
            at += n;
            (chunk, start as usize, n as usize)
        })
    })
}

impl Image {
    /// A hole of `len` bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len, chunks: BTreeMap::new() }
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are not in holes, in units of 4 KiB.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK
    }

    /// Writes `bytes`; the image grows where they lie beyond its end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        for (chunk, start, n) in pieces(offset, bytes.len() as u64) {
            let entry = self.chunks.entry(chunk).or_insert_with(|| Arc::new([0; CHUNK as usize]));
            Arc::make_mut(entry)[start..start + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
        if !bytes.is_empty() {
            self.grow(offset + bytes.len() as u64);
        }
    }

    /// Zeros the part of the range within the image; whole chunks become holes.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let (first, last) = (offset / CHUNK, (end - 1) / CHUNK);
        let touched: Vec<u64> = self.chunks.range(first..=last).map(|(chunk, _)| *chunk).collect();
        for chunk in touched {
            let base = chunk * CHUNK;
            let (from, to) = (offset.max(base) - base, end.min(base + CHUNK) - base);
            if from == 0 && (to == CHUNK || base + to == self.len) {
                self.chunks.remove(&chunk);
            } else if let Some(entry) = self.chunks.get_mut(&chunk) {
                Arc::make_mut(entry)[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Sets the length: what is cut off is gone, what is added reads as zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    /// Makes the image at least `len` bytes long.
    pub fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Fills `bytes`; what lies beyond the end reads as zeros.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let mut done = 0;
        for (chunk, start, n) in pieces(offset, bytes.len() as u64) {
            let out = &mut bytes[done..done + n];
            match self.chunks.get(&chunk) {
                Some(data) => out.copy_from_slice(&data[start..start + n]),
                None => out.fill(0),
            }
            done += n;
        }
    }

    /// All bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }
}

impl From<&[u8]> for Image {
    fn from(bytes: &[u8]) -> Self {
        let mut image = Self::new(bytes.len() as u64);
        image.write(0, bytes);
        image
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        let zeros = [0; CHUNK as usize];
        let differs = |a: &Self, b: &Self| {
            a.chunks.iter().any(|(n, data)| match b.chunks.get(n) {
                Some(same) if Arc::ptr_eq(data, same) => false,
                found => **data != *found.map_or(&zeros, |c| &**c),
            })
        };
        self.len == other.len && !differs(self, other) && !differs(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vector_of_bytes() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut image, mut model) = (Image::default(), Vec::new());
        for step in 0..2000u32 {
            let (at, n) = (rng.usize(0..20_000), rng.usize(0..9000));
            match rng.u8(0..4) {
                0 | 1 => {
                    let bytes = vec![step as u8 | 1; n];
                    image.write(at as u64, &bytes);
                    if n > 0 {
                        model.resize(model.len().max(at + n), 0);
                        model[at..at + n].copy_from_slice(&bytes);
                    }
                }
                2 => {
                    image.zero(at as u64, n as u64);
                    let (from, to) = (at.min(model.len()), (at + n).min(model.len()));
                    model[from..to].fill(0);
                }
                _ => {
                    image.set_len(at as u64);
                    model.resize(at, 0);
                }
            }
            assert_eq!(image.to_vec(), model, "seed {seed}, step {step}");
            assert!(image == Image::from(&*model), "seed {seed}, step {step}");
        }
    }

    #[test]
    fn copies_are_independent_and_holes_take_no_space() {
        let mut image = Image::from(&[1; 8192][..]);
        let copy = image.clone();
        image.zero(0, 4096);
        assert_eq!((image.allocated(), copy.allocated()), (4096, 8192));
        assert_eq!(copy.to_vec(), [1; 8192]);
        assert!(image != copy);
    }
}
