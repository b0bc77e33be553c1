//! Commands that are not reads and writes.

use super::driver::{ata, pattern, setup, setup_with};

#[test]
fn verify_flush_and_the_rest_that_only_succeeds() {
    let s = setup();
    for command in [0x40, 0x41, 0x42] {
        s.driver.ok(&ata(command, 0, 3, 100), 0, 0);
    }
    for command in [0xe7, 0xea, 0x10, 0x1f, 0x70] {
        s.driver.ok(&ata(command, 0, 3, 0), 0, 0);
    }
}

#[test]
fn what_is_not_known_is_aborted() {
    let s = setup();
    for command in [0x00, 0x08, 0xa0, 0xa1, 0x99, 0xff, 0x06] {
        s.driver.fails(&ata(command, 0, 0, 1), 0, 0, 4);
    }
}

#[test]
fn addresses_beyond_the_end_are_not_found() {
    let s = setup();
    let at = s.machine.memory.alloc(1024, 512);
    let last = super::driver::SIZE / 512 - 1;
    s.driver.ok(&ata(0x25, 0, last, 1), at, 512);
    for command in [0x25, 0x35, 0x20, 0x42] {
        s.driver.fails(&ata(command, 0, last, 2), at, 1024, 0x10);
    }
    s.driver.fails(&ata(0x25, 0, 0xffff_ffff_ffff, 0), at, 1024, 0x10);
}

#[test]
fn a_buffer_is_written_and_read() {
    let s = setup();
    let at = s.machine.memory.alloc(1024, 512);
    for (write, read) in [(0xe8, 0xe4), (0xeb, 0xe9)] {
        let data = pattern(write, 512);
        s.machine.memory.write(at, &data);
        s.driver.ok(&ata(write, 0, 0, 0), at, 512);
        s.driver.ok(&ata(read, 0, 0, 0), at + 512, 512);
        assert_eq!(s.machine.memory.read(at + 512, 512), data);
    }
}

#[test]
fn trimmed_sectors_read_as_zeros_and_give_their_space_back() {
    let s = setup();
    let memory = &s.machine.memory;
    let at = memory.alloc(64 * 512, 512);
    memory.write(at, &pattern(1, 64 * 512));
    s.driver.ok(&ata(0x35, 0, 0, 64), at, 64 * 512);
    memory.write(at, &[0; 512]);
    memory.set_number(at, 8, 8 | 16 << 48);
    memory.set_number(at + 8, 8, 40 | 8 << 48);
    s.driver.ok(&ata(0x06, 1, 0, 1), at, 512);
    s.driver.ok(&ata(0x25, 0, 0, 64), at, 64 * 512);
    let mut expected = pattern(1, 64 * 512);
    expected[8 * 512..24 * 512].fill(0);
    expected[40 * 512..48 * 512].fill(0);
    assert_eq!(memory.read(at, 64 * 512), expected);
    // Beyond the end: nothing of the list is done.
    memory.write(at, &[0; 512]);
    memory.set_number(at, 8, 1 << 48);
    memory.set_number(at + 8, 8, 0xffff_ffff | 8 << 48);
    s.driver.fails(&ata(0x06, 1, 0, 1), at, 512, 4);
    assert_eq!(s.contents(0, 512), pattern(1, 512));
    s.driver.fails(&ata(0x06, 1, 0, 65), at, 512, 4);
    s.root.set_policy(|policy| policy.ignore_discard = true);
    s.driver.fails(&ata(0x06, 1, 0, 1), at, 512, 4);
}

#[test]
fn set_features_and_what_they_do() {
    let s = setup();
    let word = |n: usize| {
        let at = s.machine.memory.alloc(512, 512);
        s.driver.ok(&ata(0xec, 0, 0, 0), at, 512);
        s.machine.memory.number(at + 2 * n as u64, 2)
    };
    assert_eq!(word(85) & 0x60, 0x60);
    s.driver.ok(&ata(0xef, 0x82, 0, 0), 0, 0);
    s.driver.ok(&ata(0xef, 0x55, 0, 0), 0, 0);
    assert_eq!(word(85) & 0x60, 0);
    s.driver.ok(&ata(0xef, 0x02, 0, 0), 0, 0);
    s.driver.ok(&ata(0xef, 0xaa, 0, 0), 0, 0);
    assert_eq!(word(85) & 0x60, 0x60);
    // Transfer modes: selected ones show.
    s.driver.ok(&ata(0xef, 0x03, 0, 0x45), 0, 0);
    assert_eq!((word(88), word(63)), (0x207f, 0x0007));
    s.driver.ok(&ata(0xef, 0x03, 0, 0x22), 0, 0);
    assert_eq!((word(88), word(63)), (0x007f, 0x0407));
    for mode in [0x00, 0x01, 0x0c] {
        s.driver.ok(&ata(0xef, 0x03, 0, mode), 0, 0);
    }
    for (feature, count) in [(0x03, 0x47), (0x03, 0x23), (0x03, 0x0d), (0x77, 0), (0x10, 9)] {
        s.driver.fails(&ata(0xef, feature, 0, count), 0, 0, 4);
    }
    assert_eq!(word(79) & 0x40, 0x40);
    s.driver.ok(&ata(0xef, 0x90, 0, 6), 0, 0);
    assert_eq!(word(79) & 0x40, 0);
}

