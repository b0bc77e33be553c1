//! What fails, and how it is told.

use spindle_block::{BlockError, nodes::fault::FaultOp};
use spindle_devices::{
    Device,
    policy::{ErrorAction, ErrorPolicy},
    sd::CardConfig,
};

use super::{
    driver::{Data, Driver, Kind, Way, controller, sd},
    pattern,
};

#[test]
fn nobody_answers_without_a_card() {
    let driver = controller(1 << 20, |_| ());
    driver.power_on();
    driver.set(0x29, 1, 0x0f);
    driver.set(0x0e, 2, 0x0000);
    driver.machine.run();
    assert_eq!((driver.get(0x30, 4), driver.get(0x24, 4) & 1), (0, 0), "no power, no command");
}

#[test]
fn responses_are_checked_as_the_command_register_says() {
    let driver = sd(1 << 20);
    driver.cmd(7, 0, Kind::None);
    let raw = |index: u64, flags: u64| {
        driver.set(0x08, 4, driver.rca.into());
        driver.set(0x0e, 2, index << 8 | flags);
        driver.machine.run();
        let status = driver.status();
        driver.set(0x2f, 1, 2);
        status
    };
    assert_eq!(raw(9, 0x19), (0, 8), "a long response has no index");
    assert_eq!(raw(9, 0x1a), (0, 4), "it goes on after 48 bits");
    assert_eq!(raw(13, 0x09), (0, 2), "it ends before 136 bits");
    assert_eq!(raw(13, 0x00), (1, 0), "nobody listens");
    assert_eq!(raw(17, 0x1a), (0, 1), "nobody answers");
    assert_eq!(raw(13, 0x1a), (1, 0));
}

#[test]
fn blocks_of_another_length_are_noticed() {
    let driver = sd(1 << 20);
    let try_block = |write: bool, block: u64| {
        let data = Data { way: Way::Adma2, write, block, blocks: 1, auto: 0 };
        let result =
            driver.try_data(if write { 24 } else { 17 }, 0, data, &vec![0; block as usize]);
        driver.card_status();
        result.unwrap_err()
    };
    assert_eq!(try_block(false, 256), 0x20, "cut off");
    assert_eq!(try_block(false, 1024), 0x10, "waits for more");
    assert_eq!(try_block(true, 256), 0x20);
    // And a command that brings no data, or in the other direction.
    let data = Data { auto: 0, ..Data::read(Way::Adma2, 1) };
    assert_eq!(driver.try_data(13, driver.rca, data, &[]), Err(0x10));
    assert_eq!(driver.try_data(24, 0, data, &[]), Err(0x10));
}

#[test]
fn a_read_beyond_the_end_brings_what_there_is() {
    let driver = sd(1 << 20);
    assert_eq!(driver.try_data(18, (1 << 20) - 1024, Data::read(Way::Adma2, 4), &[]), Err(0x10));
    assert_eq!(driver.cmd(12, 0, Kind::Busy) >> 31, 1);
}

#[test]
fn errors_below_are_told_by_card_and_controller() {
    let rows = [
        (BlockError::Medium, 1 << 21),
        (BlockError::Corrupt, 1 << 20),
        (BlockError::NoMemory, 1 << 20),
        (BlockError::Gone, 1 << 19),
        (BlockError::Permission, 1 << 19),
        (BlockError::TimedOut, 1 << 19),
    ];
    let driver = sd(1 << 20);
    for (error, bit) in rows {
        for (op, index, write, seen) in
            [(FaultOp::Read, 17, false, 0x10), (FaultOp::Write, 24, true, 0x20)]
        {
            driver.fail(op, error, Some(1));
            let data = Data { write, auto: 0, ..Data::read(Way::Adma2, 1) };
            assert_eq!(driver.try_data(index, 0, data, &[1; 512]), Err(seen), "{error:?}");
            assert_eq!(driver.card_status(), 0x0900 | bit, "{error:?}");
        }
    }
    // It works again.
    let bytes = pattern(4, 4096);
    driver.write(Way::Adma2, 0, &bytes);
    assert_eq!(driver.read(Way::Adma2, 0, 8), bytes);
}

fn no_space(configure: ErrorPolicy) -> Driver {
    let mut driver = controller(1 << 20, |config| config.werror = configure);
    driver.insert(CardConfig::sd(1 << 20));
    driver.power_on();
    driver.identify_sd();
    driver.fail(FaultOp::Write, BlockError::NoSpace, Some(1));
    driver
}

#[test]
fn a_write_without_space_waits_for_the_machine_to_go_on() {
    let driver = no_space(ErrorPolicy::Enospc);
    let bytes = pattern(7, 4096);
    let at = driver.machine.memory.alloc(4096, 4096);
    driver.machine.memory.write(at, &bytes);
    driver.start(25, 0, Data::write(Way::Adma2, 8), at);
    assert_eq!(driver.status(), (0, 0), "nothing is told");
    let events = driver.machine.errors.take();
    assert_eq!(events.iter().map(|e| e.action).collect::<Vec<_>>(), [ErrorAction::Stop]);
    let function = driver.sdhci.function();
    driver.machine.finish(|done| function.pause(done));
    function.resume();
    driver.machine.run();
    assert_eq!(driver.status(), (3, 0));
    assert_eq!(driver.contents(0, 4096), bytes);
}

#[test]
fn a_parked_write_does_not_hold_up_a_reset() {
    let driver = no_space(ErrorPolicy::Stop);
    let at = driver.machine.memory.alloc(4096, 4096);
    driver.start(25, 0, Data::write(Way::Adma2, 8), at);
    driver.set(0x2f, 1, 4);
    driver.machine.run();
    assert_eq!((driver.get(0x2f, 1), driver.get(0x24, 4) & 2), (0, 0));
    driver.machine.errors.take();
}

#[test]
fn an_error_can_be_ignored() {
    let driver = no_space(ErrorPolicy::Ignore);
    driver.write(Way::Adma2, 0, &pattern(7, 4096));
    assert_eq!(driver.card_status(), 0x0900);
    driver.machine.errors.take();
}

#[test]
fn a_failed_erase_is_told_by_the_next_status() {
    let driver = sd(1 << 20);
    driver.fail(FaultOp::Any, BlockError::Medium, Some(1));
    driver.cmd(32, 0, Kind::Short);
    driver.cmd(33, 4096, Kind::Short);
    driver.cmd(38, 0, Kind::Busy);
    assert_eq!(driver.card_status(), 0x0900 | 1 << 21);
}
