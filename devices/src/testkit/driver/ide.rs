//! A driver for one channel of an IDE controller at the legacy ports.

use std::rc::Rc;

use super::super::Machine;
use crate::{Space, pci::Address};

/// What the registers held when a command was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdeEnd {
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
}

impl IdeEnd {
    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_good(self) -> bool {
        self.status & 0x21 == 0
    }
}

/// A command, as registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdeCommand {
    /// The code.
    pub command: u8,
    /// Features; the high byte is written first, where `wide` is set.
    pub features: u16,
    /// Sector count, likewise.
    pub count: u16,
    /// The address: 28 bits, or 48.
    pub lba: u64,
    /// Bits of the device register beside drive and address.
    pub device: u8,
    /// Every register is written twice.
    pub wide: bool,
}

impl IdeCommand {
    /// A command with an address of 28 bits.
    #[must_use]
    pub fn lba28(command: u8, lba: u64, count: u16) -> Self {
        Self { command, count, lba, device: 0xe0 | (lba >> 24) as u8 & 0xf, ..Self::default() }
    }

    /// A command with an address of 48 bits.
    #[must_use]
    pub fn lba48(command: u8, lba: u64, count: u16) -> Self {
        Self { command, count, lba, device: 0xe0, wide: true, ..Self::default() }
    }
}

/// A driver that knows one channel.
pub struct IdeDriver {
    /// The machine.
    pub machine: Rc<Machine>,
    /// First port of the command block.
    pub base: u64,
    /// Port of device control and alternate status.
    pub control: u64,
    /// First port of the bus master.
    pub bus_master: u64,
    /// Guest address of the descriptor table.
    pub table: u64,
    /// The drive that commands go to.
    pub drive: u8,
}

impl IdeDriver {
    /// A driver for channel 0 or 1 of the controller at `at`, whose ports have addresses.
    ///
    /// # Panics
    /// When the controller is not one that was looked for.
    #[must_use]
    pub fn new(machine: &Rc<Machine>, at: Address, channel: u8) -> Self {
        assert_eq!(machine.pci_read(at, 8, 4) >> 8, 0x01_01_80, "class");
        machine.pci_write(at, 4, 2, 0x0005);
        let bar = machine.pci_read(at, 0x20, 4);
        assert_eq!(bar & 0xf, 1, "an I/O BAR");
        let (base, control) = if channel == 0 { (0x1f0, 0x3f6) } else { (0x170, 0x376) };
        Self {
            machine: Rc::clone(machine),
            base,
            control,
            bus_master: bar - 1 + u64::from(channel) * 8,
            table: machine.memory.alloc(4096, 4096),
            drive: 0,
        }
    }

    /// A load from a register of the command block.
    #[must_use]
    pub fn read(&self, register: u64) -> u8 {
        self.machine.bus.read(Space::Port, self.base + register, 1) as u8
    }

    /// A store to one.
    pub fn write(&self, register: u64, value: u8) {
        self.machine.bus.write(Space::Port, self.base + register, 1, value.into());
    }

    /// A load from the data port.
    #[must_use]
    pub fn read_data(&self, width: u8) -> u64 {
        self.machine.bus.read(Space::Port, self.base, width)
    }

    /// A store to it.
    pub fn write_data(&self, width: u8, value: u64) {
        self.machine.bus.write(Space::Port, self.base, width, value);
    }

    /// The alternate status: reading it acknowledges nothing.
    #[must_use]
    pub fn alternate(&self) -> u8 {
        self.machine.bus.read(Space::Port, self.control, 1) as u8
    }

    /// Writes device control.
    pub fn set_control(&self, value: u8) {
        self.machine.bus.write(Space::Port, self.control, 1, value.into());
    }

    /// A load from a bus master register.
    #[must_use]
    pub fn read_bm(&self, register: u64, width: u8) -> u64 {
        self.machine.bus.read(Space::Port, self.bus_master + register, width)
    }

