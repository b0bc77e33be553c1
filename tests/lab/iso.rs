//! The smallest ISO 9660 file system (ECMA-119): one file in the root directory.

/// Bytes of a logical block.
const BLOCK: usize = 2048;
/// Blocks: 16 of the system, two descriptors, two path tables, the root directory, the file.
const ROOT: u32 = 20;
const FILE: u32 = 21;
const BLOCKS: u32 = 22;

/// Both byte orders (ECMA-119, 7.3.3).
fn both32(n: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// The same with 16 bits (7.2.3).
fn both16(n: u16) -> [u8; 4] {
    let (le, be) = (n.to_le_bytes(), n.to_be_bytes());
    [le[0], le[1], be[0], be[1]]
}

/// A directory record (9.1).
fn record(name: &[u8], block: u32, len: u32, is_directory: bool) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both32(block));
    record.extend(both32(len));
    // A day in 2024.
    record.extend([124, 1, 1, 0, 0, 0, 0]);
    record.extend([u8::from(is_directory) << 1, 0, 0]);
    record.extend(both16(1));
    record.push(name.len() as u8);
    record.extend(name);
    if record.len() % 2 == 1 {
        record.push(0);
    }
    record[0] = record.len() as u8;
    record
}

/// An image with the file `NAME.TXT` that holds `content`, at most a block.
pub fn image(volume: &str, content: &[u8]) -> Vec<u8> {
    let mut image = vec![0; BLOCKS as usize * BLOCK];
    let root = record(&[0], ROOT, BLOCK as u32, true);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // The primary volume descriptor (8.4).
    let at = 16 * BLOCK;
    put(at, b"\x01CD001\x01");
    put(at + 8, &[b' '; 64]);
    put(at + 40, volume.to_uppercase().as_bytes());
    put(at + 80, &both32(BLOCKS));
    put(at + 120, &both16(1));
    put(at + 124, &both16(1));
    put(at + 128, &both16(BLOCK as u16));
    put(at + 132, &both32(10));
    put(at + 140, &18_u32.to_le_bytes());
    put(at + 148, &19_u32.to_be_bytes());
    put(at + 156, &root);
    put(at + 190, &[b' '; 623]);
    put(at + 813, b"0000000000000000\0");
    put(at + 830, b"0000000000000000\0");
    put(at + 847, b"0000000000000000\0");
    put(at + 864, b"0000000000000000\0");
    put(at + 881, &[1]);
    // The end of the descriptors (8.3).
    put(17 * BLOCK, b"\xffCD001\x01");
    // Path tables with the root alone (9.4), in both byte orders.
    put(18 * BLOCK, &[1, 0, ROOT as u8, 0, 0, 0, 1, 0, 0, 0]);
    put(19 * BLOCK, &[1, 0, 0, 0, 0, ROOT as u8, 0, 1, 0, 0]);
    let parent = record(&[1], ROOT, BLOCK as u32, true);
    let file = record(b"NAME.TXT;1", FILE, content.len() as u32, false);
    put(ROOT as usize * BLOCK, &[root, parent, file].concat());
    put(FILE as usize * BLOCK, content);
    // Drives have no smaller ones than this, nor have drivers that read ahead.
    image.resize(1 << 20, 0);
    image
}
