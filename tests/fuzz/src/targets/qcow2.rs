//! qcow2 headers, and images with damaged tables that are used all the same.

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use spindle_block::{
    Cx, Io, IoBuf, Node, Op, Range,
    formats::Secret,
    luks::LuksOptions,
    nodes::file::FileNode,
    qcow2::{
        Encrypt, Header, Options,
        check::{Repair, check},
        create::{CreateOptions, create},
        open,
    },
    ring::sim::World,
    submit::node_io,
};

/// A sound image, and where its tables are: start and length.
struct Sound {
    bytes: Vec<u8>,
    tables: Vec<(usize, usize)>,
}

/// Small images of several shapes, with data and zeros in them.
fn images() -> &'static [Sound] {
    static IMAGES: OnceLock<Vec<Sound>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let shapes = [(9, 3, false), (12, 3, false), (12, 2, false), (16, 3, true), (14, 3, false)];
        let plain = shapes.into_iter().map(|(bits, version, lazy)| make(bits, version, lazy, None));
        let luks = LuksOptions {
            cipher_alg: "aes-128".to_owned(),
            cipher_mode: "cbc".to_owned(),
            iter_time_ms: 0,
            ..LuksOptions::new(0, secret())
        };
        let encrypted = [
            make(12, 3, false, Some(Encrypt::Aes(secret()))),
            make(12, 3, false, Some(Encrypt::Luks(luks))),
        ];
        plain.chain(encrypted).collect()
    })
}

fn secret() -> Secret {
    Secret::new(b"word")
}

fn options() -> Options {
    Options { secret: Some(secret()), ..Options::default() }
}

fn make(cluster_bits: u32, version: u32, lazy_refcounts: bool, encrypt: Option<Encrypt>) -> Sound {
    let world = World::new(1);
    let file = world.create_file("image", &[], 0);
    let cx = world.iothread("make").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&file), 0, 1, false);
    let task_cx = Cx::clone(&cx);
    cx.block_on(async move {
        let cx = task_cx;
        let options = CreateOptions {
            cluster_size: 1 << cluster_bits,
            version,
            lazy_refcounts,
            // Those of 16 KiB are made of subclusters.
            extended_l2: cluster_bits == 14,
            encrypt,
            ..CreateOptions::new(1 << 20)
        };
        create(&cx, &node, &options).await.expect("an image");
        let image = open(&cx, node, None, self::options()).await.expect("a sound image");
        let image: Arc<dyn Node> = image;
        for n in 0..6u64 {
            let data = IoBuf::from_slice(&[n as u8 + 1; 9 << 10]);
            node_io(&cx, &image, Io::write(n * (60 << 10), data)).await.1.expect("a write");
        }
        let zero = Op::WriteZeroes { unmap: false, fua: false };
        let zeroed = Io::bare(zero, Range::new(60 << 10, 4 << 10));
        node_io(&cx, &image, zeroed).await.1.expect("zeroes");
        Arc::clone(&image).close(cx).await.expect("a close");
    });
    let bytes = world.contents(&file).to_vec();
    let tables = tables(&bytes);
    Sound { bytes, tables }
}

fn tables(bytes: &[u8]) -> Vec<(usize, usize)> {
    let header = Header::parse(bytes).expect("a sound header");
    let entry = |at: usize| {
        let raw = bytes[at..at + 8].try_into().expect("8 bytes");
        (u64::from_be_bytes(raw) & 0x00ff_ffff_ffff_fe00) as usize
    };
    let (l1, refs) = (header.l1_offset as usize, header.reftable_offset as usize);
    let cluster = 1 << header.cluster_bits;
    let mut tables = vec![(0, 112)];
    if let Some(place) = header.encryption_header().expect("a sound header") {
        // The extension, and the LUKS header without its iterations: they only take time.
        let luks = place.offset as usize;
        let own = bytes.windows(4).position(|w| w == [0x05, 0x37, 0xbe, 0x77]);
        let parts = [(0, 164), (168, 44), (216, 376)].map(|(at, len)| (luks + at, len));
        tables.push((own.expect("an extension"), 24));
        tables.extend(parts);
    }
    tables.extend([
        (l1, 8 * header.l1_size as usize),
        (entry(l1), cluster.min(1024)),
        (refs, 16),
        (entry(refs), cluster.min(512)),
    ]);
    tables
}

