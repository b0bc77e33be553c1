//! What the queue half does to a channel.

use super::{After, BusMaster, Channel, Direction};
use crate::{
    ata::{
        Ending,
        spec::{device, status},
    },
    ide::{spec::bm_status, work::Reset},
};

impl Channel {
    /// A command has ended.
    pub fn end(&self, index: usize, ending: &Ending) {
        self.change(|state| {
            if state.is_reset(index) {
                return;
            }
            let drive = &mut state.drives[index];
            drive.show(ending);
            drive.interrupting = true;
        });
    }

    /// The bus master ran out of memory: it goes idle, and the drive waits for the rest.
    pub fn stall(&self, index: usize) {
        self.change(|state| {
            state.bm.status &= !bm_status::ACTIVE;
            (state.bm.serving, state.bm.stopped) = (false, false);
            if state.is_reset(index) {
                return;
            }
            let drive = &mut state.drives[index];
            drive.status = drive.status & !status::BSY | status::DRQ;
        });
    }

    /// Gives the data port bytes to be read, which `fill` puts there, in blocks of `block` bytes.
    pub fn offer(&self, index: usize, offer: &Offer, fill: impl FnOnce(&mut [u8])) {
        self.change(|state| {
            if state.is_reset(index) {
                return;
            }
            let drive = &mut state.drives[index];
            let data = &mut drive.data;
            fill(&mut data.bytes[..offer.len]);
            data.direction = Direction::In;
            (data.at, data.filled, data.block) = (0, offer.len, offer.block);
            data.packet = offer.packet;
            data.after = offer.after;
            drive.begin_block();
            drive.interrupting = true;
        });
    }

    /// Asks the host for a block of `len` bytes; `interrupt`: it is told.
    pub fn ask(&self, index: usize, len: usize, packet: bool, interrupt: bool) {
        self.change(|state| {
            if state.is_reset(index) {
                return;
            }
            let drive = &mut state.drives[index];
            let data = &mut drive.data;
            data.direction = Direction::Out;
            (data.at, data.filled, data.block) = (0, len, len);
            data.packet = packet;
            drive.begin_block();
            drive.interrupting = interrupt;
        });
    }

    /// The bytes that the host has written.
    pub fn take_block(&self, index: usize, take: impl FnOnce(&[u8])) {
        let state = self.lock();
        let data = &state.drives[index].data;
        take(&data.bytes[..data.filled]);
    }

    /// The reset is over: the drives that it reached show their signatures.
    pub fn finish_reset(&self, reset: Reset, signatures: [Option<Ending>; 2]) {
        self.change(|state| {
            for (drive, signature) in state.drives.iter_mut().zip(&signatures) {
                if let Some(signature) = signature {
                    drive.show(signature);
                    drive.device = 0;
                }
            }
            match reset {
                Reset::Device(index) => {
                    // DEVICE stays as it was (ATA-7, 6.11).
                    let dev = if state.selected == 1 { device::DEV } else { 0 };
                    state.drives[index].device = dev;
                }
                Reset::Software => state.selected = 0,
                Reset::Hardware => {
                    state.selected = 0;
                    state.control = 0;
                    state.bm = BusMaster::default();
                }
                Reset::Diagnostic => {
                    state.selected = 0;
                    let first = usize::from(state.drives[0].kind.is_none());
                    state.drives[first].interrupting = true;
                }
            }
            state.reset = None;
        });
    }
}

/// Bytes for the data port.
pub(in super::super) struct Offer {
    pub len: usize,
    pub block: usize,
    /// They are those of a PACKET command.
    pub packet: bool,
    pub after: After,
}
