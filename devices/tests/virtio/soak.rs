//! Random register programs and ring contents: nothing may panic, hang or write where it must not.

use std::rc::Rc;

use proptest::prelude::*;
use spindle_devices::testkit::{
    Machine,
    driver::{BlkDriver, Descriptor, Function},
};

use super::{ALL, machine, pattern};

#[derive(Clone, Copy, Debug)]
enum Step {
    Common { offset: u64, width: u8, value: u64 },
    Config { offset: u64, width: u8, value: u64 },
    Pci { offset: u64, width: u8, value: u64 },
    Notify { offset: u64, value: u64 },
    Run,
    Turn,
}

fn width() -> impl Strategy<Value = u8> {
    prop_oneof![Just(1), Just(2), Just(4), Just(8)]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![0..16u64, any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit), Just(0x1_0000)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..64u64, width(), value())
            .prop_map(|(offset, width, value)| Step::Common { offset, width, value }),
        1 => (0..80u64, width(), value())
            .prop_map(|(offset, width, value)| Step::Config { offset, width, value }),
        1 => (0x40..0x100u64, width(), value())
            .prop_map(|(offset, width, value)| Step::Pci { offset, width, value }),
        1 => (0..64u64, value()).prop_map(|(offset, value)| Step::Notify { offset, value }),
        1 => Just(Step::Run),
        1 => Just(Step::Turn),
    ]
}

fn do_step(function: &Function, step: Step) {
    let machine = &function.machine;
    match step {
        Step::Common { offset, width, value } => {
            let _ = function.get(offset, width);
            function.set(offset, width, value);
        }
        Step::Config { offset, width, value } => {
            let _ = function.config(offset, width);
            machine.write(function.config.at + offset, width, value);
        }
        Step::Pci { offset, width, value } => {
            let _ = function.pci(offset, width);
            function.set_pci(offset, width, value);
        }
        Step::Notify { offset, value } => machine.write(function.notify.at + offset, 2, value),
        Step::Run => machine.run(),
        Step::Turn => machine.turn(),
    }
}

/// After whatever happened, a reset brings the device back.
fn works(machine: &Rc<Machine>, at: spindle_devices::pci::Address) {
    machine.run();
    machine.reset(at);
    machine.assign();
    let mut driver = BlkDriver::new(machine, at, ALL, 1, 16);
    let data = pattern(1, 4096);
    assert_eq!(driver.write(8, &data).status, 0);
    assert_eq!(driver.read(8, 4096).data, data);
    assert_eq!(machine.irqs.stray(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_register_programs(steps in prop::collection::vec(step(), 1..80)) {
        let (machine, disk) = machine(1 << 20, |config| config.queue_size = 16);
        let driver = BlkDriver::new(&machine, disk.at, ALL, 1, 16);
        for step in steps {
            do_step(&driver.function, step);
        }
        works(&machine, disk.at);
    }

    #[test]
    fn random_rings(
        descriptors in prop::collection::vec(
            (0..0x4_0000u64, prop_oneof![0..64u32, Just(512), Just(16), any::<u32>()], 0..8u16, 0..20u16),
            16,
        ),
        heads in prop::collection::vec(0..18u16, 1..20),
        kinds in prop::collection::vec(0..16u8, 64),
        features in any::<u64>(),
    ) {
        let (machine, disk) = machine(1 << 20, |config| config.queue_size = 16);
        let mut driver = BlkDriver::new(&machine, disk.at, features, 1, 16);
        // Memory full of plausible headers.
        for (i, kind) in kinds.iter().enumerate() {
            machine.memory.set_number(0x2_0000 + i as u64 * 16, 4, u64::from(*kind));
        }
        for (index, (address, len, flags, next)) in descriptors.iter().enumerate() {
            let descriptor =
                Descriptor { address: *address, len: *len, flags: *flags, next: *next };
            driver.rings[0].set(index as u16, descriptor);
        }
        for head in heads {
            driver.rings[0].offer(head);
            driver.rings[0].notify();
            machine.turn();
        }
        works(&machine, disk.at);
    }
}
