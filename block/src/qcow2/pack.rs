//! Writing compressed clusters: packing, and placing what was packed byte by byte.
//!
//! Packed data does not fill clusters: the pieces of several guest clusters share host clusters,
//! and a piece may lie across the border of two neighbours. Every piece holds one reference to each
//! host cluster that it touches. The order is that of every write: refcounts rise in memory, data
//! is written, entries are published, what they replaced goes to the limbo.

use std::sync::Mutex;

use super::{
    Qcow2,
    alloc::Run,
    header::Compression,
    layout::{COMPRESSED, Raw},
    sync::{Semaphore, lock},
};
use crate::{BlockError, Cx, IoBuf, Pin, Range, deflate::Encoder};

/// What zstd calls its default.
const ZSTD_LEVEL: i32 = 3;

/// Packs clusters. Costs memory: one for each thread that packs.
pub struct ClusterPacker(Method, Vec<u8>);

enum Method {
    Zlib(Box<Encoder>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl ClusterPacker {
    /// A packer for images with this compression.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn new(compression: Compression) -> Result<Self, BlockError> {
        let method = match compression {
            // Its window is what readers are prepared for (docs/interop/qcow2.txt, "Compressed
            // Clusters Descriptor").
            Compression::Zlib => Method::Zlib(Box::default()),
            Compression::Zstd => {
                let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL);
                Method::Zstd(zstd.map_err(|_| BlockError::NoMemory)?)
            }
        };
        Ok(Self(method, Vec::new()))
    }

    /// The packed form of a whole cluster; `None` where that is no shorter.
    #[must_use]
    pub fn pack(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        let room = cluster.len().checked_sub(1)?;
        self.1.resize(room, 0);
        let packed = &mut self.1[..room];
        let len = match &mut self.0 {
            Method::Zlib(encoder) => encoder.encode(cluster, packed)?,
            Method::Zstd(zstd) => zstd.compress_to_buffer(cluster, packed).ok()?,
        };
        // As long as it is: many of these wait for their turn to be written.
        (len > 0).then(|| self.1[..len].to_vec())
    }
}

/// A guest cluster in packed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedCluster {
    /// Where the cluster begins on the disk, in bytes.
    pub offset: u64,
    /// What [`ClusterPacker::pack`] made of it.
    pub bytes: Vec<u8>,
}

/// Host space that packed data is put into: `at..end` is free.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    at: u64,
    end: u64,
    /// Clusters from here to the end are taken, but hold nothing yet.
    unused: u64,
    /// The cluster that `at` lies within, if it is in use: it has a reference of ours, for those that
    /// hold the pieces in it may give it up.
    kept: Option<u64>,
}

/// Where the next packed data goes.
#[derive(Debug)]
pub(super) struct Packing {
    tail: Mutex<Tail>,
    turn: Semaphore,
}

