//! Parsing and tables, without a transport.

use proptest::prelude::*;

use super::{
    cmd::{Command, Transfer, parse},
    opcodes,
    sense::{Sense, Specific},
    spec::{asc, key},
    unit::UnitKind,
};

fn cdb(bytes: &[u8]) -> [u8; 32] {
    let mut cdb = [0; 32];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

#[test]
fn every_reported_command_is_parsed_and_every_other_is_not() {
    for kind in [UnitKind::Disk, UnitKind::Cd] {
        let reported = opcodes::all(kind);
        for opcode in 0..=255u8 {
            let known = reported.iter().any(|(reported, _)| *reported == opcode);
            let result = parse(&cdb(&[opcode]), kind);
            let unknown = result.is_err_and(|sense| sense.code == asc::INVALID_OPCODE);
            assert_eq!(known, !unknown, "{kind:?} {opcode:#x}");
        }
    }
}

#[test]
fn lbas_and_lengths_are_where_each_form_has_them() {
    let read = |lba, blocks| Ok(Command::Read { lba, blocks });
    let disk = |bytes: &[u8]| parse(&cdb(bytes), UnitKind::Disk);
    assert_eq!(disk(&[0x08, 0x1f, 0xff, 0xfe, 0]), read(0x1f_fffe, 256));
    assert_eq!(disk(&[0x08, 0, 0, 1, 9]), read(1, 9));
    assert_eq!(disk(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6]), read(0x0102_0304, 0x0506));
    assert_eq!(disk(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8]), read(0x0102_0304, 0x0506_0708));
    let long = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    assert_eq!(disk(&long), read(0x0102_0304_0506_0708, 0x090a_0b0c));
    let write = Ok(Command::Write { lba: 7, blocks: 1, fua: true });
    assert_eq!(disk(&[0x2a, 0x08, 0, 0, 0, 7, 0, 0, 1]), write);
}

#[test]
fn fields_that_are_not_supported_are_pointed_at() {
    let cases: &[(&[u8], u16, Option<u8>)] = &[
        (&[0x28, 0x20], 1, Some(7)),
        (&[0x2a, 0x80], 1, Some(7)),
        (&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 4], 9, Some(2)),
        (&[0x12, 0x02], 1, Some(1)),
        (&[0x12, 0, 0x80], 2, None),
        (&[0x25, 0, 0, 0, 0, 1], 2, None),
        (&[0x25, 0, 0, 0, 0, 0, 0, 0, 1], 8, Some(0)),
        (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15], 6, None),
        (&[0x42, 1], 1, Some(0)),
        (&[0x93, 0x10], 1, Some(4)),
        (&[0x2f, 0x04], 1, Some(2)),
        (&[0x2e, 0x06], 1, Some(2)),
        (&[0x9e, 0x1f], 1, Some(4)),
        (&[0xa3, 0x1f], 1, Some(4)),
        (&[0x04, 0x80], 1, Some(7)),
        (&[0x48, 0x40], 1, Some(6)),
    ];
    for (bytes, byte, bit) in cases {
        let sense = parse(&cdb(bytes), UnitKind::Disk).expect_err("a field");
        assert_eq!(sense, Sense::cdb_field(*byte, *bit), "{bytes:x?}");
    }
}

#[test]
fn sense_data_have_their_golden_bytes() {
    let sense = Sense::new(key::MEDIUM_ERROR, asc::UNRECOVERED_READ_ERROR).with_info(0x1234_5678);
    let fixed = [0xf0, 0, 3, 0x12, 0x34, 0x56, 0x78, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0];
    assert_eq!(sense.encode(false).as_slice(), fixed);
    let descriptors =
        [0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78];
    assert_eq!(sense.encode(true).as_slice(), descriptors);
    let far = sense.with_info(1 << 40).encode(false);
    assert_eq!(far.as_slice()[0], 0x70, "what does not fit is not valid");
    let field = Sense::cdb_field(2, Some(5));
    assert_eq!(&field.encode(false).as_slice()[12..], [0x24, 0, 0, 0xcd, 0, 2]);
    let expected = [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcd, 0, 2, 0];
    assert_eq!(field.encode(true).as_slice(), expected);
    let list = Sense::parameter(0x0102, None);
    assert_eq!(list.specific, Specific::Field { byte: 0x0102, bit: None, in_cdb: false });
    assert_eq!(&list.encode(false).as_slice()[15..], [0x80, 1, 2]);
}

proptest! {
    #[test]
    fn any_command_is_parsed_without_surprise(bytes in any::<[u8; 32]>(), cd in any::<bool>()) {
        let kind = if cd { UnitKind::Cd } else { UnitKind::Disk };
        if let Ok(command) = parse(&bytes, kind) {
            // Lengths stay far from overflow, whatever the block size.
            let (Transfer::In(len) | Transfer::Out(len)) = command.transfer(1 << 16) else {
                return Ok(());
            };
            prop_assert!(len < 1 << 56);
        }
    }
}
