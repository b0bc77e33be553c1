use std::sync::Arc;

use super::{
    bits::{Bits, crc7},
    registers::{mmc_cid, mmc_csd, scr, sd_cid, sd_csd, sd_status},
    switch::switch,
    *,
};
use crate::state_file::DiskState;
use spindle_block::{BlockError, Op};

/// Lets a card do what it has to do, all of it well. Returns the operations.
fn settle(card: &mut Card) -> Vec<String> {
    let state = Arc::clone(card.state());
    let mut done = Vec::new();
    while let Some(step) = card.next_step() {
        match step {
            Step::Bare(op, range) => done.push(format!("{op:?} {}+{}", range.offset, range.len)),
            Step::Write(offset, bytes) => done.push(format!("write {offset}+{}", bytes.len())),
            Step::Save(name, section) => {
                state.put(name, section, Box::new(|saved| saved.unwrap()));
                done.push(format!("save {name}"));
            }
        }
        card.step_done(Ok(()));
    }
    done
}

fn r1(reply: &Reply) -> u32 {
    match reply.response {
        Response::Normal(bits) => bits,
        ref other => panic!("{other:?} is no R1"),
    }
}

/// An SD card in the transfer state, and its address in an argument.
fn sd(config: CardConfig) -> (Card, u32) {
    let mut card = Card::new(config).unwrap();
    card.command(0, 0);
    assert_eq!(card.command(8, 0x1aa).response, Response::Normal(0x1aa));
    card.command(55, 0);
    assert!(matches!(card.command(41, 0x40ff_8000).response, Response::Ocr(o) if o >> 31 == 1));
    card.command(2, 0);
    let rca = r1(&card.command(3, 0)) & 0xffff_0000;
    assert_eq!(r1(&card.command(7, rca)), 0x0700, "it was in standby");
    settle(&mut card);
    (card, rca)
}

fn emmc(config: CardConfig) -> Card {
    let mut card = Card::new(config).unwrap();
    card.command(0, 0);
    assert!(matches!(card.command(1, 0x40ff_8080).response, Response::Ocr(o) if o >> 31 == 1));
    card.command(2, 0);
    card.command(3, 1 << 16);
    card.command(7, 1 << 16);
    settle(&mut card);
    card
}

fn switch_byte(card: &mut Card, index: u8, value: u8) -> u32 {
    card.command(6, 3 << 24 | u32::from(index) << 16 | u32::from(value) << 8);
    settle(card);
    r1(&card.command(13, 1 << 16))
}

