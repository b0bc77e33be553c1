//! What the controller and a card do together: voltages, tuning, lines, erases, protection.

use spindle_devices::sd::CardConfig;

use super::{
    driver::{Data, Kind, Way, controller, sd},
    pattern,
};

#[test]
fn long_responses_lie_in_the_words_as_they_should() {
    let mut driver = controller(4 << 30, |_| ());
    driver.insert(CardConfig { serial: 0x0102_0304, ..CardConfig::sd(4 << 30) });
    driver.power_on();
    driver.identify_sd();
    driver.set(0x28, 1, 0);
    driver.cmd(7, 0, Kind::None);
    driver.cmd(10, driver.rca, Kind::Long);
    let words: Vec<u64> = (0..4).map(|i| driver.get(0x10 + 4 * i, 4)).collect();
    // Bits 127 to 8 of the CID in bits 119 to 0.
    assert_eq!(
        words,
        [0x0304_0191, 0x4c10_0102, 0x5053_504e_u64 << 8 & 0xffff_ffff | 0x44, 0x0073_5350]
    );
}

#[test]
fn signals_change_to_1_8_v_and_tuning_finds_the_clock() {
    let mut driver = controller(4 << 30, |_| ());
    driver.insert(CardConfig::sd(4 << 30));
    driver.power_on();
    driver.cmd(0, 0, Kind::None);
    driver.cmd(8, 0x1aa, Kind::Short);
    assert_eq!(driver.app(41, 0x41ff_8000, Kind::Ocr) >> 24, 0xc1, "S18A");
    assert_eq!(driver.get(0x24, 4) >> 20 & 0x1f, 0x1f);
    driver.cmd(11, 0, Kind::Short);
    assert_eq!(driver.get(0x24, 4) >> 20 & 0x1f, 0, "the card holds its lines");
    driver.set(0x2c, 2, 0x0401);
    driver.set(0x3e, 2, 0x08);
    driver.set(0x2c, 2, 0x0405);
    driver.machine.run();
    assert_eq!((driver.get(0x24, 4) >> 20 & 0x1f, driver.get(0x3e, 2)), (0x1f, 0x08));
    driver.cmd(2, 0, Kind::Long);
    driver.rca = driver.cmd(3, 0, Kind::Short) & 0xffff_0000;
    driver.cmd(7, driver.rca, Kind::Busy);
    driver.high = true;
    driver.use_four_lines();
    assert_eq!(driver.register(6, 0x80ff_fff3, 64)[16] & 0xf, 3, "SDR104");
    // Tuning: nothing but Buffer Read Ready, until the clock is found.
    driver.set(0x3e, 2, 0x4b);
    let mut blocks = 0;
    while driver.get(0x3e, 2) & 0x40 != 0 {
        driver.go(19, 0, Data { way: Way::Port, write: false, block: 64, blocks: 1, auto: 0 });
        assert_eq!((driver.get(0x30, 4), driver.get(0x24, 4) & 3), (0x20, 0));
        driver.status();
        blocks += 1;
        assert!(blocks <= 40, "tuning never ends");
    }
    assert_eq!(driver.get(0x3e, 2), 0x8b);
    let bytes = pattern(1, 4096);
    driver.write(Way::Adma2, 0, &bytes);
    assert_eq!(driver.read(Way::Adma2, 0, 8), bytes);
    // Without power it starts at 3.3 V again.
    driver.set(0x29, 1, 0);
    driver.set(0x3e, 2, 0);
    driver.set(0x29, 1, 0x0f);
    driver.machine.run();
    driver.rca = 0;
    driver.cmd(0, 0, Kind::None);
    assert_eq!(driver.app(41, 0x41ff_8000, Kind::Ocr) >> 24, 0xc1);
}

#[test]
fn a_tuning_block_is_a_known_pattern() {
    let mut driver = sd(1 << 20);
    driver.use_four_lines();
    let block = driver.register(19, 0, 64);
    let pattern = "ff0fff00ffccc3ccc33cccfffefffeefffdfffddfffbfffbbfff7fff77f7bdef\
                   fff0fff00ffccc3ccc33cccfffefffeefffdfffddfffbfffbbfff7fff77f7bde";
    let sent: String = block.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sent, pattern);
}

