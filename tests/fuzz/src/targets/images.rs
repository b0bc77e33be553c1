//! Images of the other formats: damaged, opened and used all the same.

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use spindle_block::{
    Cx, Io, IoBuf, Node, Op, Range,
    formats::{
        Alone, CreateOptions, ImageFormat, Request, Secret, check, create, facts, open, repair,
    },
    luks::{self, LuksOptions},
    nodes::file::FileNode,
    ring::sim::World,
    submit::node_io,
    vmdk::{self, VmdkOptions},
};

struct NoFiles;

impl vmdk::Make for NoFiles {
    fn make(&self, name: &str) -> std::result::Result<Arc<dyn Node>, String> {
        Err(format!("no file {name}"))
    }
}

const SIZE: u64 = 4 << 20;

/// A sound image with some data, and the bytes of it that say something.
struct Sound {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

fn secret() -> Secret {
    Secret::new(b"word")
}

fn request(node: Arc<dyn Node>) -> Request<'static> {
    Request { read_only: false, secret: Some(secret()), ..Request::read(node, &Alone) }
}

fn make(format: ImageFormat) -> Sound {
    let world = World::new(1);
    let file = world.create_file("image", &[], 0);
    let cx = world.iothread("make").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&file), 0, 1, false);
    let task = Cx::clone(&cx);
    cx.block_on(async move {
        let cx = task;
        let plain = CreateOptions { size: SIZE, ..CreateOptions::default() };
        let made = match format {
            ImageFormat::Vmdk => {
                vmdk::create(&cx, &node, "image.vmdk", &VmdkOptions::new(SIZE), &NoFiles).await
            }
            ImageFormat::Luks => {
                let options = LuksOptions { iter_time_ms: 0, ..LuksOptions::new(SIZE, secret()) };
                luks::create(&cx, &node, &options).await
            }
            _ => create(&cx, format, &node, &plain).await,
        };
        made.expect("an image");
        let image = open(&cx, format, request(node)).await.expect("a sound image");
        for n in 0..3u64 {
            let data = IoBuf::from_slice(&[n as u8 + 1; 4096]);
            node_io(&cx, &image, Io::write(n << 20, data)).await.1.expect("a write");
        }
        image.close(cx).await.expect("a close");
    });
    let bytes = world.contents(&file).to_vec();
    let says = |at: &usize| !matches!(bytes[*at], 0..=3);
    let mut places: Vec<usize> = (0..bytes.len()).filter(says).collect();
    places.truncate(1 << 16);
    Sound { bytes, places }
}

/// The image of a format, made once.
fn sound(format: ImageFormat) -> &'static Sound {
    static IMAGES: OnceLock<Vec<(ImageFormat, OnceLock<Sound>)>> = OnceLock::new();
    let images = IMAGES
        .get_or_init(|| ImageFormat::ALL.iter().map(|format| (*format, OnceLock::new())).collect());
    let slot = images.iter().find(|(of, _)| *of == format).expect("every format has one");
    slot.1.get_or_init(|| make(format))
}