impl Default for Packing {
    fn default() -> Self {
        Self { tail: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Qcow2 {
    /// Bytes in a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.layout.cluster()
    }

    /// Width of a refcount in bits.
    #[must_use]
    pub fn refcount_bits(&self) -> u32 {
        self.layout.refs.bits()
    }

    /// Whether the image is one of version 2 (`compat=0.10`).
    #[must_use]
    pub fn is_version_2(&self) -> bool {
        self.layout.version == 2
    }

    /// How the image's compressed clusters are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.unpacker.compression()
    }

    /// Writes compressed clusters. A cluster that lies across the end of the disk is packed whole,
    /// with zeros behind the end.
    ///
    /// # Errors
    /// As for any write; [`BlockError::Unsupported`] where guest data is in a file of its own or
    /// encrypted, [`BlockError::Misaligned`] for what is no cluster, or is not shorter than one.
    pub async fn write_compressed(
        &self,
        cx: &Cx,
        clusters: &[PackedCluster],
    ) -> Result<(), BlockError> {
        self.check_writable()?;
        if self.has_data_file() || self.crypt.is_some() {
            return Err(BlockError::Unsupported);
        }
        for one in clusters {
            self.record(cx, Range::new(one.offset, self.layout.cluster())).await?;
        }
        let size = self.size.load(std::sync::atomic::Ordering::SeqCst);
        for one in clusters {
            let fits = !one.bytes.is_empty() && (one.bytes.len() as u64) < self.layout.cluster();
            if !self.layout.is_cluster_offset(one.offset) || !fits {
                return Err(BlockError::Misaligned);
            }
            if one.offset >= size {
                return Err(BlockError::OutOfRange);
            }
        }
        let places = self.place(cx, clusters).await?;
        let mut written = self.write_packed(cx, clusters, &places).await;
        let mut done = 0;
        while written.is_ok() && done < places.len() {
            written = self.publish_packed(cx, &clusters[done], places[done]).await;
            done += usize::from(written.is_ok());
        }
        if written.is_err() {
            // Nothing points to these pieces.
            let lost: Vec<(u64, u64)> =
                places[done..].iter().map(|p| self.clusters_at(*p)).collect();
            self.free(cx, &lost).await;
        }
        self.relieve_limbo(cx).await.and(written)
    }

    fn clusters_at(&self, place: Range) -> (u64, u64) {
        let clusters = self.layout.clusters_of(place);
        (clusters.start, clusters.end - clusters.start)
    }

    /// Finds room for each piece and raises the refcounts.
    async fn place(&self, cx: &Cx, clusters: &[PackedCluster]) -> Result<Vec<Range>, BlockError> {
        let _turn = self.packing.turn.take(1).await;
        let mut left: u64 = clusters.iter().map(|one| one.bytes.len() as u64).sum();
        let mut places = Vec::with_capacity(clusters.len());
        let mut failed = Ok(());
        for one in clusters {
            let len = one.bytes.len() as u64;
            match self.place_one(cx, len, left).await {
                Ok(place) => places.push(place),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
            left -= len;
        }
        if let Err(error) = failed {
            let lost: Vec<(u64, u64)> = places.iter().map(|p| self.clusters_at(*p)).collect();
            self.abandon_tail(cx).await;
            self.free(cx, &lost).await;
            return Err(error);
        }
        Ok(places)
    }

    async fn place_one(&self, cx: &Cx, len: u64, wanted: u64) -> Result<Range, BlockError> {
        let bits = self.layout.cluster_bits;
        loop {
            let tail = *lock(&self.packing.tail);
            let room = tail.end - tail.at;
            if room < len {
                let more = (wanted.max(len) - room).div_ceil(self.layout.cluster());
                let run = self.alloc.take(cx, &self.host, more).await?;
                self.extend_tail(cx, run).await;
                continue;
            }
            let place = Range::new(tail.at, len);
            if self.refer_to(cx, place, tail.unused).await? {
                {
                    let mut now = lock(&self.packing.tail);
                    now.at += len;
                    now.unused = now.unused.max(place.end().div_ceil(1 << bits));
                }
                self.keep_tail(cx).await?;
                return Ok(place);
            }
            // A refcount is at its end: the rest of that cluster stays empty.
            let mut now = lock(&self.packing.tail);
            now.at = (tail.at + 1).next_multiple_of(1 << bits).min(now.end);
        }
    }

    /// Holds the cluster that the next piece begins in, and lets go of the one before.
    async fn keep_tail(&self, cx: &Cx) -> Result<(), BlockError> {
        let bits = self.layout.cluster_bits;
        let tail = *lock(&self.packing.tail);
        let within = !self.layout.is_cluster_offset(tail.at);
        let mut kept = within.then_some(tail.at >> bits);
        if kept == tail.kept {
            return Ok(());
        }
        if let Some(cluster) = kept
            && !self.alloc.raise(cx, &self.host, cluster).await?
        {
            // It cannot be held: the rest of it stays empty.
            lock(&self.packing.tail).at = ((cluster + 1) << bits).min(tail.end);
            kept = None;
        }
        lock(&self.packing.tail).kept = kept;
        if let Some(before) = tail.kept {
            self.free(cx, &[(before, 1)]).await;
        }
        Ok(())
    }

    /// Takes a reference to every cluster of `place`; from `unused` on, the one that came with the
    /// allocation. `false` where a refcount cannot rise.
    async fn refer_to(&self, cx: &Cx, place: Range, unused: u64) -> Result<bool, BlockError> {
        let clusters = self.layout.clusters_of(place);
        for cluster in clusters.start..clusters.end.min(unused) {
            // Only the first cluster of a piece can be in use already.
            if !self.alloc.raise(cx, &self.host, cluster).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn extend_tail(&self, cx: &Cx, run: Run) {
        let bits = self.layout.cluster_bits;
        let (start, end) = (run.start << bits, (run.start + run.len) << bits);
        let joined = {
            let mut tail = lock(&self.packing.tail);
            let joined = tail.end == start && tail.end != 0;
            if joined {
                tail.end = end;
            }
            joined
        };
        if !joined {
            self.abandon_tail(cx).await;
            *lock(&self.packing.tail) = Tail { at: start, end, unused: run.start, kept: None };
        }
    }

    /// Gives back what was taken and holds nothing.
    pub(super) async fn abandon_tail(&self, cx: &Cx) {
        let tail = std::mem::take(&mut *lock(&self.packing.tail));
        let end = tail.end >> self.layout.cluster_bits;
        if tail.unused < end {
            let run = Run { start: tail.unused, len: end - tail.unused, zeroed: false };
            self.alloc.give_back(cx, &self.host, run).await;
        }
        if let Some(cluster) = tail.kept {
            self.free(cx, &[(cluster, 1)]).await;
        }
    }

    /// Writes the pieces, neighbours in one go.
    async fn write_packed(
        &self,
        cx: &Cx,
        clusters: &[PackedCluster],
        places: &[Range],
    ) -> Result<(), BlockError> {
        let mut from = 0;
        while from < places.len() {
            let mut to = from + 1;
            while to < places.len() && places[to].offset == places[to - 1].end() {
                to += 1;
            }
            let whole: Vec<u8> =
                clusters[from..to].iter().flat_map(|one| one.bytes.iter().copied()).collect();
            let start = places[from].offset;
            self.unpacker.forget(Range::new(start, whole.len() as u64));
            self.host.write(cx, start, IoBuf::from_slice(&whole), Pin::NONE).await?;
            from = to;
        }
        Ok(())
    }

    async fn publish_packed(
        &self,
        cx: &Cx,
        one: &PackedCluster,
        place: Range,
    ) -> Result<(), BlockError> {
        let cluster = self.layout.guest_cluster(one.offset);
        let _held = self.clusters.lock(cluster, cluster).await;
        let old = self.entries(cx, cluster, cluster).await?;
        self.own_table(cx, cluster).await?;
        let number = self.publish(cx, cluster, &[Raw::plain(self.packed_entry(place))]).await?;
        if let Some(freed) = old.first().and_then(|raw| self.references(raw.word)) {
            self.limbo.push(number, freed);
        }
        Ok(())
    }

    /// The entry of compressed data at `place`.
    fn packed_entry(&self, place: Range) -> u64 {
        const SECTOR_BITS: u32 = 9;
        let sectors = ((place.end() - 1) >> SECTOR_BITS) - (place.offset >> SECTOR_BITS);
        COMPRESSED | sectors << (62 - (self.layout.cluster_bits - 8)) | place.offset
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Node,
        nodes::{
            file::{FileNode, FileOptions},
            testing::{close, on_ring, read, write},
        },
        qcow2::{
            check::{Repair, check},
            create::{CreateOptions, create},
            open,
        },
    };

    /// A cluster of words that pack well, all different by `seed`.
    fn words(seed: u64, len: usize) -> Vec<u8> {
        (0..).flat_map(|n: u64| format!("{seed}:{n};").into_bytes()).take(len).collect()
    }

    #[test]
    fn packed_clusters_unpack_to_what_they_were() {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let mut packer = ClusterPacker::new(compression).expect("a packer");
            for seed in 0..3 {
                let packed = packer.pack(&words(seed, 65536)).expect("it packs");
                let unpacked = super::super::compressed::unpack(compression, &packed, 65536);
                assert_eq!(unpacked, Some(words(seed, 65536)));
            }
            let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(4096).collect();
            assert_eq!(packer.pack(&noise), None);
            assert_eq!(packer.pack(&[]), None);
        }
    }

    #[test]
    fn compressed_writes_share_clusters_and_leave_no_leaks() {
        for (cluster_size, compression) in
            [(512, Compression::Zlib), (4096, Compression::Zstd), (65536, Compression::Zlib)]
        {
            let temp = tempfile::NamedTempFile::new().expect("a temporary file");
            let path = temp.path().to_path_buf();
            on_ring(async move |cx| {
                let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
                let size = 40 * cluster_size;
                let options =
                    CreateOptions { cluster_size, compression, ..CreateOptions::new(size) };
                create(&cx, &file, &options).await.expect("create");
                let image = open(&cx, Arc::clone(&file), None, Default::default()).await;
                let image = image.expect("open");
                let mut packer = ClusterPacker::new(compression).expect("a packer");
                let mut packed = |n: u64, seed: u64| PackedCluster {
                    offset: n * cluster_size,
                    bytes: packer.pack(&words(seed, cluster_size as usize)).expect("it packs"),
                };
                let first: Vec<_> = (0..16).map(|n| packed(n, n)).collect();
                image.write_compressed(&cx, &first).await.expect("write");
                let again: Vec<_> = [3, 4, 20].map(|n| packed(n, n + 100)).into();
                image.write_compressed(&cx, &again).await.expect("write");
                let beyond = packed(40, 1);
                let refused = image.write_compressed(&cx, &[beyond]).await;
                assert_eq!(refused, Err(BlockError::OutOfRange));
                let node: Arc<dyn Node> = Arc::clone(&image) as _;
                let plain = vec![9; cluster_size as usize];
                write(&cx, &node, 5 * cluster_size, &plain).await.expect("write");
                for n in 0..40 {
                    let wanted = match n {
                        5 => plain.clone(),
                        3 | 4 | 20 => words(n + 100, cluster_size as usize),
                        0..16 => words(n, cluster_size as usize),
                        _ => vec![0; cluster_size as usize],
                    };
                    let bytes = read(&cx, &node, n * cluster_size, cluster_size as usize).await;
                    assert_eq!(bytes.expect("read"), wanted, "cluster {n} of {cluster_size}");
                }
                close(&cx, &node).await;
                let found = check(&cx, &file, Repair::None).await.expect("check");
                assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
                assert_eq!(found.compressed_clusters, 16);
                close(&cx, &file).await;
            });
        }
    }
}