fn ext_csd(card: &mut Card) -> Vec<u8> {
    match card.command(8, 0).then {
        Then::Send(bytes, 512) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn crc7_is_that_of_the_specification() {
    // CMD0, CMD17 and its response (SD 4.5).
    assert_eq!(crc7(&[0x40, 0, 0, 0, 0]), 0b100_1010);
    assert_eq!(crc7(&[0x51, 0, 0, 0, 0]), 0b010_1010);
    assert_eq!(crc7(&[0x11, 0, 0, 0x09, 0]), 0b011_0011);
}

#[test]
fn bits_are_numbered_from_the_end() {
    let bits = Bits::<2>::new().put(15, 12, 0xa).put(3, 0, 0x5);
    assert_eq!(bits.0, [0xa0, 0x05]);
    assert_eq!((bits.get(15, 12), bits.get(8, 0)), (0xa, 5));
}

#[test]
fn sizes_are_legal_or_the_next_one_is_named() {
    for size in
        [2048, 1 << 20, 8 << 20, 64 << 20, 1 << 30, 2 << 30, (2 << 30) + (512 << 10), 1 << 40]
    {
        assert_eq!(check_size(size), Ok(()), "{size}");
    }
    let next = |size| match check_size(size) {
        Err(SizeError::Unit { next, .. }) => next,
        other => panic!("{size}: {other:?}"),
    };
    assert_eq!(next(2049), 4096);
    assert_eq!(next((64 << 20) + 1), (64 << 20) + (32 << 10));
    assert_eq!(next((2 << 30) + 512), (2 << 30) + (512 << 10));
    assert_eq!(next((3 << 30) - 512), 3 << 30);
    assert!(matches!(check_size(0), Err(SizeError::Empty)));
    assert!(matches!(check_size((2 << 40) + 1), Err(SizeError::TooLarge(_))));
    let error = check_size(2049).unwrap_err().to_string();
    assert!(error.contains("4096"), "{error}");
}

#[test]
fn a_csd_counts_to_the_size() {
    for size in [2048, 100 << 10, 8 << 20, 63 << 20, 1 << 30, 3 << 29, 2 << 30] {
        let csd = sd_csd(size, false, 0);
        let capacity = (csd.get(73, 62) + 1) << (csd.get(49, 47) + 2) << csd.get(83, 80);
        assert_eq!(capacity, size, "version 1");
        assert_eq!(csd.get(127, 126), 0);
    }
    for size in [(2 << 30) + (512 << 10), 32 << 30, 2 << 40] {
        let csd = sd_csd(size, false, 0);
        assert_eq!((csd.get(69, 48) + 1) * (512 << 10), size, "version 2");
        assert_eq!(csd.get(127, 126), 1);
    }
}

#[test]
fn registers_are_byte_for_byte_what_they_were() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&sd_cid(0x1234_5678).0[..15]), "73535053504e444c10123456780191");
    assert_eq!(hex(&mmc_cid(0x1234_5678).0[..15]), "73015353504e444c4510123456781c");
    assert_eq!(hex(&sd_csd(64 << 20, false, 0).0[..15]), "002600325f5983fffffdcfff8a4000");
    assert_eq!(hex(&sd_csd(4 << 30, true, 0).0[..15]), "400e005a5b5900001fff7f800a4000");
    assert_eq!(hex(&mmc_csd(4 << 30, 0).0[..15]), "d02701328f5903ffffffffe08a4000");
    assert_eq!(hex(&scr(SdVersion::V6)), "0205848300000000");
    assert_eq!(hex(&scr(SdVersion::V2)), "0205000000000000");
    let status = sd_status(SdVersion::V6, 4);
    assert_eq!(hex(&status[..16]), "80000000000000000400900008043900");
    for register in [sd_cid(1), mmc_cid(1), sd_csd(1 << 30, false, 0), mmc_csd(1 << 30, 0)] {
        assert_eq!(register.0[15], crc7(&register.0[..15]) << 1 | 1);
    }
}

#[test]
fn functions_switch_together_or_not_at_all() {
    let (status, functions) = switch([0; 6], false, 0x80ff_fff1);
    assert_eq!(functions, [1, 0, 0, 0, 0, 0]);
    assert_eq!((status[13], status[16] & 0xf), (0x03, 1), "high speed is there, and chosen");
    // Without 1.8 V there is no SDR104: the group answers Fh, and nothing switches.
    let (status, functions) = switch([0; 6], false, 0x80ff_fff3);
    assert_eq!((functions[0], status[16] & 0xf, status[1]), (0, 0xf, 0));
    // A check switches nothing.
    let (status, functions) = switch([0; 6], true, 0x00ff_fff3);
    assert_eq!((functions[0], status[16] & 0xf, status[13]), (0, 3, 0x1f));
}

