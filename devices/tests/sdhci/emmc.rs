//! eMMC devices behind the controller: partitions, the RPMB, cache, lines.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use spindle_devices::{
    sd::{CardConfig, CardKind},
    sdhci::SlotKind,
    state_file::DiskState,
};

use super::{
    driver::{Data, Driver, Kind, Way, controller},
    pattern,
};

const BOOT: u64 = 256 << 10;
const RPMB: u64 = 128 << 10;
const USER: u64 = 64 << 20;

fn emmc(state: Arc<DiskState>) -> Driver {
    let size = 2 * BOOT + RPMB + USER;
    let mut driver = controller(size, |config| config.slot = SlotKind::Embedded);
    let kind = CardKind::Emmc { boot: BOOT, rpmb: RPMB };
    driver.insert(CardConfig { kind, state, ..CardConfig::emmc(size) });
    driver.power_on();
    driver.identify_emmc();
    driver
}

#[test]
fn partitions_lie_in_the_image_one_after_the_other() {
    let driver = emmc(DiskState::volatile());
    for (access, start) in [(1, 0), (2, BOOT), (0, 2 * BOOT + RPMB)] {
        assert_eq!(driver.switch(179, access) & 0x80, 0);
        let bytes = pattern(access as u8, 8 * 512);
        driver.write(Way::Adma2, 4, &bytes);
        assert_eq!(driver.contents(start + 2048, bytes.len()), bytes, "{access}");
        assert_eq!(driver.read(Way::Port, 4, 8), bytes);
    }
    driver.switch(179, 1);
    let beyond = driver.cmd(17, BOOT as u32, Kind::Short);
    assert_eq!(beyond >> 31, 1, "a boot partition ends");
}

#[test]
fn eight_lines_are_tested_tuned_and_used() {
    let mut driver = emmc(DiskState::volatile());
    driver.width = 8;
    // The bus test comes back inverted.
    driver.set(0x28, 1, 0);
    driver.width = 1;
    let data = |write, block| Data { way: Way::Port, write, block, blocks: 1, auto: 0 };
    driver.data(19, 0, data(true, 4), &[0x80, 0, 0, 0]);
    assert_eq!(driver.data(14, 0, data(false, 4), &[]), [0x7f, 0xff, 0xff, 0xff]);
    driver.switch(183, 2);
    driver.width = 8;
    driver.switch(185, 2);
    let block = driver.register(21, 0, 128);
    assert_eq!(block[..6], [0xff, 0xff, 0x00, 0xff, 0xff, 0xff]);
    let csd = driver.register(8, 0, 512);
    assert_eq!((csd[183], csd[185], csd[192]), (2, 2, 8));
    let bytes = pattern(3, 4096);
    driver.write(Way::Adma2Wide, 0, &bytes);
    assert_eq!(driver.read(Way::Sdma, 0, 8), bytes);
}

#[test]
fn trim_and_erase_reach_the_image() {
    let driver = emmc(DiskState::volatile());
    let start = 2 * BOOT + RPMB;
    driver.write(Way::Adma2, 0, &vec![5; 1 << 20]);
    for (argument, first, last, zeros) in
        [(1, 2, 3, (1024, 2048)), (3, 8, 8, (4096, 4608)), (0, 0, 0, (0, 512 << 10))]
    {
        driver.cmd(35, driver.address(first), Kind::Short);
        driver.cmd(36, driver.address(last), Kind::Short);
        driver.cmd(38, argument, Kind::Busy);
        let bytes = driver.contents(start, 1 << 20);
        assert!(bytes[zeros.0..zeros.1].iter().all(|b| *b == 0), "{argument}");
        assert_eq!(bytes[zeros.1], 5);
    }
}

const KEY: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";

/// An RPMB frame, from its fields.
fn frame(kind: u16, counter: u32, address: u16, blocks: u16, data: u8) -> Vec<u8> {
    let mut frame = vec![0; 512];
    frame[228..484].fill(data);
    frame[484..500].copy_from_slice(b"a nonce, 16 byte");
    frame[500..504].copy_from_slice(&counter.to_be_bytes());
    frame[504..506].copy_from_slice(&address.to_be_bytes());
    frame[506..508].copy_from_slice(&blocks.to_be_bytes());
    frame[510..512].copy_from_slice(&kind.to_be_bytes());
    frame
}

