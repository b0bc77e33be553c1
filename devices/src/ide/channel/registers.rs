//! What loads and stores do.

use super::{
    super::{
        spec::{FLOATING, bm_command, bm_status, control, port},
        work::{Reset, Work},
    },
    Drive, Kind, State, Wanted,
};
use crate::ata::spec::{device, op, status};

impl State {
    /// Nothing is at the selected position, nor at any other that would answer for it.
    pub(super) fn floats(&self) -> bool {
        self.drives[0].kind.is_none() && (self.selected == 0 || self.drives[1].kind.is_none())
    }

    /// A load from the command block or of ALTERNATE STATUS.
    pub fn read(&mut self, at: u64, width: u8) -> (u64, Wanted) {
        if self.floats() {
            // Every byte lane, of a data port that is wider.
            return (u64::from_le_bytes([FLOATING; 8]), Wanted::default());
        }
        let hob = self.control & control::HOB != 0;
        let there = self.drives[self.selected].kind.is_some();
        // Drive 0 answers for one that is not there: with its own registers, but never ready
        // (ATA-7, 9.16.1).
        let drive = &mut self.drives[if there { self.selected } else { 0 }];
        let value = match at {
            port::DATA if there => {
                let value = drive.data_read(usize::from(width));
                let queue = drive.block_is_over() && drive.end_block();
                return (value, Wanted { queue });
            }
            port::ERROR => drive.error,
            port::COUNT => drive.count.get(hob),
            port::LBA_LOW | port::LBA_MID | port::LBA_HIGH => {
                drive.lba[(at - port::LBA_LOW) as usize].get(hob)
            }
            port::DEVICE if there => drive.device,
            port::DEVICE => drive.device | device::DEV,
            port::COMMAND if there => {
                drive.interrupting = false;
                drive.status
            }
            port::CONTROL if there => drive.status,
            _ => 0,
        };
        (value.into(), Wanted::default())
    }

    /// A store to the command block or to DEVICE CONTROL.
    pub fn write(&mut self, at: u64, width: u8, value: u64) -> Wanted {
        let byte = value as u8;
        let queue = match at {
            port::DATA => {
                let drive = &mut self.drives[self.selected];
                drive.data_write(usize::from(width), value);
                drive.block_is_over() && drive.end_block()
            }
            port::CONTROL => self.control(byte),
            port::COMMAND => {
                self.control &= !control::HOB;
                self.command(byte)
            }
            _ => {
                self.control &= !control::HOB;
                // A drive with a command under way does not listen.
                if !self.drives[self.selected].is_busy() {
                    self.taskfile(at, byte);
                }
                false
            }
        };
        Wanted { queue }
    }

    /// Both drives take what is written (ATA-7, 5.4).
    pub(super) fn taskfile(&mut self, at: u64, value: u8) {
        if at == port::DEVICE {
            self.selected = usize::from(value & device::DEV != 0);
        }
        for drive in &mut self.drives {
            match at {
                port::ERROR => drive.features.push(value),
                port::COUNT => drive.count.push(value),
                port::LBA_LOW | port::LBA_MID | port::LBA_HIGH => {
                    drive.lba[(at - port::LBA_LOW) as usize].push(value);
                }
                port::DEVICE => drive.device = value,
                _ => {}
            }
        }
    }

    pub(super) fn control(&mut self, value: u8) -> bool {
        let was = self.control & control::SRST != 0;
        self.control = value & (control::NIEN | control::SRST | control::HOB);
        let now = value & control::SRST != 0;
        if now && !was && self.reset != Some(Reset::Hardware) {
            self.begin_reset(Reset::Software);
        }
        was != now
    }

    pub(super) fn command(&mut self, command: u8) -> bool {
        if command == op::EXECUTE_DEVICE_DIAGNOSTIC {
            let busy = self.drives.iter().any(Drive::is_busy);
            if !busy && self.drives.iter().any(|drive| drive.kind.is_some()) {
                self.begin_reset(Reset::Diagnostic);
                return true;
            }
            return false;
        }
        let selected = self.selected;
        let bm_starts = self.bm.command & bm_command::START != 0;
        let drive = &mut self.drives[selected];
        let Some(kind) = drive.kind else { return false };
        if kind == Kind::Packet && command == op::DEVICE_RESET && self.reset.is_none() {
            self.begin_reset(Reset::Device(selected));
            return true;
        }
        if drive.is_busy() || self.reset.is_some() {
            return false;
        }
        drive.interrupting = false;
        drive.error = 0;
        let taskfile = drive.taskfile(command);
        if kind == Kind::Packet && command == op::PACKET {
            drive.await_packet(taskfile);
            return false;
        }
        drive.status = drive.status & !(status::ERR | status::DF) | status::BSY;
        drive.work = Some(Work::Command(taskfile));
        bm_starts || !drive.waits_for_bus_master(&taskfile)
    }

    /// A register of the bus master was written.
    pub fn bm_command(&mut self, value: u8) -> Wanted {
        let before = self.bm.command & bm_command::START != 0;
        self.bm.command = value & (bm_command::START | bm_command::TO_MEMORY);
        let now = value & bm_command::START != 0;
        match (before, now) {
            (false, true) => {
                self.bm.status |= bm_status::ACTIVE;
                self.bm.stopped = false;
            }
            // What is under way cannot be taken back: the bit falls when it is over.
            (true, false) if self.bm.serving => self.bm.stopped = true,
            (true, false) => self.bm.status &= !bm_status::ACTIVE,
            _ => {}
        }
        Wanted { queue: now && !before }
    }
}