#[test]
fn a_card_is_identified_step_by_step() {
    let mut card = Card::new(CardConfig::sd(64 << 20)).unwrap();
    assert_eq!(card.command(2, 0), Reply::SILENCE, "not in idle");
    assert_eq!(card.command(0, 0), Reply::SILENCE);
    assert_eq!(card.command(8, 0x2aa), Reply::SILENCE, "no such voltage");
    // The bit of the illegal CMD2 is told once.
    assert_eq!(r1(&card.command(55, 0)), 0x0040_0120);
    assert!(matches!(card.command(41, 0).response, Response::Ocr(0x00ff_8000)), "only asked");
    assert_eq!(r1(&card.command(55, 0)), 0x0120);
    assert_eq!(card.command(41, 0x00ff_8000).response, Response::Ocr(0x80ff_8000));
    assert!(matches!(card.command(2, 0).response, Response::Long(_)));
    let first = r1(&card.command(3, 0));
    assert_eq!(first & 0xffff, 0x0500, "from ident");
    let second = r1(&card.command(3, 0));
    assert_ne!(first >> 16, second >> 16);
    let rca = second & 0xffff_0000;
    assert_eq!(card.command(9, first & 0xffff_0000), Reply::SILENCE, "for another card");
    assert!(matches!(card.command(9, rca).response, Response::Long(_)));
    assert_eq!(r1(&card.command(7, rca)) >> 9 & 15, 3);
    assert_eq!(r1(&card.command(13, rca)) >> 9 & 15, 4);
    card.command(15, rca);
    assert_eq!(card.command(0, 0), Reply::SILENCE);
    assert_eq!(card.command(13, rca), Reply::SILENCE, "inactive");
}

#[test]
fn a_high_capacity_card_waits_for_a_host_that_knows_it() {
    let mut card = Card::new(CardConfig::sd(4 << 30)).unwrap();
    card.command(0, 0);
    card.command(55, 0);
    assert_eq!(card.command(41, 0x00ff_8000).response, Response::Ocr(0x00ff_8000));
    card.command(55, 0);
    assert_eq!(card.command(41, 0x41ff_8000).response, Response::Ocr(0xc1ff_8000), "and 1.8 V");
    assert_eq!(r1(&card.command(11, 0)) >> 9 & 15, 1);
    assert!(card.is_switching_voltage());
    card.voltage_switched();
    assert!(!card.is_switching_voltage());
}

#[test]
fn addresses_are_checked() {
    let (mut card, rca) = sd(CardConfig::sd(1 << 20));
    assert_eq!(r1(&card.command(17, 1 << 20)), 0x8000_0900, "beyond the end");
    assert_eq!(r1(&card.command(17, 100)), 0x4000_0900, "misaligned");
    assert_eq!(r1(&card.command(16, 513)), 0x2000_0900, "a block too long");
    assert_eq!(r1(&card.command(16, 64)), 0x0900);
    assert_eq!(r1(&card.command(17, 64)), 0x0900, "part of a block is read");
    assert_eq!(card.stream().unwrap().range(1), spindle_block::Range::new(64, 64));
    card.moved(1, Ok(()));
    assert_eq!(r1(&card.command(24, 0)), 0x2000_0900, "and not written");
    card.command(16, 512);
    let reply = card.command(18, 1 << 19);
    assert_eq!(reply.then, Then::Stream);
    assert_eq!(card.next_blocks(5000), 1024, "up to the end");
    card.moved(1024, Ok(()));
    assert_eq!(card.next_blocks(1), 0);
    assert_eq!(r1(&card.command(12, 0)), 0x8000_0b00, "and beyond");
    assert_eq!(r1(&card.command(13, rca)), 0x0900, "told once");
}

#[test]
fn a_block_count_ends_a_transfer() {
    let (mut card, rca) = sd(CardConfig::sd(1 << 20));
    card.command(23, 8);
    card.command(18, 0);
    assert_eq!(card.next_blocks(100), 8);
    card.moved(8, Ok(()));
    assert_eq!(r1(&card.command(13, rca)) >> 9 & 15, 4, "no CMD12 is needed");
    card.command(23, 8);
    card.command(13, rca);
    card.command(16, 512);
    card.command(25, 0);
    assert_eq!(card.stream().unwrap().left, None, "CMD16 came in between");
    assert_eq!(r1(&card.command(13, rca)) >> 9 & 15, 6);
    card.moved(3, Err(BlockError::Medium));
    assert_eq!(r1(&card.command(12, 0)), 0x0020_0d00, "ECC failed");
}

