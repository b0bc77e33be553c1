//! Golden IDENTIFY data.

use super::driver::{SIZE, ata, setup_with};

fn words(configure: impl FnOnce(&mut spindle_devices::ata::DriveConfig)) -> Vec<u16> {
    let s = setup_with(1, |_| (), configure);
    let at = s.machine.memory.alloc(512, 512);
    s.driver.ok(&ata(0xec, 0, 0, 0), at, 512);
    let bytes = s.machine.memory.read(at, 512);
    assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn text(words: &[u16]) -> String {
    words.iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect()
}

#[test]
fn a_disk_by_the_word() {
    let w = words(|drive| {
        drive.serial = "SN-1".to_owned();
        drive.wwn = 0x5001_2345_6789_abcd;
        drive.rotation_rate = 7200;
    });
    assert_eq!(text(&w[10..20]), "SN-1                ");
    assert_eq!(text(&w[23..27]), "1.0     ");
    assert_eq!(text(&w[27..47]), "SPINDLE HARDDISK                        ");
    let sectors = SIZE / 512;
    let cylinders = (sectors / 1008) as u16;
    let reachable = cylinders * 1008;
    let golden: &[(usize, u16)] = &[
        (0, 0x0040),
        (1, cylinders),
        (2, 0xc837),
        (3, 16),
        (6, 63),
        (47, 0x8010),
        (48, 0),
        (49, 0x0f00),
        (50, 0x4000),
        (53, 7),
        (54, cylinders),
        (55, 16),
        (56, 63),
        (57, reachable),
        (58, 0),
        (59, 0xf110),
        (60, sectors as u16),
        (61, 0),
        (63, 7),
        (64, 3),
        (65, 120),
        (66, 120),
        (67, 120),
        (68, 120),
        (69, 0x4d20),
        (75, 31),
        (76, 0x050e),
        (77, 0x0046),
        (78, 0x0040),
        (79, 0x0040),
        (80, 0x07f0),
        (81, 0x006d),
        (82, 0x746b),
        (83, 0x7501),
        (84, 0x4163),
        (85, 0x7469),
        (86, 0xb401),
        (87, 0x4163),
        (88, 0x407f),
        (89, 1),
        (90, 1),
        (92, 0xfffe),
        (93, 0),
        (100, sectors as u16),
        (101, 0),
        (102, 0),
        (103, 0),
        (105, 64),
        (106, 0x4000),
        (108, 0x5001),
        (109, 0x2345),
        (110, 0x6789),
        (111, 0xabcd),
        (119, 0x411c),
        (120, 0x411c),
        (128, 0x0021),
        (169, 1),
        (209, 0x4000),
        (217, 7200),
        (222, 0x107f),
        (234, 1),
        (235, 0x80),
    ];
    for (n, value) in golden {
        assert_eq!(w[*n], *value, "word {n}: {:#06x}", w[*n]);
    }
    let named: Vec<usize> = golden.iter().map(|row| row.0).collect();
    for (n, word) in w.iter().enumerate() {
        let text = (10..20).contains(&n) || (23..47).contains(&n) || n == 255;
        assert!(text || named.contains(&n) || *word == 0, "word {n} is {word:#06x}");
    }
}

#[test]
fn sectors_of_other_sizes() {
    let w = words(|drive| drive.physical_block_size = 4096);
    assert_eq!((w[106], w[117], w[118]), (0x6003, 0, 0));
    let w = words(|drive| drive.logical_block_size = 4096);
    assert_eq!((w[106], w[117], w[118]), (0x5000, 2048, 0));
    assert_eq!(u64::from(w[100]), SIZE / 4096);
}

#[test]
fn names_that_are_not_ascii() {
    let w = words(|drive| {
        drive.model = "Plätte \u{7}".to_owned();
        drive.serial = "a serial number that is far too long".to_owned();
    });
    assert_eq!(text(&w[27..31]), "Pl??tte ");
    assert_eq!(text(&w[10..20]), "a serial number that");
}
