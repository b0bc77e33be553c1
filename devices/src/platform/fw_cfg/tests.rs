use super::*;
use crate::{
    platform::testing::{read, write},
    testkit::Memory,
};

fn device() -> (FwCfg, Memory) {
    let memory = Memory::new();
    let items = vec![
        Item::key(RAM_SIZE, 0x1234_5678_9ABC_u64.to_le_bytes()),
        Item::file("etc/one", b"first".to_vec()),
        Item::file(&"x".repeat(80), vec![7; 3]),
    ];
    (FwCfg::new(items, memory.dma().clone()), memory)
}

fn get(device: &FwCfg, key: u16, len: usize) -> Vec<u8> {
    write(device, 0, 2, key.into());
    (0..len).map(|_| read(device, 1, 1) as u8).collect()
}

/// Places a descriptor and starts it; returns the control word afterwards.
fn dma(device: &FwCfg, memory: &Memory, control: u32, length: u32, address: u64) -> u32 {
    let at = 0x8000_u64;
    memory.write(at, &control.to_be_bytes());
    memory.write(at + 4, &length.to_be_bytes());
    memory.write(at + 8, &address.to_be_bytes());
    write(device, 4, 4, u64::from(((at >> 32) as u32).swap_bytes()));
    write(device, 8, 4, u64::from((at as u32).swap_bytes()));
    u32::from_be_bytes(memory.read(at, 4).try_into().unwrap())
}

#[test]
fn items_come_byte_by_byte_and_end_in_zeros() {
    let (device, _) = device();
    assert_eq!(get(&device, 0, 6), b"QEMU\0\0");
    assert_eq!(get(&device, 1, 4), [3, 0, 0, 0]);
    assert_eq!(get(&device, 3, 8), 0x1234_5678_9ABC_u64.to_le_bytes());
    assert_eq!(get(&device, 0x4003, 2), [0xBC, 0x9A], "the write channel names the same item");
    assert_eq!(get(&device, 0x7777, 2), [0, 0], "nothing is there");
    // A write of the data changes nothing, a wide read is no read.
    write(&device, 0, 2, 0);
    write(&device, 1, 1, 0xFF);
    assert_eq!(read(&device, 1, 2), 0);
    assert_eq!(read(&device, 1, 1), u64::from(b'Q'));
    device.reset();
    assert_eq!(read(&device, 1, 1), u64::from(b'Q'));
}

#[test]
fn the_directory_names_files_that_can_be_replaced() {
    let (device, _) = device();
    let bytes = get(&device, 0x19, 4 + 2 * 64);
    assert_eq!(bytes[..4], [0, 0, 0, 2]);
    let entry = |i: usize| &bytes[4 + i * 64..4 + (i + 1) * 64];
    assert_eq!(entry(0)[..8], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert_eq!(entry(0)[8..16], *b"etc/one\0");
    assert_eq!(entry(1)[..8], [0, 0, 0, 3, 0, 0x21, 0, 0]);
    assert_eq!(entry(1)[8..63], *"x".repeat(55).as_bytes());
    assert_eq!(entry(1)[63], 0, "names end");
    assert_eq!(get(&device, 0x20, 6), b"first\0");
    device.set_file("etc/one", b"other!".to_vec());
    device.set_file("etc/two", Vec::new());
    assert_eq!(get(&device, 0x20, 6), b"other!");
    let bytes = get(&device, 0x19, 4 + 3 * 64);
    assert_eq!(bytes[..4], [0, 0, 0, 3]);
    assert_eq!(bytes[4..8], [0, 0, 0, 6]);
}

#[test]
fn the_dma_register_says_what_it_is() {
    let (device, _) = device();
    let signature: Vec<u8> = (4..12).map(|at| read(&device, at, 1) as u8).collect();
    assert_eq!(signature, b"QEMU CFG");
    assert_eq!(read(&device, 4, 4).to_le_bytes()[..4], *b"QEMU");
    assert_eq!(read(&device, 8, 4).to_le_bytes()[..4], *b" CFG");
    assert_eq!(read(&device, 4, 8).to_le_bytes(), *b"QEMU CFG");
}

#[test]
fn dma_selects_skips_and_reads_with_zeros_after_the_end() {
    let (device, memory) = device();
    let to = 0x9000;
    memory.write(to, &[0xEE; 8]);
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1010, 3, to), 0);
    assert_eq!(memory.read(to, 4), [b'f', b'i', b'r', 0xEE]);
    assert_eq!(dma(&device, &memory, 0b10, 4, to), 0, "it goes on");
    assert_eq!(memory.read(to, 5), [b's', b't', 0, 0, 0xEE]);
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1100, 2, 0), 0);
    assert_eq!(read(&device, 1, 1), u64::from(b'r'));
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1000, 9, u64::MAX), 0, "only selects");
    assert_eq!(read(&device, 1, 1), u64::from(b'f'));
    // More than a page of zeros, and an item that is not there.
    memory.write(to, &[0xEE; 9001]);
    assert_eq!(dma(&device, &memory, 0x3FFF << 16 | 0b1010, 9000, to), 0);
    assert_eq!(memory.read(to, 9001).iter().position(|b| *b != 0), Some(9000));
}

#[test]
fn dma_to_nowhere_and_writes_fail() {
    let (device, memory) = device();
    let hole = Memory::LOW;
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1010, 3, hole - 1), 1);
    assert_eq!(memory.read(hole - 1, 1), [0], "nothing was written");
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1010, u32::MAX, 0), 1);
    assert_eq!(dma(&device, &memory, 0x20 << 16 | 0b1_1000, 3, 0x9000), 1);
    assert_eq!(get(&device, 0x20, 5), b"first");
    // A descriptor that is not in memory; one at the end of the address space.
    for at in [hole, u64::MAX - 3] {
        write(&device, 4, 8, at.swap_bytes());
    }
}

#[test]
fn any_access_is_harmless() {
    let (device, _) = device();
    for offset in 0..16 {
        for width in [1, 2, 4, 8] {
            for value in [0, u64::MAX, 0x8000_0000_0000_0000] {
                write(&device, offset, width, value);
                let _ = read(&device, offset, width);
            }
        }
    }
}