#[test]
fn without_a_write_cache_writes_are_durable() {
    let s = setup();
    let at = s.machine.memory.alloc(512, 512);
    s.driver.ok(&ata(0x35, 0, 0, 1), at, 512);
    let flushes = || s.root.stats()[0].operations + s.root.stats()[2].operations;
    let before = flushes();
    // What is in the cache is written when it is switched off.
    s.driver.ok(&ata(0xef, 0x82, 0, 0), 0, 0);
    assert_eq!(flushes(), before + 1);
    s.machine.memory.write(at, &pattern(9, 512));
    s.driver.ok(&ata(0x35, 0, 7, 1), at, 512);
    assert_eq!(s.durable(7 * 512, 512), pattern(9, 512));
}

#[test]
fn multiple_mode_takes_powers_of_two() {
    let s = setup();
    let at = s.machine.memory.alloc(8 * 512, 512);
    for count in [3, 32, 255] {
        s.driver.fails(&ata(0xc6, 0, 0, count), 0, 0, 4);
    }
    s.driver.ok(&ata(0xc6, 0, 0, 0), 0, 0);
    s.driver.fails(&ata(0xc4, 0, 0, 8), at, 4096, 4);
    for count in [1, 2, 4, 8, 16] {
        s.driver.ok(&ata(0xc6, 0, 0, count), 0, 0);
        s.driver.ok(&ata(0xc4, 0, 0, 8), at, 4096);
    }
}

#[test]
fn the_diagnostic_leaves_a_signature() {
    let s = setup();
    let tfd = s.driver.run(&ata(0x90, 0, 0x1234, 9), 0, 0);
    assert_eq!(tfd, 0x0150);
    let fis = s.machine.memory.read(s.driver.area + 0x40, 20);
    assert_eq!((fis[3], &fis[4..8], fis[12]), (1, &[1, 0, 0, 0][..], 1));
}

#[test]
fn sectors_of_4096_bytes() {
    let s = setup_with(1, |_| (), |drive| drive.logical_block_size = 4096);
    let at = s.machine.memory.alloc(8192, 512);
    s.machine.memory.write(at, &pattern(3, 8192));
    s.driver.ok(&ata(0x35, 0, 5, 2), at, 8192);
    assert_eq!(s.contents(5 * 4096, 8192), pattern(3, 8192));
    let last = super::driver::SIZE / 4096 - 1;
    s.driver.ok(&ata(0x25, 0, last, 1), at, 4096);
    s.driver.fails(&ata(0x25, 0, last + 1, 1), at, 4096, 0x10);
}

#[test]
fn logs_and_their_directory() {
    let s = setup();
    let directory = s.driver.log(0, 0);
    let pages = |log: usize| directory[2 * log];
    assert_eq!(directory[..2], [1, 0]);
    assert_eq!((pages(0x10), pages(0x11), pages(0x13), pages(0x30)), (1, 1, 1, 4));
    assert_eq!(s.driver.log(0x13, 0)[..5], [1, 0, 0, 0, 1]);
    let list = s.driver.log(0x30, 0);
    assert_eq!(list[8..13], [4, 0, 1, 2, 3]);
    let at = s.machine.memory.alloc(512, 512);
    s.driver.ok(&ata(0xec, 0, 0, 0), at, 512);
    assert_eq!(s.driver.log(0x30, 1), s.machine.memory.read(at, 512));
    let capacity = s.driver.log(0x30, 2);
    assert_eq!(capacity[8..16], ((super::driver::SIZE / 512) | (1 << 63)).to_le_bytes());
    // Microcode: whole, and in pieces of up to 64 KiB for now and for later.
    assert_eq!(s.driver.log(0x30, 3)[16..24], [1, 0, 0x80, 0, 7, 0, 0, 0x80]);
    // By DMA as well; beyond the end not.
    s.driver.ok(&ata(0x47, 0, 0x30, 3), at, 1536);
    for (address, page, pages) in [(0x30, 2, 3), (0x12, 0, 1), (0x30, 4, 1), (0, 0, 0)] {
        let fis = ata(0x2f, 0, address | page << 8, pages);
        s.driver.fails(&fis, at, 2048, 4);
    }
}
