//! Parsing and scatter-gather, without queues.

use proptest::prelude::*;
use spindle_block::IoBuf;

use super::{
    cmd::{Command, Limits},
    config::NvmeNamespaceConfig,
    namespace::Identifiers,
    sg::gather,
    spec::Sqe,
    status::Status,
};
use crate::testkit::Memory;

fn limits(shift: u8, blocks: u64) -> Limits {
    Limits { shift, blocks, transfer_max: 512 << 10, read_only: false }
}

fn sqe(opcode: u8, cdw: [u32; 6]) -> Sqe {
    Sqe { opcode, cdw: cdw.map(Into::into), ..Sqe::default() }
}

#[test]
fn identifiers_that_are_given_are_kept() {
    let machine = crate::testkit::Machine::new(1);
    let mut config = NvmeNamespaceConfig::new(machine.add_root("d", 4096).0);
    let made = Identifiers::new(&config, "seed", 1);
    assert_eq!(made.uuid[6] >> 4, 8, "custom made");
    assert_eq!(made.uuid[8] >> 6, 2, "RFC 9562");
    assert_ne!(made, Identifiers::new(&config, "seed", 2));
    config.uuid = Some([7; 16]);
    let given = Identifiers::new(&config, "seed", 1);
    assert_eq!((given.uuid, given.eui64), ([7; 16], made.eui64));
}

proptest! {
    /// Whatever the bytes: what comes out is aligned, inside the namespace and within the limits.
    #[test]
    fn what_is_parsed_can_be_done(
        opcode in prop_oneof![0..0x1au8, any::<u8>()],
        cdw in any::<[u32; 6]>(),
        near in any::<bool>(),
        shift in prop_oneof![Just(9u8), Just(12)],
        blocks in 1..5000u64,
    ) {
        let mut cdw = cdw;
        if near {
            cdw[0] %= 5000;
            cdw[1] = 0;
            cdw[2] &= 0xffff_00ff;
        }
        let limits = limits(shift, blocks);
        let range = match Command::parse(&sqe(opcode, cdw), &limits) {
            Ok(Command::Block(op, range)) => {
                if op.has_data() {
                    prop_assert!(range.len > 0 && range.len <= limits.transfer_max);
                }
                range
            }
            Ok(
                Command::Compare(range)
                | Command::Verify(range)
                | Command::WriteUncorrectable(range),
            ) => range,
            Ok(command @ (Command::Copy { .. } | Command::Reservation(_))) => {
                prop_assert!(command.transfer_len() <= limits.transfer_max);
                return Ok(());
            }
            Ok(Command::Dataset { ranges, .. }) => {
                prop_assert!((1..=256).contains(&ranges));
                return Ok(());
            }
            Err(status) => {
                prop_assert!(!status.is_success());
                return Ok(());
            }
        };
        prop_assert_eq!((range.offset | range.len) & ((1 << shift) - 1), 0);
        prop_assert!(range.end() <= blocks << shift);
    }

    /// Whatever a data pointer names: either all bytes are found, or there is a status; never more
    /// memory than was asked for.
    #[test]
    fn a_data_pointer_is_whole_or_refused(
        pointers in any::<[u64; 2]>(),
        near in any::<bool>(),
        flags in any::<u8>(),
        pages in 1..40u64,
        odd in 0..4096u64,
        fill in any::<[u8; 64]>(),
    ) {
        let memory = Memory::new();
        for at in (0x1000..0x5000).step_by(64) {
            let mut bytes = fill;
            // Make some of the entries addresses in memory.
            bytes.chunks_mut(8).step_by(2).for_each(|entry| entry[2..].fill(0));
            memory.write(at, &bytes);
        }
        let [first, second] = pointers.map(|p| if near { p & 0x7ff8 } else { p });
        let command = Sqe { flags, dptr: [first.into(), second.into()], ..Sqe::default() };
        let mut buf = IoBuf::with_capacity(2);
        buf.set_keep(memory.dma().keep());
        let len = pages * 4096 - odd;
        match gather(memory.dma(), 4096, &command, len, &mut buf) {
            Ok(()) => prop_assert_eq!(buf.len(), len),
            Err(status) => {
                prop_assert!(buf.len() <= len);
                prop_assert!(status != Status::SUCCESS);
            }
        }
    }
}
