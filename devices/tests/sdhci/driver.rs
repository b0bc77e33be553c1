//! A driver for the controller, written from the specification alone.

use std::{rc::Rc, sync::Arc};

use spindle_block::{
    BlockError, Root,
    file::File,
    nodes::{
        fault::{Action, FaultNode, FaultOp, FaultRule},
        file::FileNode,
    },
    root::Policy,
};
use spindle_devices::{
    pci::Address,
    policy::BlockEvents,
    sd::CardConfig,
    sdhci::{Sdhci, SdhciConfig},
    testkit::{Machine, Wire},
};

/// How data are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Port,
    Sdma,
    Adma1,
    Adma2,
    Adma2Wide,
}

/// What a response looks like, in the command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None = 0x00,
    Long = 0x09,
    Ocr = 0x02,
    Short = 0x1a,
    Busy = 0x1b,
}

/// A machine with a controller, a card, and a driver.
pub struct Driver {
    pub machine: Rc<Machine>,
    pub sdhci: Sdhci,
    pub at: Address,
    pub base: u64,
    pub wire: Wire,
    pub file: Arc<File>,
    pub faults: Arc<FaultNode>,
    pub root: Arc<Root>,
    /// The card's address, as an argument.
    pub rca: u32,
    pub high: bool,
    pub width: u8,
}

/// A data transfer.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub way: Way,
    pub write: bool,
    pub block: u64,
    pub blocks: u64,
    /// 0, 1: Auto CMD12, 2: Auto CMD23.
    pub auto: u64,
}

impl Data {
    pub fn read(way: Way, blocks: u64) -> Self {
        Self { way, write: false, block: 512, blocks, auto: 1 }
    }

    pub fn write(way: Way, blocks: u64) -> Self {
        Self { write: true, ..Self::read(way, blocks) }
    }
}

/// A machine with this controller and no card.
pub fn controller(size: u64, configure: impl FnOnce(&mut SdhciConfig)) -> Driver {
    let machine = Machine::new(fastrand::u64(..));
    let file = machine.world.create_file("card", &[], size);
    let faults = FaultNode::new(FileNode::over(Arc::clone(&file), size, 1, false));
    let root = Root::new("card-node", Arc::clone(&faults) as _, Policy::default());
    let mut config = SdhciConfig::new("sd0", machine.iothreads[0].handle());
    configure(&mut config);
    let (at, slot, wire) = machine.slot();
    let events = Arc::clone(&machine.errors) as Arc<dyn BlockEvents>;
    let sdhci = Sdhci::new(config, machine.memory.dma().clone(), slot, events).unwrap();
    machine.pci.add(at, sdhci.function()).unwrap();
    machine.assign();
    machine.pci_write(at, 4, 2, 0x0006);
    let base = machine.pci_read(at, 0x10, 4) & !0xf;
    let machine = Rc::new(machine);
    machine.run();
    let (rca, high, width) = (0, false, 1);
    Driver { machine, sdhci, at, base, wire, file, faults, root, rca, high, width }
}

/// The same, with a card of `size` bytes, powered and identified.
pub fn sd(size: u64) -> Driver {
    let mut driver = controller(size, |_| ());
    driver.insert(CardConfig::sd(size));
    driver.power_on();
    driver.identify_sd();
    driver
}

impl Driver {
    pub fn insert(&self, card: CardConfig) {
        self.sdhci.insert(card, Arc::clone(&self.root), None).unwrap();
        self.machine.run();
    }

    pub fn get(&self, offset: u64, width: u8) -> u64 {
        self.machine.read(self.base + offset, width)
    }

    pub fn set(&self, offset: u64, width: u8, value: u64) {
        self.machine.write(self.base + offset, width, value);
    }

    /// Resets the controller, and switches clock, power and interrupts on.
    pub fn power_on(&self) {
        self.set(0x2f, 1, 1);
        self.machine.run();
        assert_eq!(self.get(0x2f, 1), 0, "the reset never ended");
        self.set(0x2c, 2, 0x0401);
        assert_eq!(self.get(0x2c, 2) & 2, 2, "the clock is not stable");
        self.set(0x2c, 2, 0x0405);
        self.set(0x29, 1, 0x0f);
        self.set(0x34, 4, 0x17ff_00ff);
        self.set(0x38, 4, 0x17ff_00ff);
    }

    /// Takes what the interrupt status says.
    pub fn status(&self) -> (u64, u64) {
        let normal = self.get(0x30, 2);
        let error = self.get(0x32, 2);
        self.set(0x32, 2, error);
        self.set(0x30, 2, normal);
        (normal & 0x7fff, error)
    }

    pub fn response(&self) -> u32 {
        self.get(0x10, 4) as u32
    }

