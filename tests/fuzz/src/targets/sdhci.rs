//! Two SD hosts, one with an SD card and one with an eMMC device, under a driver that goes wrong:
//! registers in any order, and transfers by every way that are right but for a bit now and then.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use spindle_block::{
    BlockError, Root,
    nodes::{
        fault::{Action, FaultNode, FaultRule},
        null::{NullNode, NullOptions},
    },
    root::Policy,
};
use spindle_devices::{
    pci::Address,
    policy::BlockEvents,
    sd::{CardConfig, CardKind},
    sdhci::{Sdhci, SdhciConfig, SdhciVersion, SlotKind},
    testkit::Machine,
};

use super::virtio::{is_bar, number};

/// Bytes of the card's data.
const CARD: u64 = 1 << 20;
/// Bytes of each boot partition and of the RPMB.
const PARTITION: u64 = 128 << 10;
/// Bytes of memory for data.
const DATA: u64 = 64 << 10;
/// Descriptors of a table, 12 bytes each at most.
const DESCRIPTORS: u64 = 8;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    super::programs()
}

struct Slot {
    sdhci: Sdhci,
    at: Address,
    base: u64,
    root: Arc<Root>,
    faults: Arc<FaultNode>,
    emmc: bool,
}

struct Host {
    machine: Machine,
    slots: Vec<Slot>,
    table: u64,
    data: u64,
}

fn slot(machine: &Machine, emmc: bool, version: SdhciVersion) -> Slot {
    let size = if emmc { CARD + 3 * PARTITION } else { CARD };
    let options = NullOptions { size, read_zeroes: true, ..NullOptions::default() };
    let faults = FaultNode::new(NullNode::new(options));
    let root = Root::new("card", Arc::clone(&faults) as _, Policy::default());
    let mut config = SdhciConfig::new("sd", machine.iothreads[usize::from(emmc)].handle());
    config.version = version;
    config.slot = if emmc { SlotKind::Embedded } else { SlotKind::Removable };
    let (at, place, _) = machine.slot();
    let events = Arc::clone(&machine.errors) as Arc<dyn BlockEvents>;
    let dma = machine.memory.dma().clone();
    let sdhci = Sdhci::new(config, dma, place, events).expect("a controller");
    machine.pci.add(at, sdhci.function()).expect("a free slot");
    Slot { sdhci, at, base: 0, root, faults, emmc }
}

impl Slot {
    fn insert(&self) {
        let card = if self.emmc {
            let kind = CardKind::Emmc { boot: PARTITION, rpmb: PARTITION };
            CardConfig { kind, ..CardConfig::emmc(CARD + 3 * PARTITION) }
        } else {
            CardConfig::sd(CARD)
        };
        // There may be one.
        self.sdhci.insert(card, Arc::clone(&self.root), None).ok();
    }

    /// The next request fails.
    fn fail(&self) {
        let error = Action::Error(BlockError::Medium);
        // There is an end to the rules that there can be.
        self.faults.add(FaultRule { count: Some(1), ..FaultRule::new(error) }).ok();
    }

    /// No request fails any more.
    fn heal(&self) {
        for id in self.faults.query().into_iter().filter_map(|status| status.rule.id) {
            self.faults.delete(&id).expect("a rule");
        }
    }
}

impl Host {
    fn new(u: &mut Unstructured<'_>) -> Self {
        let versions = [SdhciVersion::V3, SdhciVersion::V2, SdhciVersion::V1];
        let version = u.choose(&versions).copied().unwrap_or_default();
        let machine = Machine::new(1);
        let slots = vec![slot(&machine, false, version), slot(&machine, true, version)];
        machine.assign();
        let memory = &machine.memory;
        let (table, data) = (memory.alloc(DESCRIPTORS * 12, 8), memory.alloc(DATA, 4096));
        let mut host = Self { machine, slots, table, data };
        for slot in 0..host.slots.len() {
            host.slots[slot].insert();
            host.start(slot);
        }
        host
    }

    fn set(&self, slot: usize, offset: u64, width: u8, value: u64) {
        self.machine.write(self.slots[slot].base + offset, width, value);
    }

    fn get(&self, slot: usize, offset: u64, width: u8) -> u64 {
        self.machine.read(self.slots[slot].base + offset, width)
    }