#[test]
fn an_erase_is_a_sequence() {
    let (mut card, rca) = sd(CardConfig::sd(4 << 20));
    assert_eq!(r1(&card.command(33, 0)) & 1 << 28, 1 << 28, "no start");
    card.command(32, 512);
    assert_eq!(r1(&card.command(16, 512)) & 1 << 13, 1 << 13, "left half-way");
    card.command(32, 512);
    card.command(33, 1024);
    assert_eq!(card.command(38, 0).then, Then::Busy);
    assert_eq!(r1(&card.command(13, rca)), 0x0e00, "programming, not ready");
    let zero = "WriteZeroes { unmap: true, fua: false } 512+1024";
    assert_eq!(settle(&mut card), [zero]);
    card.command(32, 0);
    card.command(33, 0);
    card.command(38, 1);
    assert_eq!(settle(&mut card), ["Discard 0+512"]);
    card.command(32, 1024);
    card.command(33, 0);
    assert_eq!(r1(&card.command(38, 0)) & 1 << 27, 1 << 27, "backwards");
}

#[test]
fn protected_groups_are_neither_written_nor_erased() {
    let state = DiskState::volatile();
    let config = CardConfig { state: Arc::clone(&state), ..CardConfig::sd(16 << 20) };
    let (mut card, rca) = sd(config.clone());
    card.command(28, 2 << 20);
    assert_eq!(settle(&mut card), ["save sd"]);
    let Then::Send(bits, 4) = card.command(30, 0).then else { panic!() };
    assert_eq!(bits, [0, 0, 0, 2]);
    card.command(25, (2 << 20) - 512);
    assert_eq!(card.next_blocks(8), 1);
    card.moved(1, Ok(()));
    assert_eq!(card.next_blocks(8), 0);
    assert_eq!(r1(&card.command(12, 0)) & 1 << 26, 1 << 26);
    settle(&mut card);
    card.command(32, 0);
    card.command(33, (6 << 20) - 512);
    assert_eq!(r1(&card.command(38, 0)) & 1 << 15, 1 << 15, "some were skipped");
    let steps = settle(&mut card);
    assert!(
        steps[0].ends_with(" 0+2097152") && steps[1].ends_with(" 4194304+2097152"),
        "{steps:?}"
    );
    // It outlives the card's power, until it is cleared.
    let (mut card, _) = sd(config);
    let Then::Send(bits, 4) = card.command(30, 2 << 20).then else { panic!() };
    assert_eq!(bits, [0, 0, 0, 1]);
    card.command(29, 2 << 20);
    settle(&mut card);
    let Then::Send(bits, 4) = card.command(30, 0).then else { panic!() };
    assert_eq!((bits, rca != 0), (vec![0; 4], true));
}

#[test]
fn a_password_locks_the_card() {
    let state = DiskState::volatile();
    let config = CardConfig { state, ..CardConfig::sd(1 << 20) };
    let (mut card, rca) = sd(config.clone());
    let lock = |card: &mut Card, block: &[u8]| {
        card.command(16, block.len() as u32);
        assert!(matches!(card.command(42, 0).then, Then::Take { blocks: 1, .. }));
        card.received(block);
        settle(card);
        r1(&card.command(13, rca))
    };
    assert_eq!(lock(&mut card, b"\x05\x03key"), 0x0200_0900, "set and locked");
    assert_eq!(card.command(17, 0), Reply::SILENCE);
    assert_eq!(lock(&mut card, b"\x00\x03kex") & 0x0300_0000, 0x0300_0000, "wrong");
    assert_eq!(lock(&mut card, b"\x00\x03key"), 0x0900, "unlocked");
    assert_eq!(card.command(17, 0).then, Then::Stream);
    card.moved(1, Ok(()));
    // After power on it is locked again; a forced erase opens it.
    let (mut card, again) = sd_locked(config);
    assert_eq!(again & 1 << 25, 1 << 25);
    card.command(16, 1);
    card.command(42, 0);
    card.received(&[8]);
    let steps = settle(&mut card);
    assert_eq!(steps[0], "WriteZeroes { unmap: true, fua: false } 0+1048576");
    assert_eq!(steps.last().unwrap(), "save sd");
    assert_eq!(card.command(17, 0).then, Then::Stream);
}

