//! Formats that are only read: images that QEMU makes (qcow) or that are made here by hand.

use std::io::Write;

use super::*;
use crate::{
    conformance::close_all,
    formats::{Alone, Secret, facts},
    nodes::testing::{on_ring, read},
};

fn reads_as(format: ImageFormat, path: &Path, expected: Vec<u8>, backing: Option<PathBuf>) {
    let path = path.to_owned();
    on_ring(move |cx| async move {
        let writable = open_on_host(&cx, format, &path, None, false).await;
        assert!(writable.err().expect("it is only read").contains("only read"));
        let lower = backing.map(|path| host_file(&path, true).expect("the base"));
        let disk = open_on_host(&cx, format, &path, lower, true).await.expect("open");
        assert_eq!(disk.info().size, expected.len() as u64);
        for at in (0..expected.len()).step_by(300 << 10) {
            let len = (expected.len() - at).min(300 << 10);
            let bytes = read(&cx, &disk, at as u64, len).await.expect("read");
            assert!(bytes == expected[at..at + len], "{} at {at}", format.name());
        }
        close_all(Cx::clone(&cx), disk).await.expect("close");
    });
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        // Runs, so that it can be compressed, and zeros among them.
        let (value, run) = (rng.u8(0..5), rng.usize(1..6000));
        bytes.resize((bytes.len() + run).min(len), value);
    }
    bytes
}

/// QEMU reads the image as we do.
fn qemu_agrees(format: ImageFormat, path: &Path, expected: &[u8]) {
    let raw = path.with_extension("raw");
    qemu("qemu-img", &["convert", "-f", format.name(), "-O", "raw", text(path), text(&raw)]);
    assert!(std::fs::read(&raw).expect("the bytes") == expected, "QEMU reads otherwise");
}

/// An image with compressed clusters among others, and what it reads as.
fn compressed_qcow(path: &Path) -> Vec<u8> {
    qemu("qemu-img", &["create", "-q", "-f", "qcow", text(path), "1M"]);
    let commands = ["write -c -P 7 0 4096", "write -c -P 8 8192 4096", "write -P 9 12288 9000"];
    for command in commands {
        qemu("qemu-io", &["-f", "qcow", "-c", command, text(path)]);
    }
    let mut expected = vec![0; 1 << 20];
    expected[..4096].fill(7);
    expected[8192..12288].fill(8);
    expected[12288..21288].fill(9);
    expected
}

#[test]
fn qcow_images_of_qemu_are_read() {
    let dir = directory();
    let (raw, plain, packed) =
        (dir.path().join("raw"), dir.path().join("plain"), dir.path().join("packed"));
    let bytes = pattern((3 << 20) + 512, 1);
    std::fs::write(&raw, &bytes).expect("the bytes");
    qemu("qemu-img", &["convert", "-f", "raw", "-O", "qcow", text(&raw), text(&plain)]);
    reads_as(ImageFormat::Qcow, &plain, bytes.clone(), None);
    let expected = compressed_qcow(&packed);
    reads_as(ImageFormat::Qcow, &packed, expected, None);
    let top = dir.path().join("top");
    qemu("qemu-img", &["create", "-q", "-f", "qcow", "-b", text(&raw), "-F", "raw", text(&top)]);
    qemu("qemu-io", &["-f", "qcow", "-c", "write -P 9 70000 90000", text(&top)]);
    let mut above = bytes;
    above[70000..160_000].fill(9);
    reads_as(ImageFormat::Qcow, &top, above, Some(raw));
}