    /// A store to one.
    pub fn write_bm(&self, register: u64, width: u8, value: u64) {
        self.machine.bus.write(Space::Port, self.bus_master + register, width, value);
    }

    /// Selects the drive.
    pub fn select(&self) {
        self.write(6, 0xa0 | self.drive << 4);
    }

    /// Writes a command's registers, its code last.
    pub fn issue(&self, command: &IdeCommand) {
        let device = command.device & !0x10 | self.drive << 4 | 0xa0;
        self.write(6, device);
        let lba = command.lba.to_le_bytes();
        if command.wide {
            self.write(1, (command.features >> 8) as u8);
            self.write(2, (command.count >> 8) as u8);
            (0..3).for_each(|i| self.write(3 + i, lba[3 + i as usize]));
        }
        self.write(1, command.features as u8);
        self.write(2, command.count as u8);
        (0..3).for_each(|i| self.write(3 + i, lba[i as usize]));
        self.write(7, command.command);
    }

    /// Waits until the drive is not busy any more; what the registers hold then. The interrupt is
    /// acknowledged.
    ///
    /// # Panics
    /// When it stays busy.
    #[must_use]
    pub fn wait(&self) -> IdeEnd {
        for _ in 0..64 {
            if self.alternate() & 0x80 == 0 {
                let status = self.read(7);
                return IdeEnd { status, error: self.read(1) };
            }
            self.machine.run();
        }
        panic!("the drive stays busy");
    }

    /// A command without data.
    #[must_use]
    pub fn plain(&self, command: &IdeCommand) -> IdeEnd {
        self.issue(command);
        self.wait()
    }

    /// A command whose data come through the data port, `len` bytes in blocks of `block`. Returns
    /// what came.
    ///
    /// # Panics
    /// When the drive asks for too few or too many.
    #[must_use]
    pub fn pio_in(&self, command: &IdeCommand, len: usize, block: usize) -> (IdeEnd, Vec<u8>) {
        self.issue(command);
        let mut data = Vec::new();
        while data.len() < len {
            let end = self.wait();
            if end.status & 8 == 0 {
                return (end, data);
            }
            let left = len - data.len();
            self.read_block(&mut data, block.min(left));
        }
        let end = self.wait();
        assert_eq!(end.status & 8, 0, "it has more data");
        (end, data)
    }

    /// Reads a block of data, by words.
    pub fn read_block(&self, data: &mut Vec<u8>, len: usize) {
        for _ in 0..len / 2 {
            data.extend(&self.read_data(2).to_le_bytes()[..2]);
        }
    }

    /// A command whose data go through the data port.
    ///
    /// # Panics
    /// When the drive asks for too few or too many.
    #[must_use]
    pub fn pio_out(&self, command: &IdeCommand, data: &[u8], block: usize) -> IdeEnd {
        self.issue(command);
        for piece in data.chunks(block) {
            let end = self.wait();
            if end.status & 8 == 0 {
                return end;
            }
            for word in piece.chunks(2) {
                self.write_data(2, u64::from(word[0]) | u64::from(word[1]) << 8);
            }
        }
        let end = self.wait();
        assert_eq!(end.status & 8, 0, "it wants more data");
        end
    }

    /// Writes the descriptor table: address, length (0 is 64 KiB) and flags of each.
    pub fn set_table(&self, entries: &[(u64, u16, u16)]) {
        for (i, (address, len, flags)) in (0..).zip(entries) {
            let bytes = address | u64::from(*len) << 32 | u64::from(*flags) << 48;
            self.machine.memory.write(self.table + i * 8, &bytes.to_le_bytes());
        }
        self.write_bm(4, 4, self.table);
    }

    /// A command by DMA over the table as it is. Returns the end, and the bus master's status before
    /// it was stopped and cleared.
    #[must_use]
    pub fn dma(&self, command: &IdeCommand, to_memory: bool) -> (IdeEnd, u8) {
        self.start_dma(command, to_memory);
        self.machine.run();
        self.finish_dma()
    }