fn sd_locked(config: CardConfig) -> (Card, u32) {
    let mut card = Card::new(config).unwrap();
    for (index, arg) in [(0, 0), (55, 0), (41, 0x00ff_8000), (2, 0)] {
        card.command(index, arg);
    }
    let rca = r1(&card.command(3, 0)) & 0xffff_0000;
    let status = r1(&card.command(7, rca));
    (card, status)
}

#[test]
fn a_csd_is_programmed_where_it_can_be() {
    let (mut card, rca) = sd(CardConfig::sd(1 << 20));
    let program = |card: &mut Card, temporary: bool, size: u64| {
        let csd = sd_csd(size, false, if temporary { 4 } else { 0 });
        card.command(27, 0);
        card.received(&csd.0);
        settle(card);
        r1(&card.command(13, rca))
    };
    assert_eq!(program(&mut card, true, 1 << 20), 0x0900);
    card.command(24, 0);
    assert_eq!(card.next_blocks(1), 0, "write protected");
    card.cut_off();
    card.command(13, rca);
    assert_eq!(program(&mut card, false, 1 << 20), 0x0900);
    assert_eq!(program(&mut card, false, 2 << 20), 0x0001_0900, "the size is fixed");
}

#[test]
fn ext_csd_says_what_there_is() {
    let kind = CardKind::Emmc { boot: 1 << 20, rpmb: 128 << 10 };
    let user = 4_u64 << 30;
    let size = user + (2 << 20) + (128 << 10);
    let mut card = emmc(CardConfig { kind, ..CardConfig::emmc(size) });
    let csd = ext_csd(&mut card);
    let sectors = u32::from_le_bytes(csd[212..216].try_into().unwrap());
    assert_eq!(u64::from(sectors) * 512, user);
    assert_eq!((csd[192], csd[226], csd[168], csd[196]), (8, 8, 1, 0x57));
    assert_eq!((csd[231], csd[502], csd[503] & 1), (0x50, 1, 1));
    let refused =
        CardConfig { kind: CardKind::Emmc { boot: 1000, rpmb: 0 }, ..CardConfig::emmc(size) };
    assert!(matches!(Card::new(refused), Err(CardLayoutError::Partition { what: "boot", .. })));
    assert!(matches!(
        Card::new(CardConfig { kind, ..CardConfig::emmc(2 << 20) }),
        Err(CardLayoutError::NoRoom(_))
    ));
}

#[test]
fn switches_follow_the_rules_of_their_fields() {
    let state = DiskState::volatile();
    let kind = CardKind::Emmc { boot: 128 << 10, rpmb: 0 };
    let config = CardConfig { kind, state, ..CardConfig::emmc((256 << 10) + (64 << 20)) };
    let mut card = emmc(config.clone());
    let error = 1 << 7;
    assert_eq!(switch_byte(&mut card, 183, 2) & error, 0);
    assert_eq!(card.width(), 8);
    assert_ne!(switch_byte(&mut card, 183, 3) & error, 0, "no such width");
    assert_ne!(switch_byte(&mut card, 192, 9) & error, 0, "read only");
    assert_eq!(switch_byte(&mut card, 179, 0x48 | 1) & error, 0, "boot 1, and its partition");
    card.command(17, 0);
    assert_eq!(card.stream().map(|s| (s.offset, s.end)), Some((0, 128 << 10)));
    card.moved(1, Ok(()));
    assert_ne!(switch_byte(&mut card, 179, 3) & error, 0, "there is no RPMB");
    assert_eq!(switch_byte(&mut card, 162, 1) & error, 0);
    assert_ne!(switch_byte(&mut card, 162, 0) & error, 0, "once and for all");
    let mut card = emmc(config);
    let csd = ext_csd(&mut card);
    assert_eq!((csd[179], csd[162], csd[183]), (0x48, 1, 0), "what lasts and what does not");
}