pub(super) fn header_seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        images().iter().map(|image| image.bytes[..image.bytes.len().min(512)].to_vec()).collect();
    let mut header = Header::parse(&images()[1].bytes).expect("a sound header");
    header.backing_file = Some("base.raw".to_owned());
    header.set_backing_format("raw");
    all.push(header.to_bytes().expect("it fits"));
    all
}

/// A header parses or not; what parses, and can be made, is made and parses again to the same.
pub(super) fn header(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    let _ = (header.supported(), header.backing_format(), header.bitmaps());
    let Ok(bytes) = header.to_bytes() else { return };
    let again = Header::parse(&bytes).expect("what was made is sound");
    assert_eq!((again.size, again.l1_offset), (header.size, header.l1_offset));
    assert_eq!(again.backing_file, header.backing_file);
    assert_eq!(again.incompatible, header.incompatible);
}

pub(super) fn image_seeds() -> Vec<Vec<u8>> {
    super::programs()
}

/// Damages an image, uses it, and repairs it. No panic, no hang; and what a repair calls clean is so.
pub(super) fn image(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(bytes) = damaged(&mut u) else { return };
    let world = World::new(1);
    let len = bytes.len() as u64;
    let file = world.create_file("image", &bytes, len);
    let cx = world.iothread("use").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(file, len, *u.choose(&[1, 512]).unwrap_or(&1), false);
    let (task_cx, program) = (Cx::clone(&cx), u.take_rest().to_vec());
    cx.block_on(async move {
        let cx = task_cx;
        let _ = check(&cx, &node, Repair::None).await;
        if let Ok(image) = open(&cx, Arc::clone(&node), None, options()).await {
            let image: Arc<dyn Node> = image;
            let mut u = Unstructured::new(&program);
            let mut steps = 0;
            while !u.is_empty() && steps < 40 && step(&cx, &image, &mut u).await.is_ok() {
                steps += 1;
            }
            let _ = Arc::clone(&image).close(Cx::clone(&cx)).await;
        }
        if let Ok(repaired) = check(&cx, &node, Repair::All).await
            && repaired.corruptions == 0
            && repaired.leaks == 0
            && repaired.check_errors == 0
        {
            let again = check(&cx, &node, Repair::None).await.expect("a repaired image");
            assert!(again.is_clean(), "repaired: {repaired:?}\nagain: {again:?}");
        }
    });
}

fn damaged(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let sound = u.choose(images())?;
    let mut bytes = sound.bytes.clone();
    for _ in 0..u.int_in_range(0..=5u8)? {
        let (start, len) = *u.choose(&sound.tables)?;
        let at = start + u.choose_index(len)?;
        match u.int_in_range(0..=3u8)? {
            0 => bytes[at] = u.arbitrary()?,
            1 => bytes[at] = 0,
            2 => {
                // An entry becomes another's.
                let from = start + u.choose_index(len)? / 8 * 8;
                let to = at / 8 * 8;
                if from + 8 <= bytes.len() && to + 8 <= bytes.len() {
                    bytes.copy_within(from..from + 8, to);
                }
            }
            _ => bytes[at] ^= 1 << u.int_in_range(0..=7u8)?,
        }
    }
    if u.ratio(1, 8u8)? {
        bytes.truncate(u.choose_index(bytes.len())? + 1);
    }
    Ok(bytes)
}

async fn step(cx: &Cx, image: &Arc<dyn Node>, u: &mut Unstructured<'_>) -> Result<()> {
    let size = image.info().size;
    let offset = u.int_in_range(0..=1023u64)? << 10;
    let len = (u.int_in_range(1..=24u64)? << 10).min(size.saturating_sub(offset));
    let kind = u.int_in_range(0..=8u8)?;
    if len == 0 && kind < 6 {
        return Ok(());
    }
    let range = Range::new(offset, len);
    let io = match kind {
        0 | 1 => Io::read(offset, IoBuf::zeroed(len as usize)),
        2 | 3 => Io::write(offset, IoBuf::from_slice(&vec![7; len as usize])),
        4 => Io::bare(Op::Discard, range),
        5 => Io::bare(Op::WriteZeroes { unmap: u.arbitrary()?, fua: false }, range),
        6 => Io::flush(),
        7 => {
            let _ = Arc::clone(image).extent(Cx::clone(cx), Range::new(0, size.max(1))).await;
            return Ok(());
        }
        _ => {
            let _ = Arc::clone(image).resize(Cx::clone(cx), size.saturating_add(64 << 10)).await;
            return Ok(());
        }
    };
    let _ = node_io(cx, image, io).await;
    Ok(())
}