#[test]
fn encrypted_qcow_images_of_qemu_are_read() {
    let dir = directory();
    let path = dir.path().join("image");
    let object = "secret,id=s,data=correct horse battery";
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = ["create", "-q", "--object", object, "-f", "qcow", "-o", options];
    qemu("qemu-img", &[&args[..], &[text(&path), "1M"]].concat());
    let image = format!("driver=qcow,encrypt.key-secret=s,file.filename={}", text(&path));
    let write = "write -P 9 70000 90000";
    qemu("qemu-io", &["--object", object, "--image-opts", &image, "-c", write]);
    let mut expected = vec![0; 1 << 20];
    expected[70_000..160_000].fill(9);
    on_ring(move |cx| async move {
        let file = || host_file(&path, true).expect("the image");
        let request = |word: Option<&[u8]>| Request {
            secret: word.map(Secret::new),
            ..Request::read(file(), &Alone)
        };
        let refused = open(&cx, ImageFormat::Qcow, request(None)).await;
        assert!(refused.err().expect("refused").to_string().contains("'encrypt.key-secret'"));
        assert!(facts(&cx, ImageFormat::Qcow, &file(), &Alone).await.expect("facts").encrypted);
        let word = Some(&b"correct horse battery"[..]);
        let disk = open(&cx, ImageFormat::Qcow, request(word)).await.expect("open");
        assert!(read(&cx, &disk, 0, 1 << 20).await.expect("read") == expected);
        assert!(read(&cx, &disk, 70_144, 512).await.expect("read") == [9; 512]);
        close_all(Cx::clone(&cx), disk).await.expect("close");
    });
}