    /// Sends a command without data.
    pub fn try_cmd(&self, index: u64, arg: u32, kind: Kind) -> Result<u32, u64> {
        assert_eq!(self.get(0x24, 4) & 1, 0, "command inhibit");
        self.set(0x08, 4, arg.into());
        self.set(0x0e, 2, index << 8 | kind as u64);
        self.machine.run();
        let (normal, error) = self.status();
        if error != 0 {
            self.set(0x2f, 1, 6);
            self.machine.run();
            return Err(error);
        }
        let busy = kind == Kind::Busy;
        assert_eq!(normal & 3, if busy { 3 } else { 1 }, "CMD{index}");
        Ok(self.response())
    }

    pub fn cmd(&self, index: u64, arg: u32, kind: Kind) -> u32 {
        self.try_cmd(index, arg, kind).unwrap_or_else(|e| panic!("CMD{index}: error {e:#x}"))
    }

    pub fn app(&self, index: u64, arg: u32, kind: Kind) -> u32 {
        self.cmd(55, self.rca, Kind::Short);
        self.cmd(index, arg, kind)
    }

    /// From idle to the transfer state, at 3.3 V with one data line.
    pub fn identify_sd(&mut self) {
        self.rca = 0;
        self.cmd(0, 0, Kind::None);
        assert_eq!(self.cmd(8, 0x1aa, Kind::Short), 0x1aa);
        let ocr = self.app(41, 0x40ff_8000, Kind::Ocr);
        assert_eq!(ocr >> 31, 1);
        self.high = ocr >> 30 & 1 != 0;
        self.cmd(2, 0, Kind::Long);
        self.rca = self.cmd(3, 0, Kind::Short) & 0xffff_0000;
        self.cmd(7, self.rca, Kind::Busy);
    }

    pub fn identify_emmc(&mut self) {
        self.cmd(0, 0, Kind::None);
        let ocr = self.cmd(1, 0x40ff_8080, Kind::Ocr);
        assert_eq!(ocr >> 31, 1);
        self.high = ocr >> 30 & 1 != 0;
        self.cmd(2, 0, Kind::Long);
        self.rca = 1 << 16;
        self.cmd(3, self.rca, Kind::Short);
        self.cmd(7, self.rca, Kind::Busy);
    }

    /// Lets card and controller use four lines.
    pub fn use_four_lines(&mut self) {
        self.app(6, 2, Kind::Short);
        self.width = 4;
        self.set(0x28, 1, 2);
    }

    pub fn card_status(&self) -> u32 {
        self.cmd(13, self.rca, Kind::Short)
    }

    fn select(&self, way: Way) {
        let select = match way {
            Way::Port | Way::Sdma => 0,
            Way::Adma1 => 1,
            Way::Adma2 => 2,
            Way::Adma2Wide => 3,
        };
        let lines = match self.width {
            4 => 2,
            8 => 0x20,
            _ => 0,
        };
        self.set(0x28, 1, lines | select << 3);
    }

    /// A table for memory at `at`, cut into pieces of `piece` bytes.
    pub fn table(&self, way: Way, at: u64, len: u64, piece: u64) -> u64 {
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < len {
            let n = piece.min(len - done);
            let end = if done + n == len { 2 } else { 0 };
            match way {
                Way::Adma1 => {
                    bytes.extend(((n << 12) as u32 | 0x11).to_le_bytes());
                    bytes.extend(((at + done) as u32 | 0x21 | end).to_le_bytes());
                }
                Way::Adma2 | Way::Adma2Wide => {
                    bytes.extend((((n & 0xffff) << 16) as u32 | 0x21 | end).to_le_bytes());
                    bytes.extend(((at + done) as u32).to_le_bytes());
                    if way == Way::Adma2Wide {
                        bytes.extend(0_u32.to_le_bytes());
                    }
                }
                Way::Port | Way::Sdma => unreachable!(),
            }
            done += n;
        }
        let table = self.machine.memory.alloc(bytes.len() as u64, 8);
        self.machine.memory.write(table, &bytes);
        table
    }

    /// Programs a data command as Linux does, without waiting for it. `at` is where data are.
    pub fn start(&self, index: u64, arg: u32, data: Data, at: u64) {
        self.select(data.way);
        match data.way {
            Way::Port => {}
            Way::Sdma => self.set(0x00, 4, at),
            way => {
                let table = self.table(way, at, data.block * data.blocks, 0x1000);
                self.set(0x58, 4, table);
                self.set(0x5c, 4, 0);
            }
        }
        self.go(index, arg, data);
    }