fn mac(frames: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    frames.chunks(512).for_each(|frame| mac.update(&frame[228..]));
    mac.finalize().into_bytes().into()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// Result and type of a response.
fn answer(frame: &[u8]) -> (u32, u32) {
    (number(&frame[508..510]), number(&frame[510..512]))
}

fn send(driver: &Driver, frames: &[u8], reliable: bool) {
    let blocks = frames.len() as u64 / 512;
    driver.cmd(23, u32::from(reliable) << 31 | blocks as u32, Kind::Short);
    driver.data(25, 0, Data { auto: 0, ..Data::write(Way::Adma2, blocks) }, frames);
}

fn receive(driver: &Driver, blocks: u64) -> Vec<u8> {
    driver.cmd(23, blocks as u32, Kind::Short);
    driver.data(18, 0, Data { auto: 0, ..Data::read(Way::Adma2, blocks) }, &[])
}

/// Sends a request and asks for its result.
fn result(driver: &Driver, frames: &[u8]) -> Vec<u8> {
    send(driver, frames, true);
    send(driver, &frame(5, 0, 0, 0, 0), false);
    receive(driver, 1)
}

fn signed(mut frames: Vec<u8>) -> Vec<u8> {
    let mac = mac(&frames);
    let last = frames.len() - 512;
    frames[last + 196..last + 228].copy_from_slice(&mac);
    frames
}

#[test]
fn the_rpmb_takes_what_is_authentic_and_counts_it() {
    let state = DiskState::volatile();
    let driver = emmc(Arc::clone(&state));
    driver.switch(179, 3);
    send(&driver, &frame(2, 0, 0, 0, 0), false);
    assert_eq!(answer(&receive(&driver, 1)), (7, 0x0200), "no key yet");
    let mut key = frame(1, 0, 0, 0, 0);
    key[196..228].copy_from_slice(&KEY);
    assert_eq!(answer(&result(&driver, &key)), (0, 0x0100));
    assert_eq!(answer(&result(&driver, &key)), (1, 0x0100), "once and for all");

    let write = signed(frame(3, 0, 2, 1, 0x5a));
    let told = result(&driver, &write);
    assert_eq!((answer(&told), number(&told[500..504])), ((0, 0x0300), 1));
    assert_eq!(told[196..228], mac(&told));
    assert_eq!(answer(&result(&driver, &write)), (3, 0x0300), "replayed");
    let mut forged = signed(frame(3, 1, 2, 1, 0x5a));
    forged[230] ^= 1;
    assert_eq!(answer(&result(&driver, &forged)), (2, 0x0300));
    assert_eq!(answer(&result(&driver, &signed(frame(3, 1, 512, 1, 0)))), (4, 0x0300));
    let two = [frame(3, 1, 4, 2, 1), frame(3, 1, 4, 2, 2)].concat();
    assert_eq!(answer(&result(&driver, &signed(two))), (0, 0x0300));
    assert_eq!(driver.contents(2 * BOOT + 1024, 512), [[1_u8; 256], [2; 256]].concat());

    let mut read = frame(4, 0, 2, 0, 0);
    read[228..484].fill(0);
    send(&driver, &read, false);
    let frames = receive(&driver, 3);
    let data: Vec<u8> = frames.chunks(512).map(|frame| frame[300]).collect();
    assert_eq!(data, [0x5a, 0, 1]);
    assert_eq!(
        (answer(&frames[1024..]), &frames[1024 + 484..1024 + 500]),
        ((0, 0x0400), &b"a nonce, 16 byte"[..])
    );
    assert_eq!(frames[1024 + 196..1024 + 228], mac(&frames));

    // Key and counter outlive the device's power.
    let driver = emmc(state);
    driver.switch(179, 3);
    send(&driver, &frame(2, 0, 0, 0, 0), false);
    let told = receive(&driver, 1);
    assert_eq!((answer(&told), number(&told[500..504])), ((0, 0x0200), 2));
    assert_eq!(told[196..228], mac(&told));
}

#[test]
fn plain_reads_and_writes_of_the_rpmb_are_refused() {
    let driver = emmc(DiskState::volatile());
    driver.switch(179, 3);
    assert_eq!(
        driver.try_cmd(17, 0, Kind::Short).map(drop),
        Ok(()),
        "a response without a request"
    );
    driver.set(0x2f, 1, 6);
    driver.set(0x08, 4, 0);
    assert_eq!(driver.try_cmd(25, 0, Kind::Short), Err(1), "without a count");
    assert_eq!(driver.card_status() >> 22 & 1, 1);
}

/// CMD44 and CMD45: names a transfer of `blocks`.
fn name_task(driver: &Driver, number: u32, read: bool, blocks: u32, block: u64) -> u32 {
    driver.cmd(44, u32::from(read) << 30 | number << 16 | blocks, Kind::Short);
    driver.cmd(45, driver.address(block), Kind::Short)
}

/// The queue status register.
fn queue_status(driver: &Driver) -> u32 {
    driver.cmd(13, driver.rca | 1 << 15, Kind::Short)
}

/// CMD46 or CMD47.
fn execute(driver: &Driver, number: u32, write: bool, bytes: &[u8]) -> Result<Vec<u8>, u64> {
    let blocks = bytes.len() as u64 / 512;
    let data = Data { way: Way::Adma2, write, block: 512, blocks, auto: 0 };
    driver.try_data(if write { 47 } else { 46 }, number << 16, data, bytes)
}

#[test]
fn queued_transfers_are_executed_by_number() {
    let driver = emmc(DiskState::volatile());
    let ext = driver.register(8, 0, 512);
    assert_eq!((ext[308] & 1, ext[307]), (1, 31), "a queue of 32 tasks");
    assert!(driver.try_cmd(44, 1, Kind::Short).is_err(), "it is off");
    assert_eq!(driver.switch(15, 1) & 0x80, 0);
    let tasks = [(31_u32, 8_u32, 100_u64), (0, 1, 5), (7, 64, 1000)];
    for (number, blocks, block) in tasks {
        name_task(&driver, number, false, blocks, block);
    }
    assert_eq!(queue_status(&driver), 1 << 31 | 1 << 7 | 1);
    for (number, blocks, block) in tasks.into_iter().rev() {
        let bytes = pattern(number as u8, blocks as usize * 512);
        execute(&driver, number, true, &bytes).unwrap();
        let at = 2 * BOOT + RPMB + block * 512;
        assert_eq!(driver.contents(at, bytes.len()), bytes);
        assert!(execute(&driver, number, true, &bytes).is_err(), "once");
    }
    assert_eq!(queue_status(&driver), 0);
    for (number, blocks, block) in tasks {
        name_task(&driver, number, true, blocks, block);
        let len = blocks as usize * 512;
        let bytes = execute(&driver, number, false, &vec![0; len]).unwrap();
        assert_eq!(bytes, pattern(number as u8, len));
    }
}

#[test]
fn a_queue_refuses_what_is_not_queued() {
    let driver = emmc(DiskState::volatile());
    driver.switch(15, 1);
    for index in [17, 18, 23, 24, 25, 35, 36, 38, 42, 56] {
        assert!(driver.try_cmd(index, 0, Kind::Short).is_err(), "CMD{index}");
    }
    driver.cmd(16, 512, Kind::Short);
    // No blocks, no first half, taken, beyond the end, of the other direction.
    assert!(driver.try_cmd(44, 0, Kind::Short).is_err());
    assert!(driver.try_cmd(45, 0, Kind::Short).is_err());
    name_task(&driver, 1, true, 1, 0);
    assert!(driver.try_cmd(44, 1 << 16 | 1, Kind::Short).is_err());
    assert_eq!(name_task(&driver, 2, true, 2, USER / 512 - 1) >> 31, 1);
    assert_eq!(queue_status(&driver), 2);
    assert!(execute(&driver, 1, true, &[0; 512]).is_err());
    assert!(execute(&driver, 3, false, &[0; 512]).is_err());
    // It stays on while there are tasks, and the partition is the same.
    assert_ne!(driver.switch(15, 0) & 0x80, 0);
    assert_ne!(driver.switch(179, 1) & 0x80, 0);
    // CMD48: one task, and all.
    name_task(&driver, 4, true, 1, 0);
    driver.cmd(48, 1 << 16 | 2, Kind::Busy);
    assert_eq!(queue_status(&driver), 1 << 4);
    driver.cmd(48, 1, Kind::Busy);
    assert_eq!(queue_status(&driver), 0);
    assert!(driver.try_cmd(48, 3, Kind::Busy).is_err());
    assert_eq!(driver.switch(15, 0) & 0x80, 0);
    driver.read(Way::Adma2, 0, 1);
}

#[test]
fn a_reset_ends_the_queue() {
    let mut driver = emmc(DiskState::volatile());
    driver.switch(15, 1);
    name_task(&driver, 1, true, 1, 0);
    driver.identify_emmc();
    driver.read(Way::Adma2, 0, 1);
    driver.switch(15, 1);
    assert_eq!(queue_status(&driver), 0);
    // Not in the RPMB.
    driver.switch(15, 0);
    driver.switch(179, 3);
    assert_ne!(driver.switch(15, 1) & 0x80, 0);
}

#[test]
fn hs400_has_eight_lines_at_double_data_rate() {
    let mut driver = emmc(DiskState::volatile());
    let ext = driver.register(8, 0, 512);
    assert_eq!((ext[196] & 0x40, ext[184]), (0x40, 1), "HS400, enhanced strobe");
    driver.switch(185, 1);
    assert_ne!(driver.switch(185, 3) & 0x80, 0, "not with one line");
    for width in [6, 0x86] {
        assert_eq!(driver.switch(183, width) & 0x80, 0, "{width:#x}");
        driver.width = 8;
        assert_eq!(driver.switch(185, 3) & 0x80, 0, "{width:#x}");
        driver.write(Way::Adma2, 9, &pattern(width as u8, 1024));
        assert_eq!(driver.read(Way::Adma2, 9, 2), pattern(width as u8, 1024));
        driver.switch(185, 1);
    }
    assert_ne!(driver.switch(183, 0x85) & 0x80, 0, "four lines have no strobe");
}
