//! Parsing, without rings or memory.

use proptest::prelude::*;
use spindle_block::{BlockError, Op, Range};

use super::{
    ErrorAction, ErrorPolicy,
    cmd::{Command, Limits, Request, SegmentOp, id_bytes},
    spec::{Header, Segment},
    status::Status,
};
use crate::policy::is_drivers_fault;

fn limits(features: u64) -> Limits {
    Limits { features, block_size: 512, max_discard_sectors: 100, max_write_zeroes_sectors: 50 }
}

fn request(kind: u32, sector: u64, out_len: u64, in_len: u64) -> Request {
    let header = Header { kind: kind.into(), sector: sector.into(), ..Header::default() };
    Request { header, out_len, in_len }
}

#[test]
fn reads_and_writes_become_ranges_of_bytes() {
    let parse = |kind, sector, out, in_| request(kind, sector, out, in_).parse(&limits(0));
    assert_eq!(parse(0, 3, 0, 1024), Ok(Command::Block(Op::Read, Range::new(1536, 1024))));
    let write = Op::Write { fua: false };
    assert_eq!(parse(1, 3, 1024, 0), Ok(Command::Block(write, Range::new(1536, 1024))));
    assert_eq!(parse(0, u64::MAX / 512 + 1, 0, 512), Err(Status::IoErr));
}

#[test]
fn a_secure_erase_is_durable_zeros_that_keep_their_space() {
    let segment = Segment { sector: 2.into(), sectors: 4.into(), flags: 0.into() };
    let (op, range) = SegmentOp::SecureErase.with_segment(segment, &limits(0)).unwrap();
    assert_eq!(op, Op::WriteZeroes { unmap: false, fua: true });
    assert_eq!(range, Range::new(1024, 2048));
}

#[test]
fn only_stop_parks_and_only_want_of_space_under_enospc() {
    for error in BlockError::ALL {
        assert_eq!(ErrorPolicy::Report.action(error), ErrorAction::Report);
        assert_eq!(ErrorPolicy::Ignore.action(error), ErrorAction::Ignore);
        assert_eq!(ErrorPolicy::Stop.action(error), ErrorAction::Stop);
        let stops = ErrorPolicy::Enospc.action(error) == ErrorAction::Stop;
        assert_eq!(stops, error == BlockError::NoSpace);
        // What the driver got wrong stays wrong.
        assert!(!(is_drivers_fault(error) && stops));
    }
}

#[test]
fn a_serial_number_fills_its_field_without_a_terminator() {
    assert_eq!(id_bytes("ab")[..3], *b"ab\0");
    assert_eq!(id_bytes("0123456789012345678901234")[..], *b"01234567890123456789");
}

proptest! {
    /// Whatever the bytes: what comes out is aligned, does not overflow and obeys the limits.
    #[test]
    fn what_is_parsed_can_be_done(
        kind in 0..20u32,
        sector in prop_oneof![0..1000u64, any::<u64>()],
        out_len in prop_oneof![Just(0u64), Just(16), 0..5000u64],
        in_len in prop_oneof![Just(0u64), 0..5000u64],
        sectors in prop_oneof![0..200u32, any::<u32>()],
        flags in 0..4u32,
        features in any::<u64>(),
    ) {
        let limits = limits(features);
        let (op, range) = match request(kind, sector, out_len, in_len).parse(&limits) {
            Ok(Command::Block(op, range)) => {
                if op.has_data() {
                    prop_assert_eq!(range.len, if op == Op::Read { in_len } else { out_len });
                    prop_assert_eq!(if op == Op::Read { out_len } else { in_len }, 0);
                }
                (op, range)
            }
            Ok(Command::Segment(op)) => {
                prop_assert_eq!(out_len, 16);
                let segment = Segment {
                    sector: sector.into(),
                    sectors: sectors.into(),
                    flags: flags.into(),
                };
                match op.with_segment(segment, &limits) {
                    Ok(done) => done,
                    Err(_) => return Ok(()),
                }
            }
            Ok(Command::Id | Command::Lifetime) => {
                prop_assert!(in_len > 0 && out_len == 0);
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        prop_assert_eq!((range.offset | range.len) % 512, 0);
        if op == Op::Discard {
            prop_assert!(range.len <= 100 * 512);
        }
    }
}