    /// Issues a command and starts the bus master.
    pub fn start_dma(&self, command: &IdeCommand, to_memory: bool) {
        let direction = u64::from(to_memory) << 3;
        self.write_bm(2, 1, 6);
        self.write_bm(0, 1, direction);
        self.issue(command);
        self.write_bm(0, 1, direction | 1);
    }

    /// Stops the bus master and looks at what came of it.
    #[must_use]
    pub fn finish_dma(&self) -> (IdeEnd, u8) {
        let status = self.read_bm(2, 1) as u8;
        self.write_bm(0, 1, 0);
        self.write_bm(2, 1, 6);
        (IdeEnd { status: self.read(7), error: self.read(1) }, status)
    }

    /// Reads `len` bytes from sector `lba` by DMA.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn read_dma(&self, lba: u64, len: u64) -> Vec<u8> {
        let at = self.machine.memory.alloc(len, 4096);
        self.set_pages(at, len);
        let (end, status) = self.dma(&IdeCommand::lba48(0x25, lba, (len / 512) as u16), true);
        assert!(end.is_good() && status & 7 == 4, "{end:?}, bus master {status:#x}");
        self.machine.memory.read(at, len as usize)
    }

    /// Writes `data` from sector `lba` on by DMA.
    #[must_use]
    pub fn write_dma(&self, lba: u64, data: &[u8]) -> (IdeEnd, u8) {
        let at = self.machine.memory.alloc(data.len() as u64, 4096);
        self.machine.memory.write(at, data);
        self.set_pages(at, data.len() as u64);
        self.dma(&IdeCommand::lba48(0x35, lba, (data.len() / 512) as u16), false)
    }

    /// A table of pieces up to 64 KiB that do not cross a boundary of as much.
    pub fn set_pages(&self, at: u64, len: u64) {
        let mut entries = Vec::new();
        let (mut at, end) = (at, at + len);
        while at < end {
            let next = ((at | 0xffff) + 1).min(end);
            entries.push((at, (next - at) as u16, if next == end { 0x8000 } else { 0 }));
            at = next;
        }
        self.set_table(&entries);
    }

    /// A software reset, until the drive that is selected then is not busy any more.
    #[must_use]
    pub fn reset(&self) -> IdeEnd {
        self.set_control(0x04);
        self.machine.run();
        self.set_control(0x00);
        self.wait()
    }

    /// Sends a command packet. The drive has asked for it when this returns, or has ended.
    #[must_use]
    pub fn packet(&self, packet: &[u8], dma: bool, limit: u16) -> IdeEnd {
        let command = IdeCommand {
            command: 0xa0,
            features: dma.into(),
            lba: u64::from(limit) << 8,
            ..IdeCommand::default()
        };
        self.issue(&command);
        let end = self.wait();
        if end.status & 8 == 0 {
            return end;
        }
        let mut bytes = [0; 12];
        bytes[..packet.len()].copy_from_slice(packet);
        for word in bytes.chunks(2) {
            self.write_data(2, u64::from(word[0]) | u64::from(word[1]) << 8);
        }
        end
    }

    /// A packet whose data come through the data port.
    ///
    /// # Panics
    /// When the drive breaks the protocol.
    #[must_use]
    pub fn packet_in(&self, packet: &[u8], limit: u16) -> (IdeEnd, Vec<u8>) {
        let mut data = Vec::new();
        let asked = self.packet(packet, false, limit);
        if asked.status & 8 == 0 {
            return (asked, data);
        }
        loop {
            let end = self.wait();
            let reason = self.read(2);
            if end.status & 8 == 0 {
                assert_eq!(reason & 3, 3, "the reason of a status");
                return (end, data);
            }
            assert_eq!(reason & 3, 2, "the reason of data to the host");
            let len = usize::from(self.read(4)) | usize::from(self.read(5)) << 8;
            assert!(len > 0 && len <= usize::from(limit), "{len} bytes of {limit}");
            self.read_block(&mut data, len);
        }
    }
}
