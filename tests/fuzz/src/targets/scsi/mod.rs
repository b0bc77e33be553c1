//! Two virtio-scsi adapters with the same units behind them, under initiators that go wrong: commands
//! and parameter lists that are right but for a bit now and then, functions, and rings.

mod command;

use std::{rc::Rc, sync::Arc};

use arbitrary::{Result, Unstructured};
use spindle_block::nodes::null::{NullNode, NullOptions};
use spindle_devices::{
    scsi::{LogicalUnit, UnitKind},
    testkit::{
        Machine, ScsiAdapter,
        driver::{Descriptor, ScsiDriver, ScsiTicket},
    },
};

use super::virtio::{number, register_step};

/// Bytes of each disk.
const DISK: u64 = 256 << 10;
/// Entries of each ring, and commands on it at a time: each takes four at most.
const RING: u16 = 64;
const COMMANDS: usize = 12;
const FUNCTIONS: usize = 8;
/// Resets in one program: each takes memory for new rings.
const RESETS: u32 = 32;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

/// An initiator with an adapter.
struct Host {
    driver: ScsiDriver,
    /// Commands and functions that have not ended.
    commands: Vec<ScsiTicket>,
    functions: Vec<u16>,
    /// It does nothing that is wrong with the adapter itself: everything ends.
    sound: bool,
}

impl Host {
    fn new(machine: &Rc<Machine>, adapter: &ScsiAdapter, sound: bool) -> Self {
        let mut driver = ScsiDriver::new(machine, adapter.at, u64::MAX, 1, RING);
        // Most of what follows is to be done, and not to learn of a power on instead.
        for lun in [ScsiDriver::lun(0, 0), ScsiDriver::lun(1, 2)] {
            (0..4).any(|_| driver.send(lun, &[0; 6], &[], 0).key().0 != 6);
        }
        Self { driver, commands: Vec::new(), functions: Vec::new(), sound }
    }

    /// Takes what has ended. Rings that were written over may seem to have elements for ever.
    fn drain(&mut self) {
        for _ in 0..2 * RING {
            let Some((head, written)) = self.driver.rings[0].take() else { break };
            let place = self.commands.iter().position(|ticket| ticket.head == head);
            let ticket = place.map(|place| self.commands.remove(place));
            if !self.sound {
                continue;
            }
            let ticket = ticket.expect("a command that was under way");
            let reply = self.driver.look(&ticket, written);
            assert!(matches!(reply.response, 0..=4 | 9 | 12), "response {}", reply.response);
            if reply.response == 0 {
                assert!(matches!(reply.status, 0 | 2 | 0x18), "status {}", reply.status);
                assert_eq!(reply.status == 2, !reply.sense.is_empty(), "{:x?}", reply.sense);
            }
            assert!(reply.residual <= ticket.len, "{} of {}", reply.residual, ticket.len);
            assert!(written >= 108 && written <= 108 + ticket.len, "{written} bytes");
        }
        for _ in 0..2 * RING {
            let Some((head, _)) = self.driver.control.take() else { break };
            let place = self.functions.iter().position(|mine| *mine == head);
            assert!(place.is_some() || !self.sound, "a function that was under way");
            place.map(|place| self.functions.remove(place));
        }
        if self.sound {
            while self.driver.event().is_some() {
                self.driver.offer_event_buffer();
            }
        }
    }

    /// Lets everything end that can.
    fn finish(&mut self) {
        let machine = Rc::clone(&self.driver.function.machine);
        self.driver.rings[0].notify();
        for _ in 0..2 {
            machine.run();
            self.drain();
        }
        if self.sound {
            assert!(self.commands.is_empty(), "commands that never end: {:?}", self.commands);
            assert!(self.functions.is_empty(), "functions that never end");
            assert!(!self.driver.function.needs_reset(), "it needs a reset");
        }
        self.commands.clear();
        self.functions.clear();
    }

    fn command(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if self.commands.len() >= COMMANDS {
            self.finish();
        }
        let command = command::any(u)?;
        self.driver.indirect = u.arbitrary()?;
        self.driver.attribute = if u.ratio(1, 8u8)? { u.arbitrary()? } else { 0 };
        let ticket = self.driver.offer(0, command.lun, &command.cdb, &command.out, command.len);
        self.commands.push(ticket);
        if !self.sound && u.ratio(1, 8u8)? {
            let descriptor = Descriptor {
                address: number(u)?,
                len: number(u)? as u32,
                flags: u.int_in_range(0..=7u16)?,
                next: u.int_in_range(0..=RING)?,
            };
            self.driver.rings[0].set(u.int_in_range(0..=RING - 1)?, descriptor);
        }
        if !self.sound && u.ratio(1, 16u8)? {
            self.driver.rings[0].offer(u.int_in_range(0..=RING)?);
        }
        if u.ratio(7, 8u8)? {
            self.driver.rings[0].notify();
        }
        Ok(())
    }