#[test]
fn bochs_images_are_read() {
    let extent = 64 << 10;
    let mut image = vec![0; 512];
    image[..22].copy_from_slice(b"Bochs Virtual HD Image");
    image[32..39].copy_from_slice(b"Redolog");
    image[48..55].copy_from_slice(b"Growing");
    let size = 20 * extent as u64;
    for (at, value) in [(64, 0x0002_0000_u32), (68, 512), (72, 20), (76, 512), (80, extent as u32)]
    {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    image[88..96].copy_from_slice(&size.to_le_bytes());
    let mut expected = vec![0; size as usize];
    let mut catalogue = [u32::MAX; 20];
    catalogue[3] = 0;
    catalogue[17] = 1;
    image.extend(catalogue.iter().flat_map(|n| n.to_le_bytes()));
    for (n, place) in [3_usize, 17].into_iter().enumerate() {
        let mut bitmap = vec![0_u8; 512];
        // Sectors 0, 9 and 127 of the extent; the others hold garbage.
        let mut data = vec![0xee; extent];
        for sector in [0, 9, 127] {
            bitmap[sector / 8] |= 1 << (sector % 8);
            let bytes = pattern(512, (n * 1000 + sector) as u64);
            data[sector * 512..][..512].copy_from_slice(&bytes);
            expected[place * extent + sector * 512..][..512].copy_from_slice(&bytes);
        }
        image.extend(bitmap);
        image.extend(data);
    }
    let dir = directory();
    let path = dir.path().join("image");
    std::fs::write(&path, image).expect("the image");
    qemu_agrees(ImageFormat::Bochs, &path, &expected);
    reads_as(ImageFormat::Bochs, &path, expected, None);
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("deflate");
    encoder.finish().expect("deflate")
}

#[test]
fn cloop_images_are_read() {
    let block = 48 << 10;
    let bytes = pattern(block * 11, 7);
    let blocks: Vec<Vec<u8>> = bytes.chunks(block).map(deflated).collect();
    let mut image = crate::cloop::MAGIC.to_vec();
    image.resize(128, 0);
    image.extend((block as u32).to_be_bytes());
    image.extend((blocks.len() as u32).to_be_bytes());
    let mut at = 136 + (blocks.len() as u64 + 1) * 8;
    image.extend(at.to_be_bytes());
    for packed in &blocks {
        at += packed.len() as u64;
        image.extend(at.to_be_bytes());
    }
    image.extend(blocks.concat());
    let dir = directory();
    let path = dir.path().join("image");
    std::fs::write(&path, image).expect("the image");
    qemu_agrees(ImageFormat::Cloop, &path, &bytes);
    reads_as(ImageFormat::Cloop, &path, bytes, None);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, b| word << 8 | u32::from(*b))
            << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = char::from(DIGITS[(word >> (18 - 6 * n) & 63) as usize]);
            out.push(if n <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

/// An image of these chunks: type, sectors, bytes in the file.
fn dmg(chunks: &[(u32, u64, Vec<u8>)]) -> Vec<u8> {
    let mut image = Vec::new();
    let mut table = vec![0; 204];
    table[..4].copy_from_slice(b"mish");
    let sectors: u64 = chunks.iter().map(|c| c.1).sum();
    table[16..24].copy_from_slice(&sectors.to_be_bytes());
    table[200..204].copy_from_slice(&(chunks.len() as u32 + 1).to_be_bytes());
    let mut sector = 0_u64;
    for (kind, count, bytes) in chunks {
        table.extend(kind.to_be_bytes());
        table.extend([0; 4]);
        for value in [sector, *count, image.len() as u64, bytes.len() as u64] {
            table.extend(value.to_be_bytes());
        }
        image.extend(bytes);
        sector += count;
    }
    table.extend(u32::MAX.to_be_bytes());
    table.extend([0; 4]);
    table.extend([sector, 0, image.len() as u64, 0].into_iter().flat_map(u64::to_be_bytes));
    let list = format!(
        "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key>\
         <data>\n{}\n</data></dict></array></dict></dict></plist>",
        base64(&table)
    );
    let list_at = image.len() as u64;
    image.extend(list.as_bytes());
    let mut trailer = vec![0; 512];
    trailer[..4].copy_from_slice(b"koly");
    trailer[7] = 4;
    trailer[10..12].copy_from_slice(&512_u16.to_be_bytes());
    trailer[0x20..0x28].copy_from_slice(&list_at.to_be_bytes());
    trailer[0xd8..0xe0].copy_from_slice(&list_at.to_be_bytes());
    trailer[0xe0..0xe8].copy_from_slice(&(list.len() as u64).to_be_bytes());
    trailer[0x1ec..0x1f4].copy_from_slice(&sectors.to_be_bytes());
    image.extend(trailer);
    image
}

#[test]
fn dmg_images_are_read() {
    let bytes = pattern(600 * 512, 3);
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bzip.write_all(&bytes[300 * 512..500 * 512]).expect("bzip2");
    let mut chunks = vec![
        (1, 100, bytes[..100 * 512].to_vec()),
        (0x8000_0005, 200, deflated(&bytes[100 * 512..300 * 512])),
        (0x8000_0006, 200, bzip.finish().expect("bzip2")),
        (2, 100, Vec::new()),
    ];
    let mut expected = bytes;
    expected[500 * 512..].fill(0);
    let dir = directory();
    let path = dir.path().join("image");
    std::fs::write(&path, dmg(&chunks)).expect("the image");
    reads_as(ImageFormat::Dmg, &path, expected.clone(), None);
    chunks.remove(2);
    std::fs::write(&path, dmg(&chunks)).expect("the image");
    expected.drain(300 * 512..500 * 512);
    qemu_agrees(ImageFormat::Dmg, &path, &expected);
    reads_as(ImageFormat::Dmg, &path, expected, None);
    chunks[1].0 = 0x8000_0007;
    std::fs::write(&path, dmg(&chunks)).expect("the image");
    on_ring(move |cx| async move {
        let refused = open_on_host(&cx, ImageFormat::Dmg, &path, None, true).await;
        assert!(refused.err().expect("refused").contains("LZFSE"));
    });
}

#[test]
fn damaged_images_that_are_only_read_are_refused_or_read() {
    let mut rng = fastrand::Rng::with_seed(5);
    let dir = directory();
    let path = dir.path().join("image");
    compressed_qcow(&path);
    let qcow = std::fs::read(&path).expect("the image");
    let image = dmg(&[(1, 100, vec![7; 51200]), (0x8000_0005, 8, deflated(&[5; 4096]))]);
    for (format, sound) in [(ImageFormat::Qcow, qcow), (ImageFormat::Dmg, image)] {
        for _ in 0..60 {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..5) {
                let at = match format {
                    ImageFormat::Qcow => rng.usize(0..2048),
                    _ => rng.usize(bytes.len() - 2048..bytes.len()),
                };
                bytes[at] = if rng.bool() { rng.u8(..) } else { 0xff };
            }
            super::hostile::attack(format, &bytes);
        }
    }
}