#[test]
fn the_cache_is_flushed_when_it_is_to_be() {
    let mut card = emmc(CardConfig::emmc(64 << 20));
    let write = |card: &mut Card| {
        card.command(24, 0);
        let durable = card.stream().unwrap().durable;
        card.moved(1, Ok(()));
        durable
    };
    assert!(write(&mut card), "without cache");
    switch_byte(&mut card, 33, 1);
    assert!(!write(&mut card));
    card.command(23, 1 << 31 | 1);
    card.command(25, 0);
    assert!(card.stream().unwrap().durable, "a reliable write");
    card.moved(1, Ok(()));
    let mut switch = |index: u32, value: u32| {
        card.command(6, 3 << 24 | index << 16 | value << 8);
        settle(&mut card)
    };
    assert_eq!(switch(32, 1), ["Flush 0+0"]);
    assert_eq!(switch(165, 1), ["Flush 0+0"], "sanitize");
    assert_eq!(switch(164, 1), Vec::<String>::new(), "no background operation is outstanding");
    write(&mut card);
    card.command(6, 3 << 24 | 34 << 16 | 3 << 8);
    assert_eq!(settle(&mut card), ["Flush 0+0"], "power will go");
    write(&mut card);
    card.command(7, 0);
    assert_eq!(settle(&mut card), ["Flush 0+0"], "deselected");
}

#[test]
fn an_interrupt_of_high_priority_ends_an_erase() {
    let mut card = emmc(CardConfig::emmc(8 << 30));
    switch_byte(&mut card, 161, 1);
    card.command(35, 0);
    card.command(36, (8 << 21) - 1);
    card.command(38, 0);
    let Some(Step::Bare(Op::WriteZeroes { .. }, range)) = card.next_step() else { panic!() };
    assert_eq!(range.len, 1 << 30);
    card.command(13, 1 << 16 | 1);
    card.step_done(Ok(()));
    assert!(card.next_step().is_none());
    assert_eq!(r1(&card.command(13, 1 << 16)) >> 9 & 15, 4);
}

#[test]
fn general_purpose_partitions_come_with_the_next_power_on() {
    let state = DiskState::volatile();
    let config = CardConfig { state, ..CardConfig::emmc(64 << 20) };
    let mut card = emmc(config.clone());
    switch_byte(&mut card, 143, 4);
    assert_eq!(switch_byte(&mut card, 155, 1) & 1 << 7, 0);
    assert_ne!(switch_byte(&mut card, 143, 8) & 1 << 7, 0, "it is completed");
    let mut card = emmc(config);
    let csd = ext_csd(&mut card);
    assert_eq!(u32::from_le_bytes(csd[212..216].try_into().unwrap()), (62 << 20) / 512);
    assert_eq!(switch_byte(&mut card, 179, 4) & 1 << 7, 0);
    card.command(17, 0);
    assert_eq!(card.stream().map(|s| (s.offset, s.end)), Some((62 << 20, 64 << 20)));
}

#[test]
fn boot_partitions_can_be_protected_until_power_is_off() {
    let kind = CardKind::Emmc { boot: 128 << 10, rpmb: 0 };
    let mut card = emmc(CardConfig { kind, ..CardConfig::emmc((256 << 10) + (1 << 20)) });
    switch_byte(&mut card, 173, 1);
    assert_eq!(ext_csd(&mut card)[174], 5);
    switch_byte(&mut card, 179, 1);
    card.command(24, 0);
    assert_eq!(card.next_blocks(1), 0);
    card.cut_off();
    assert_eq!(r1(&card.command(13, 1 << 16)) & 1 << 26, 1 << 26);
}

#[test]
fn every_error_of_the_block_layer_is_a_bit_of_the_status() {
    let table: Vec<_> =
        BlockError::ALL.iter().map(|e| (*e, error_bits(*e).trailing_zeros())).collect();
    assert_eq!(
        table.iter().map(|(_, bit)| *bit).collect::<Vec<_>>(),
        [31, 30, 26, 19, 21, 19, 20, 19, 19, 20, 19, 19],
        "{table:?}"
    );
}