fn damaged(format: ImageFormat, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let sound = sound(format);
    let mut bytes = sound.bytes.clone();
    for _ in 0..u.int_in_range(0..=5u8)? {
        let at = if u.arbitrary()? {
            u.choose_index(bytes.len().min(1024))?
        } else {
            *u.choose(&sound.places)?
        };
        match u.int_in_range(0..=3u8)? {
            0 => bytes[at] = u.arbitrary()?,
            1 => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
            2 => bytes[at] = 0,
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
    let offset = u.int_in_range(0..=1023u64)? << 12;
    let len = (u.int_in_range(1..=24u64)? << 10).min(size.saturating_sub(offset));
    let kind = u.int_in_range(0..=6u8)?;
    if len == 0 {
        return Ok(());
    }
    let range = Range::new(offset, len);
    let io = match kind {
        0 | 1 => Io::read(offset, IoBuf::zeroed(len as usize)),
        2 => Io::write(offset, IoBuf::from_slice(&vec![7; len as usize])),
        3 => Io::bare(Op::Discard, range),
        4 => Io::bare(Op::WriteZeroes { unmap: u.arbitrary()?, fua: false }, range),
        5 => Io::flush(),
        _ => {
            let _ = Arc::clone(image).extent(Cx::clone(cx), range).await;
            return Ok(());
        }
    };
    let _ = node_io(cx, image, io).await;
    Ok(())
}

/// Opens a damaged image and uses it: no panic, no hang.
fn attack(format: ImageFormat, data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(bytes) = damaged(format, &mut u) else { return };
    let world = World::new(1);
    let len = bytes.len() as u64;
    let file = world.create_file("image", &bytes, len);
    let cx = world.iothread("use").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(file, len, *u.choose(&[1, 512]).unwrap_or(&1), false);
    let (task, program) = (Cx::clone(&cx), u.take_rest().to_vec());
    cx.block_on(async move {
        let cx = task;
        let _ = facts(&cx, format, &node, &Alone).await;
        let _ = check(&cx, format, &node, &Alone).await;
        if let Ok(image) = open(&cx, format, request(Arc::clone(&node))).await {
            let mut u = Unstructured::new(&program);
            let mut steps = 0;
            while !u.is_empty() && steps < 30 && step(&cx, &image, &mut u).await.is_ok() {
                steps += 1;
            }
            let _ = image.close(Cx::clone(&cx)).await;
        }
        let _ = repair(&cx, format, &node, &Alone).await;
    });
}

/// Bytes that are an image from the first to the last.
fn whole(format: ImageFormat, data: &[u8]) {
    let world = World::new(1);
    let file = world.create_file("image", data, data.len() as u64);
    let cx = world.iothread("use").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(file, data.len() as u64, 1, true);
    let task = Cx::clone(&cx);
    cx.block_on(async move {
        let cx = task;
        let _ = facts(&cx, format, &node, &Alone).await;
        let Ok(image) = open(&cx, format, Request::read(node, &Alone)).await else { return };
        let len = image.info().size.min(8192) as usize;
        let _ = node_io(&cx, &image, Io::read(0, IoBuf::zeroed(len))).await;
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

pub(super) fn vmdk(data: &[u8]) {
    attack(ImageFormat::Vmdk, data);
}

pub(super) fn vdi(data: &[u8]) {
    attack(ImageFormat::Vdi, data);
}

pub(super) fn vpc(data: &[u8]) {
    attack(ImageFormat::Vpc, data);
}

pub(super) fn vhdx(data: &[u8]) {
    attack(ImageFormat::Vhdx, data);
}

pub(super) fn parallels(data: &[u8]) {
    attack(ImageFormat::Parallels, data);
}

pub(super) fn qed(data: &[u8]) {
    attack(ImageFormat::Qed, data);
}

pub(super) fn luks(data: &[u8]) {
    attack(ImageFormat::Luks, data);
}

/// A header of this format, of a disk without data.
fn header(fields: &[(usize, &[u8])], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, value) in fields {
        bytes[*at..at + value.len()].copy_from_slice(value);
    }
    bytes
}

pub(super) fn qcow_seeds() -> Vec<Vec<u8>> {
    let fields: &[(usize, &[u8])] = &[
        (0, b"QFI\xfb\0\0\0\x01"),
        (24, &(1_u64 << 20).to_be_bytes()),
        (32, &[12, 9]),
        (40, &48_u64.to_be_bytes()),
        (48, &512_u64.to_be_bytes()),
    ];
    vec![header(fields, 6144)]
}

pub(super) fn qcow(data: &[u8]) {
    whole(ImageFormat::Qcow, data);
}

pub(super) fn bochs_seeds() -> Vec<Vec<u8>> {
    let fields: &[(usize, &[u8])] = &[
        (0, b"Bochs Virtual HD Image"),
        (32, b"Redolog"),
        (48, b"Growing"),
        (64, &0x0002_0000_u32.to_le_bytes()),
        (68, &512_u32.to_le_bytes()),
        (72, &4_u32.to_le_bytes()),
        (76, &1_u32.to_le_bytes()),
        (80, &4096_u32.to_le_bytes()),
        (88, &16384_u64.to_le_bytes()),
    ];
    vec![header(fields, 6144)]
}

pub(super) fn bochs(data: &[u8]) {
    whole(ImageFormat::Bochs, data);
}

pub(super) fn cloop_seeds() -> Vec<Vec<u8>> {
    let script =
        "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    let fields: &[(usize, &[u8])] = &[
        (0, script.as_bytes()),
        (128, &4096_u32.to_be_bytes()),
        (132, &1_u32.to_be_bytes()),
        (136, &152_u64.to_be_bytes()),
        (144, &200_u64.to_be_bytes()),
    ];
    vec![header(fields, 512)]
}

pub(super) fn cloop(data: &[u8]) {
    whole(ImageFormat::Cloop, data);
}

pub(super) fn dmg_seeds() -> Vec<Vec<u8>> {
    // A table with one chunk of zeros: "mish", one sector, one chunk.
    let table = "bWlzaAAAAAEAAAAAAAAAAAAAAAAAAAAB".to_owned() + &"AAAA".repeat(60);
    let list = format!("<plist><data>{table}</data></plist>");
    let mut image = list.clone().into_bytes();
    image.resize(512, b' ');
    let trailer: &[(usize, &[u8])] =
        &[(0, b"koly\0\0\0\x04"), (0xe0, &(list.len() as u64).to_be_bytes())];
    image.extend(header(trailer, 512));
    vec![image]
}

pub(super) fn dmg(data: &[u8]) {
    whole(ImageFormat::Dmg, data);
}
