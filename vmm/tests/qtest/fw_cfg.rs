//! The firmware configuration device, by ports and by DMA.

use super::client::Qtest;

fn get(q: &mut Qtest, key: u64, len: usize) -> Vec<u8> {
    q.outw(0x510, key);
    (0..len).map(|_| q.inb(0x511) as u8).collect()
}

/// The key of a file and its length.
fn find(q: &mut Qtest, name: &str) -> (u64, usize) {
    let count = u32::from_be_bytes(get(q, 0x19, 4).try_into().unwrap()) as usize;
    let bytes = get(q, 0x19, 4 + count * 64);
    let entry = bytes[4..].chunks(64).find(|e| e[8..].starts_with(format!("{name}\0").as_bytes()));
    let entry = entry.unwrap_or_else(|| panic!("no file {name}"));
    let len = u32::from_be_bytes(entry[..4].try_into().unwrap());
    (u16::from_be_bytes(entry[4..6].try_into().unwrap()).into(), len as usize)
}

#[test]
fn firmware_finds_what_it_looks_for() {
    let mut q = Qtest::start(&["-smp", "3"]);
    assert_eq!(get(&mut q, 0, 4), b"QEMU");
    assert_eq!(get(&mut q, 1, 4), [3, 0, 0, 0]);
    assert_eq!(get(&mut q, 3, 8), (64_u64 << 20).to_le_bytes());
    assert_eq!(get(&mut q, 4, 2), [0, 0]);
    assert_eq!(get(&mut q, 5, 2), [3, 0]);
    assert_eq!(get(&mut q, 0xf, 2), [3, 0]);
    assert_eq!(get(&mut q, 0xe, 2), [0, 0]);
    let (key, len) = find(&mut q, "etc/e820");
    let map = get(&mut q, key, len);
    assert_eq!(map[..20], [&[0; 8][..], &(64_u64 << 20).to_le_bytes(), &[1, 0, 0, 0]].concat());
    assert_eq!(find(&mut q, "bootorder").1, 0);
    assert!(q.end().1.success());
}

#[test]
fn the_boot_order_names_disks_by_their_place() {
    let mut q = Qtest::start(&[
        "--blockdev",
        "null-co,node-name=a",
        "--blockdev",
        "null-co,node-name=b",
        "--device",
        "virtio-blk-pci,drive=a,bootindex=7",
        "--device",
        "virtio-blk-pci,drive=b,bootindex=2,addr=5.1",
    ]);
    let (key, len) = find(&mut q, "bootorder");
    let text = String::from_utf8(get(&mut q, key, len)).unwrap();
    assert_eq!(text, "/pci@i0cf8/scsi@5,1/disk@0,0\n/pci@i0cf8/scsi@2/disk@0,0\0");
    assert!(q.end().1.success());
}

#[test]
fn dma_reads_into_memory() {
    let mut q = Qtest::start(&[]);
    assert_eq!(q.inl(0x514), u64::from(u32::from_le_bytes(*b"QEMU")));
    assert_eq!(q.inl(0x518), u64::from(u32::from_le_bytes(*b" CFG")));
    q.ok("memset 0x3000 16 0xee");
    // Select item 3 and read 10 bytes to 3000h: the last two are beyond its end.
    let descriptor = [0, 3, 0, 0b1010, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0x30, 0];
    q.write(0x2000, &descriptor);
    q.outl(0x514, 0);
    q.outl(
        0x518,
        0x2000_u64.to_be_bytes()[4..].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)),
    );
    assert_eq!(q.load(0x2000, 4), 0);
    let mut expected = (64_u64 << 20).to_le_bytes().to_vec();
    expected.extend([0, 0, 0xee]);
    assert_eq!(q.read(0x3000, 11), expected);
    assert!(q.end().1.success());
}