    /// A command without data. Returns what stands in its response.
    fn send(&self, slot: usize, index: u64, argument: u64, kind: u64) -> u64 {
        self.set(slot, 0x08, 4, argument);
        self.set(slot, 0x0c, 2, 0);
        self.set(slot, 0x0e, 2, index << 8 | kind);
        self.machine.run();
        self.set(slot, 0x30, 4, 0xffff_ffff);
        self.get(slot, 0x10, 4)
    }

    /// Controller and card are brought up to the transfer state. Returns the card's status.
    fn start(&mut self, slot: usize) -> u64 {
        let at = self.slots[slot].at;
        self.machine.pci_write(at, 4, 2, 6);
        self.slots[slot].base = self.machine.pci_read(at, 0x10, 4) & !0xf;
        self.set(slot, 0x2f, 1, 1);
        self.machine.run();
        self.set(slot, 0x2c, 2, 0x0405);
        self.set(slot, 0x29, 1, 0x0f);
        self.set(slot, 0x34, 4, 0x17ff_00ff);
        self.set(slot, 0x38, 4, 0x17ff_00ff);
        self.machine.run();
        self.send(slot, 0, 0, 0);
        let rca = if self.slots[slot].emmc {
            self.send(slot, 1, 0x40ff_8080, 2);
            self.send(slot, 2, 0, 9);
            self.send(slot, 3, 1 << 16, 0x1a);
            1 << 16
        } else {
            self.send(slot, 8, 0x1aa, 0x1a);
            self.send(slot, 55, 0, 0x1a);
            self.send(slot, 41, 0x40ff_8000, 2);
            self.send(slot, 2, 0, 9);
            self.send(slot, 3, 0, 0x1a) & 0xffff_0000
        };
        self.send(slot, 7, rca, 0x1b);
        self.send(slot, 13, rca, 0x1a)
    }

    /// A table of ADMA descriptors, sound or nearly so.
    fn fill_table(&self, wide: bool, u: &mut Unstructured<'_>) -> Result<()> {
        let memory = &self.machine.memory;
        let size = if wide { 12 } else { 8 };
        let entries = u.int_in_range(1..=DESCRIPTORS)?;
        for entry in 0..entries {
            let at = self.table + entry * size;
            let wild = u.ratio(1, 16u8)?;
            let to = if wild { number(u)? } else { self.data + u.int_in_range(0..=DATA / 8)? * 4 };
            let len = if u.ratio(1, 8u8)? { number(u)? } else { u.int_in_range(1..=8)? * 512 };
            let mut bits = 0x21 | u64::from(entry + 1 == entries) << 1;
            if u.ratio(1, 8u8)? {
                bits = u.arbitrary::<u8>()?.into();
            }
            memory.set_number(at, 4, (len & 0xffff) << 16 | bits);
            memory.set_number(at + 4, 4, to & 0xffff_ffff);
            if wide {
                memory.set_number(at + 8, 4, if wild { to >> 32 } else { 0 });
            }
        }
        Ok(())
    }

    /// A command with data.
    fn data_command(&self, slot: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let select = u.int_in_range(0..=3u64)?;
        self.set(slot, 0x28, 1, select << 3);
        self.fill_table(select == 3, u)?;
        let table = if u.ratio(1, 16u8)? { number(u)? } else { self.table };
        self.set(slot, 0x58, 8, table);
        let sdma = self.data + u.int_in_range(0..=DATA / 4)?;
        self.set(slot, 0x00, 4, if u.ratio(1, 16u8)? { number(u)? } else { sdma });
        let size = if u.ratio(1, 8u8)? { number(u)? & 0x7fff } else { 0x0200 };
        let blocks = u.int_in_range(0..=16u64)?;
        self.set(slot, 0x04, 4, blocks << 16 | size);
        let reads = [6, 8, 13, 14, 17, 18, 19, 21, 22, 30, 31, 51];
        let writes = [19, 24, 25, 26, 27, 42];
        let read = u.arbitrary()?;
        let index = *u.choose(if read { &reads[..] } else { &writes[..] })?;
        if u.ratio(1, 4u8)? {
            self.send(slot, 55, 1 << 16, 0x1a);
        }
        if u.ratio(1, 4u8)? {
            let blocks = if u.ratio(1, 4u8)? { u.arbitrary()? } else { blocks as u32 };
            self.send(slot, 23, blocks.into(), 0x1a);
        }
        self.set(slot, 0x08, 4, u.int_in_range(0..=CARD / 512)? * *u.choose(&[1, 512])?);
        let mut mode = u64::from(read) << 4 | u.int_in_range(0..=3u64)? << 2 | 0x23;
        if u.ratio(1, 4u8)? {
            mode ^= 1 << u.int_in_range(0..=5u8)?;
        }
        self.set(slot, 0x0c, 2, mode);
        self.set(slot, 0x0e, 2, index << 8 | 0x3a);
        Ok(())
    }

