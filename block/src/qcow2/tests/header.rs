//! Headers with one field that cannot be.

use crate::qcow2::{Header, HeaderError};

/// A version 3 header of an empty disk of 1 MiB with clusters of 64 KiB, by hand from the
/// specification.
fn sound() -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &(1u64 << 20).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &(3u64 << 16).to_be_bytes());
    put(48, &(1u64 << 16).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &112u32.to_be_bytes());
    bytes
}

#[test]
fn every_impossible_field_is_refused_by_name() {
    let header = Header::parse(&sound()).expect("sound");
    assert_eq!((header.version, header.cluster_bits, header.size), (3, 16, 1 << 20));
    let (word, long) = (u32::to_be_bytes, u64::to_be_bytes);
    let cases: &[(usize, &[u8], &str)] = &[
        (20, &word(8), "cluster size"),
        (20, &word(22), "cluster size"),
        (24, &long(1 << 63), "disk size"),
        (24, &long(1 << 40), "L1 table too small"),
        (36, &word(0), "L1 table too small"),
        (36, &word((4 << 20) + 1), "L1 table larger than 32 MiB"),
        (40, &long(0), "offset of the L1 table"),
        (40, &long((3 << 16) + 512), "offset of the L1 table"),
        (40, &long(1 << 60), "offset of the L1 table"),
        (48, &long(0), "offset of the refcount table"),
        (48, &long(1), "offset of the refcount table"),
        (56, &word(0), "size of the refcount table"),
        (56, &word(129), "size of the refcount table"),
        (60, &word(65537), "more than 65536 snapshots"),
        (64, &[0, 0, 0, 0, 0, 1, 2, 0], ""),
        (96, &word(7), "refcount width"),
        (100, &word(96), "header length"),
        (100, &word(108), "header length"),
        (100, &word(1 << 17), "header longer than a cluster"),
        (104, &[2], "unknown compression type"),
        (104, &[1], "compression type and its feature bit disagree"),
        (79, &[8], "compression type and its feature bit disagree"),
        (8, &long(1 << 16), "offset of the backing file name"),
        (8, &long(104), "offset of the backing file name"),
    ];
    for (at, field, what) in cases {
        let mut bytes = sound();
        bytes[*at..at + field.len()].copy_from_slice(field);
        if *at == 8 {
            bytes[19] = 1;
        }
        match Header::parse(&bytes) {
            // Without snapshots nobody asks where they are.
            Ok(_) => assert!(what.is_empty(), "{what} at {at}"),
            Err(HeaderError::Field(why)) if !what.is_empty() => {
                assert!(why.contains(what), "{why}, not {what}");
            }
            Err(error) => panic!("{error}, not {what:?}"),
        }
    }
    let mut bytes = sound();
    bytes[63] = 1;
    bytes[64..72].copy_from_slice(&long(513));
    let error = Header::parse(&bytes).expect_err("refused");
    assert_eq!(error, HeaderError::Field("offset of the snapshot table"));
    for (at, value) in [(16, 1024u32), (16, 1 << 31)] {
        let mut bytes = sound();
        bytes[8..16].copy_from_slice(&long(200));
        bytes[at..at + 4].copy_from_slice(&word(value));
        let error = Header::parse(&bytes).expect_err("refused");
        assert_eq!(error, HeaderError::Field("backing file name longer than 1023 bytes"));
    }
    for version in [0, 1, 4, u32::MAX] {
        let mut bytes = sound();
        bytes[4..8].copy_from_slice(&word(version));
        assert_eq!(Header::parse(&bytes), Err(HeaderError::Version(version)));
    }
}
