//! A guest that writes anything anywhere: no panic, no hang, no byte outside its buffers.

use super::driver::{P_CI, P_CMD, P_SACT, P_TFD, ata, setup_with};

#[test]
fn any_value_in_any_register_in_any_order() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let s = setup_with(2, |_| (), |_| ());
        let memory = &s.machine.memory;
        let at = memory.alloc(1 << 16, 4096);
        for _ in 0..400 {
            match random.u8(..8) {
                0..=2 => {
                    let offset = random.u64(0..0x200);
                    let width = 1 << random.u8(0..4);
                    let value = if random.bool() { random.u64(..) } else { 1 << random.u8(0..32) };
                    // GHC.HR and the addresses now and then only, so that commands run.
                    if offset >= 0x118 || random.u8(..10) == 0 {
                        s.machine.write(s.driver.abar + offset, width, value);
                    }
                    let _ = s.machine.read(s.driver.abar + offset, width);
                }
                3..=5 => {
                    let slot = random.u8(0..32);
                    let commands =
                        [0x25, 0x35, 0x60, 0x61, 0x64, 0x2f, 0xec, 0x06, 0xea, 0x42, 0xa0, 0xef];
                    let command = if random.u8(..4) == 0 {
                        random.u8(..)
                    } else {
                        *random.choice(&commands).unwrap()
                    };
                    let mut fis =
                        ata(command, random.u16(..64), random.u64(..0x5000), random.u16(..32));
                    if random.bool() {
                        fis.0[12] = slot << 3;
                    }
                    if random.u8(..8) == 0 {
                        fis.0[random.usize(..20)] = random.u8(..);
                    }
                    // What outlives a reset: native addresses, SANITIZE, passwords.
                    if matches!(fis.0[2], 0x37 | 0x78 | 0xb4 | 0xf1 | 0xf9) {
                        fis.0[2] = 0xec;
                    }
                    let prds: Vec<_> = (0..random.u8(..4))
                        .map(|_| (at + random.u64(..0x8000), random.u32(1..0x8000), random.bool()))
                        .collect();
                    s.driver.place(slot, &fis, &prds, random.u32(..) & 0x7e0);
                    let bit = 1 << slot;
                    if matches!(fis.0[2], 0x60 | 0x61 | 0x64) {
                        s.driver.set(P_SACT, bit);
                    }
                    s.driver.set(P_CI, bit);
                }
                6 => s.machine.turn(),
                _ => {
                    s.machine.run();
                    if random.bool() {
                        s.driver.set(P_CMD, 0x10);
                        s.machine.run();
                        s.driver.comreset();
                        s.driver.set(P_CMD, 0x11);
                    }
                }
            }
        }
        // A reset brings it back, whatever was done.
        s.machine.run();
        s.machine.reset(s.controller.at);
        s.machine.assign();
        let again = super::driver::Driver::new(&s.machine, s.controller.at, 0);
        again.ok(&ata(0xe7, 0, 0, 0), 0, 0);
        assert_eq!(again.get(P_TFD), 0x50);
    }
}