    /// A command without data.
    fn plain_command(&self, slot: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let common =
            [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 15, 16, 23, 28, 29, 32, 33, 35, 36, 38, 41, 55];
        let index = if u.ratio(1, 8u8)? { u.int_in_range(0..=63)? } else { *u.choose(&common)? };
        let argument = match u.int_in_range(0..=3u8)? {
            0 => 1 << 16,
            1 => number(u)?,
            2 => 3 << 24 | u.int_in_range(0..=255u64)? << 16 | u.int_in_range(0..=255u64)? << 8,
            _ => u.int_in_range(0..=CARD / 512)?,
        };
        let kind = *u.choose(&[0, 9, 2, 0x1a, 0x1b, 0x1a, 0x1b, 0xda])?;
        self.set(slot, 0x08, 4, argument);
        self.set(slot, 0x0e, 2, index << 8 | kind);
        Ok(())
    }

    fn through_the_port(&self, slot: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let (write, width) = (u.arbitrary::<bool>()?, *u.choose(&[4u8, 4, 2, 1])?);
        let len = if u.ratio(1, 4u8)? { u.int_in_range(1..=2200u64)? } else { 512 };
        for _ in 0..len / u64::from(width) {
            if write {
                self.set(slot, 0x20, width, 0x1234_5678);
            } else {
                let _ = self.get(slot, 0x20, width);
            }
        }
        Ok(())
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let slot = u.int_in_range(0..=1usize)?;
        match u.int_in_range(0..=19u8)? {
            0..=4 => self.data_command(slot, u)?,
            5..=7 => self.plain_command(slot, u)?,
            8..=9 => self.through_the_port(slot, u)?,
            10..=11 => {
                let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4, 8])?);
                self.set(slot, offset, width, number(u)?);
            }
            12 => {
                let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4, 8])?);
                let _ = self.get(slot, offset, width);
            }
            13 => {
                let (offset, width) = (u.int_in_range(0..=0xffu64)?, *u.choose(&[1u8, 2, 4])?);
                let value = number(u)?;
                if !is_bar(offset, width) {
                    self.machine.pci_write(self.slots[slot].at, offset, width, value);
                }
            }
            14 => self.machine.turn(),
            15..=16 => {
                self.machine.run();
                self.set(slot, 0x30, 4, 0xffff_ffff);
            }
            17 => self.slots[slot].fail(),
            18 => {
                if u.arbitrary()? {
                    self.slots[slot].sdhci.remove(Box::new(|| ()));
                    self.machine.turn();
                }
                self.slots[slot].insert();
                self.slots[slot].sdhci.set_write_protected(u.ratio(1, 4u8)?);
            }
            _ => {
                self.start(slot);
            }
        }
        Ok(())
    }

    /// Whatever happened, after a reset there is a card that sends a block, unless it was locked.
    fn works(&mut self) {
        self.machine.run();
        for slot in 0..self.slots.len() {
            self.machine.reset(self.slots[slot].at);
            self.machine.assign();
            self.slots[slot].insert();
            self.machine.run();
            let status = self.start(slot);
            assert_eq!(status >> 8 & 0x1f, 9, "slot {slot}: no card in transfer state");
            if status >> 25 & 1 != 0 {
                continue;
            }
            self.slots[slot].heal();
            let memory = &self.machine.memory;
            memory.write(self.data, &[0xff; 512]);
            self.set(slot, 0x28, 1, 0);
            self.set(slot, 0x00, 4, self.data);
            self.set(slot, 0x04, 4, 0x0001_7200);
            self.set(slot, 0x08, 4, 0);
            self.set(slot, 0x0c, 2, 0x11);
            self.set(slot, 0x0e, 2, 17 << 8 | 0x3a);
            self.machine.run();
            assert_eq!(self.get(slot, 0x30, 4), 3, "slot {slot}: a read");
            assert_eq!(memory.read(self.data, 512), [0; 512], "slot {slot}: its data");
        }
        assert_eq!(self.machine.irqs.stray(), 0, "an interrupt without a message");
    }
}

pub(super) fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut host = Host::new(&mut u);
    // The bytes end where they end.
    while !u.is_empty() && host.step(&mut u).is_ok() {}
    host.works();
}