#[test]
fn card_and_controller_have_to_agree_on_the_lines() {
    let mut driver = sd(1 << 20);
    driver.width = 4;
    let result = driver.try_data(17, 0, Data { auto: 0, ..Data::read(Way::Adma2, 1) }, &[]);
    assert_eq!(result, Err(0x20));
    driver.width = 1;
    driver.read(Way::Adma2, 0, 1);
    driver.use_four_lines();
    driver.read(Way::Adma2, 0, 1);
}

#[test]
fn an_erase_reaches_the_image() {
    for (size, argument) in [(4 << 20, 0), (4 << 30, 0), (4 << 30, 1)] {
        let driver = sd(size);
        driver.write(Way::Adma2, 0, &vec![7; 64 << 10]);
        driver.cmd(32, driver.address(8), Kind::Short);
        driver.cmd(33, driver.address(119), Kind::Short);
        driver.cmd(38, argument, Kind::Busy);
        let bytes = driver.contents(0, 64 << 10);
        assert!(bytes[..4096].iter().all(|b| *b == 7) && bytes[61440..].iter().all(|b| *b == 7));
        assert!(bytes[4096..61440].iter().all(|b| *b == 0), "{size} {argument}");
    }
}

#[test]
fn a_write_to_a_protected_group_fails_half_way() {
    let driver = sd(8 << 20);
    driver.cmd(28, 2 << 20, Kind::Busy);
    assert_eq!(driver.register(30, 0, 4), [0, 0, 0, 2]);
    let last = (2 << 20) / 512 - 2;
    let data = Data::write(Way::Adma2, 4);
    assert!(driver.try_data(25, last * 512, data, &[9; 2048]).is_err());
    driver.cmd(12, 0, Kind::Busy);
    assert_eq!(driver.contents(u64::from(last) * 512, 2048), [[9_u8; 1024], [0; 1024]].concat());
}

#[test]
fn a_password_is_a_block_of_data() {
    let driver = sd(1 << 20);
    let lock = |block: &[u8]| {
        let len = block.len() as u64;
        driver.cmd(16, len as u32, Kind::Short);
        let data = Data { way: Way::Port, write: true, block: len, blocks: 1, auto: 0 };
        driver.data(42, 0, data, block);
        driver.card_status()
    };
    assert_eq!(lock(b"\x05\x06secret") & 1 << 25, 1 << 25);
    assert_eq!(driver.try_cmd(23, 1, Kind::Short), Err(1), "locked");
    assert_eq!(lock(b"\x00\x06secret") & 1 << 25, 0);
    driver.cmd(16, 512, Kind::Short);
    driver.read(Way::Adma2, 0, 1);
}

#[test]
fn the_write_protect_switch_is_a_level() {
    let driver = sd(1 << 20);
    assert_eq!(driver.get(0x24, 4) >> 19 & 1, 1);
    driver.sdhci.set_write_protected(true);
    assert_eq!(driver.get(0x24, 4) >> 19 & 1, 0);
    driver.sdhci.set_write_protected(false);
    assert_eq!(driver.get(0x24, 4) >> 19 & 1, 1);
}

#[test]
fn a_card_of_no_size_is_refused() {
    let driver = controller(1 << 20, |_| ());
    let error =
        driver.sdhci.insert(CardConfig::sd(1000), std::sync::Arc::clone(&driver.root), None);
    assert_eq!(
        error.unwrap_err().to_string(),
        "a card cannot have 1000 bytes: the next size that one can have is 2048; resize the image"
    );
    driver.insert(CardConfig::sd(1 << 20));
    let again =
        driver.sdhci.insert(CardConfig::sd(1 << 20), std::sync::Arc::clone(&driver.root), None);
    assert!(again.unwrap_err().to_string().contains("already"));
}