    /// A task management function, or a control request of another kind, on the control queue.
    fn function(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if self.functions.len() >= FUNCTIONS {
            self.finish();
        }
        let lun = command::lun(u)?.0;
        if u.ratio(3, 4u8)? {
            let function =
                if u.ratio(1, 16u8)? { number(u)? as u32 } else { u.int_in_range(0..=7)? };
            let tag = match self.commands.len() {
                0 => number(u)?,
                n => self.commands[u.choose_index(n)?].tag,
            };
            let (head, _) = self.driver.offer_tmf(function, lun, tag);
            self.functions.push(head);
            return Ok(());
        }
        let memory = self.driver.function.machine.memory.clone();
        let at = memory.alloc(32, 8);
        // The queue breaks where nobody knows what a request is.
        let kinds = if self.sound { 1..=2u64 } else { 0..=3 };
        memory.set_number(at, 4, u.int_in_range(kinds)?);
        memory.write(at + 4, &lun);
        memory.set_number(at + 12, 4, number(u)? & 0xffff_ffff);
        let lens = if self.sound || u.ratio(7, 8u8)? {
            (16, 5)
        } else {
            (u.int_in_range(0..=24u32)?, u.int_in_range(0..=8u32)?)
        };
        let control = &mut self.driver.control;
        let head = control.chain(&[(at, lens.0, false), (at + 24, lens.1, true)]);
        control.offer(head);
        control.notify();
        self.functions.push(head);
        Ok(())
    }
}

/// The machine and what is on it.
struct Setup {
    machine: Rc<Machine>,
    adapters: [ScsiAdapter; 2],
    /// A unit that comes and goes, at target 1, lun 1 of each adapter.
    guest: Arc<LogicalUnit>,
}

fn setup() -> Setup {
    let machine = Machine::new(1);
    let adapters = ["hba0", "hba1"].map(|id| machine.add_scsi(id, |_| ()));
    let (disk, _) = machine.scsi_disk("disk0", DISK, |_| ());
    let (guest, _) = machine.scsi_disk("disk1", DISK, |config| config.max_unmap_blocks = 100);
    let node = NullNode::new(NullOptions { size: DISK, ..NullOptions::default() });
    let drive = machine.scsi_unit("cd0", UnitKind::Cd, node, |_| ());
    for adapter in &adapters {
        for (target, lun, unit) in [(0, 0, &disk), (1, 1, &guest), (1, 2, &drive)] {
            adapter.device.add_lun(target, lun, Arc::clone(unit)).expect("an address");
        }
    }
    machine.assign();
    Setup { machine: Rc::new(machine), adapters, guest }
}

pub(super) fn run(data: &[u8]) {
    let setup = setup();
    let mut u = Unstructured::new(data);
    let sound = u.arbitrary().unwrap_or(true);
    let mut hosts = [0, 1].map(|which| Host::new(&setup.machine, &setup.adapters[which], sound));
    let mut there = [true; 2];
    let mut resets = 0;
    while !u.is_empty() && step(&setup, &mut hosts, &mut there, &mut resets, &mut u).is_ok() {}
    hosts.iter_mut().for_each(Host::finish);
    setup.adapters.iter().for_each(|adapter| setup.machine.reset(adapter.at));
    setup.machine.assign();
    setup.adapters.iter().for_each(|adapter| works(&setup.machine, adapter));
    assert_eq!(setup.machine.irqs.stray(), 0, "an interrupt without a message");
}

fn step(
    setup: &Setup,
    hosts: &mut [Host; 2],
    there: &mut [bool; 2],
    resets: &mut u32,
    u: &mut Unstructured<'_>,
) -> Result<()> {
    let which = usize::from(u.ratio(1, 4u8)?);
    let host = &mut hosts[which];
    let machine = &setup.machine;
    match u.int_in_range(0..=31u8)? {
        0..=19 => host.command(u)?,
        20 | 21 => host.function(u)?,
        22 if !host.sound => register_step(&host.driver.function, false, u)?,
        // What the ring holds is done before a unit goes: not while nobody may read the ring.
        23 if host.sound => {
            let device = &setup.adapters[which].device;
            if there[which] {
                machine.finish(|done| {
                    device.remove_lun(1, 1, done).expect("a unit that is there");
                });
            } else {
                device.add_lun(1, 1, Arc::clone(&setup.guest)).expect("a free address");
            }
            there[which] = !there[which];
        }
        24 if *resets < RESETS => {
            *resets += 1;
            if host.sound {
                *host = Host::new(machine, &setup.adapters[which], true);
                return Ok(());
            }
            // What one initiator does wrong may meet the rings of the other.
            setup.adapters.iter().for_each(|adapter| machine.reset(adapter.at));
            machine.assign();
            for (host, adapter) in hosts.iter_mut().zip(&setup.adapters) {
                *host = Host::new(machine, adapter, false);
            }
        }
        25 | 26 => drop(machine.world.step()),
        27 | 28 => machine.turn(),
        29 => host.drain(),
        _ => host.finish(),
    }
    Ok(())
}

/// Whatever happened, after a reset there is a disk that keeps what is written to it.
fn works(machine: &Rc<Machine>, adapter: &ScsiAdapter) {
    machine.run();
    let mut driver = ScsiDriver::new(machine, adapter.at, u64::MAX, 1, RING);
    let mut attentions = 0;
    while driver.command(&[0x1b, 0, 0, 0, 1, 0], &[], 0).key().0 == 6 {
        attentions += 1;
        assert!(attentions < 16, "unit attentions for ever");
    }
    let data = [0x5a; 512];
    let write = driver.command(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0], &data, 0);
    match (write.response, write.status, write.key()) {
        (0, 0, _) => {
            let read = driver.command(&[0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0], &[], 512);
            assert!(read.is_good(), "{read:?}");
            assert_eq!(read.data, data);
        }
        // Somebody holds a reservation, or it is write protected.
        (0, 0x18, _) | (0, 2, (7, 0x27, _)) => {}
        _ => panic!("{write:x?}"),
    }
}