    /// The same, with DMA set up.
    pub fn go(&self, index: u64, arg: u32, data: Data) {
        let multiple = data.blocks > 1 || index == 18 || index == 25;
        if data.auto == 2 && multiple {
            self.set(0x00, 4, data.blocks);
        }
        self.set(0x2e, 1, 0x0e);
        self.set(0x04, 2, 0x7000 | data.block);
        self.set(0x06, 2, data.blocks);
        self.set(0x08, 4, arg.into());
        let mut mode = if data.write { 0 } else { 0x10 };
        if multiple {
            mode |= 0x22 | data.auto << 2;
        }
        if data.way != Way::Port {
            mode |= 1;
        }
        self.set(0x0c, 2, mode);
        self.set(0x0e, 2, index << 8 | 0x3a);
        self.machine.run();
    }

    /// Moves data through the port, as its interrupts say.
    fn through_the_port(&self, data: Data, bytes: &mut [u8]) {
        let (ready, enable) = if data.write { (0x10, 1 << 10) } else { (0x20, 1 << 11) };
        for block in bytes.chunks_mut(data.block as usize) {
            assert_eq!(self.get(0x30, 2) & ready, ready, "the buffer is not ready");
            self.set(0x30, 2, ready);
            assert_ne!(self.get(0x24, 4) & enable, 0, "nor enabled");
            for word in block.chunks_mut(4) {
                if data.write {
                    self.set(0x20, 4, u32::from_le_bytes(word.try_into().unwrap()).into());
                } else {
                    word.copy_from_slice(&(self.get(0x20, 4) as u32).to_le_bytes());
                }
            }
            self.machine.run();
        }
    }

    /// Sends a command with data and waits for its end. Returns what was read.
    pub fn try_data(&self, index: u64, arg: u32, data: Data, bytes: &[u8]) -> Result<Vec<u8>, u64> {
        let len = data.block * data.blocks;
        let at = self.machine.memory.alloc(len.max(1), 4096);
        let mut moved = vec![0; len as usize];
        if data.write {
            moved.copy_from_slice(bytes);
            self.machine.memory.write(at, bytes);
        }
        self.start(index, arg, data, at);
        if self.get(0x32, 2) == 0 && data.way == Way::Port {
            self.through_the_port(data, &mut moved);
        }
        self.finish(data, at, moved)
    }

    fn finish(&self, data: Data, at: u64, moved: Vec<u8>) -> Result<Vec<u8>, u64> {
        let (mut normal, mut error) = self.status();
        // At a boundary it goes on from where it is.
        while data.way == Way::Sdma && normal & 8 != 0 && normal & 2 == 0 {
            let address = self.get(0x00, 4);
            assert_eq!(address % (512 << 10), 0, "no boundary");
            self.set(0x00, 4, address);
            self.machine.run();
            let (next, bad) = self.status();
            (normal, error) = (normal & !8 | next, error | bad);
        }
        if error != 0 {
            self.set(0x2f, 1, 6);
            self.machine.run();
            return Err(error);
        }
        assert_eq!(normal & 3, 3, "{data:?}: not complete: {normal:#x}");
        assert_eq!(self.get(0x24, 4) & 3, 0, "inhibited");
        if data.write || data.way == Way::Port {
            return Ok(moved);
        }
        Ok(self.machine.memory.read(at, (data.block * data.blocks) as usize))
    }

    pub fn data(&self, index: u64, arg: u32, data: Data, bytes: &[u8]) -> Vec<u8> {
        self.try_data(index, arg, data, bytes).unwrap_or_else(|e| panic!("{data:?}: {e:#x}"))
    }

    /// The address of a block, as an argument.
    pub fn address(&self, block: u64) -> u32 {
        (if self.high { block } else { block * 512 }) as u32
    }

    pub fn read(&self, way: Way, block: u64, blocks: u64) -> Vec<u8> {
        let index = if blocks > 1 { 18 } else { 17 };
        self.data(index, self.address(block), Data::read(way, blocks), &[])
    }

    pub fn write(&self, way: Way, block: u64, bytes: &[u8]) {
        let blocks = bytes.len() as u64 / 512;
        let index = if blocks > 1 { 25 } else { 24 };
        self.data(index, self.address(block), Data::write(way, blocks), bytes);
    }

    /// What the file below holds.
    pub fn contents(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.world.contents(&self.file).read(offset, &mut bytes);
        bytes
    }

    /// A register that a card sends in one block.
    pub fn register(&self, index: u64, arg: u32, len: u64) -> Vec<u8> {
        let data = Data { way: Way::Adma2, write: false, block: len, blocks: 1, auto: 0 };
        self.data(index, arg, data, &[])
    }

    /// Lets requests below fail.
    pub fn fail(&self, op: FaultOp, error: BlockError, count: Option<u64>) {
        self.faults.add(FaultRule { op, count, ..FaultRule::new(Action::Error(error)) }).unwrap();
    }

    /// CMD6 of an eMMC device: writes a byte of EXT_CSD. Returns the status afterwards.
    pub fn switch(&self, index: u32, value: u32) -> u32 {
        self.cmd(6, 3 << 24 | index << 16 | value << 8, Kind::Busy);
        self.card_status()
    }
}
