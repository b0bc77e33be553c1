//! A guest that writes anything anywhere: no panic, no hang, nothing outside what it was given.

use spindle_devices::sd::{CardConfig, CardKind};

use super::driver::controller;

#[test]
fn any_write_to_any_register_in_any_order_is_survived() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for round in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed + round);
        let mut driver = controller(1 << 20, |_| ());
        let boot = 128 << 10;
        let kind = CardKind::Emmc { boot, rpmb: boot };
        let card = CardConfig::emmc(1 << 20);
        driver.insert(if round % 2 == 0 {
            CardConfig::sd(1 << 20)
        } else {
            CardConfig { kind, ..card }
        });
        driver.power_on();
        if round % 2 == 0 {
            driver.identify_sd();
        } else {
            driver.identify_emmc();
        }
        let area = driver.machine.memory.alloc(64 << 10, 4096);
        for i in (0..64 << 10).step_by(8) {
            let word = rng.u64(..) & 0x0000_ffff_0fff_ffff | 0x21;
            driver.machine.memory.set_number(area + i, 8, (area << 32) + word);
        }
        for _ in 0..1500 {
            let offset = if rng.bool() {
                rng.u64(0..0x60)
            } else {
                *rng.choice(&[0x0c, 0x0e, 0x20, 0x2c, 0x2f, 0x58]).unwrap()
            };
            let width = 1 << rng.u8(0..4);
            match rng.u8(0..8) {
                0 => {
                    driver.get(offset, width);
                }
                1 => driver.set(0x58, 8, area + rng.u64(0..4096) * 4),
                2 => driver.set(0x00, 8, (rng.u64(1..4) << 48 | 0x0200 << 32) + area),
                3 => {
                    let index = *rng
                        .choice(&[0, 6, 7, 8, 12, 13, 16, 17, 18, 23, 24, 25, 35, 36, 38, 42, 55])
                        .unwrap();
                    driver.set(0x08, 4, rng.u64(0..4096) << (9 * rng.u8(0..3)));
                    driver.set(0x0c, 4, (index << 8 | 0x3a) << 16 | rng.u64(0..64));
                }
                4 => {
                    driver.set(0x2c, 4, 0x000e_0405);
                    driver.set(0x28, 2, rng.u64(0..64) | 0x0f00);
                }
                5 if rng.u8(0..20) == 0 => driver.machine.memory.fail(area, 512),
                5 => driver.machine.memory.heal(),
                _ => driver.set(offset, width, rng.u64(..)),
            }
            if rng.u8(0..3) == 0 {
                driver.machine.run();
            }
        }
        driver.machine.memory.heal();
        driver.machine.run();
        // A reset gives a controller that works.
        driver.power_on();
        driver.machine.errors.take();
        driver.cmd(0, 0, super::driver::Kind::None);
    }
}
