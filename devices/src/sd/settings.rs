//! What a host sets to stay: the lock, the CSD, write protection of groups.

use super::{
    Card, Reply,
    card::{Own, Taking},
    lock::Outcome,
    protect::Kind,
    registers::{program_csd, programmed},
    spec::status,
};

impl Card {
    pub(super) fn lock_command(&mut self, bytes: &[u8]) {
        // With permanent protection nothing can be erased (SD 4.3.7.3).
        let lasting = self.programmed & programmed::PERMANENT != 0 || self.protect.has_permanent();
        if bytes.first().is_some_and(|mode| mode & 8 != 0) && (lasting || self.config.read_only) {
            self.errors |= status::LOCK_UNLOCK_FAILED;
            return;
        }
        match self.lock.command(bytes) {
            Outcome::Failed => self.errors |= status::LOCK_UNLOCK_FAILED,
            Outcome::Done => {}
            Outcome::Changed => self.save(),
            Outcome::Erase => {
                self.programmed &= !programmed::TEMPORARY;
                self.protect.clear_temporary();
                // The password goes last: a card that lost power half-way is locked, and can be
                // erased again.
                self.erase_all();
                self.save();
            }
        }
    }

    pub(super) fn program_csd(&mut self, bytes: &[u8]) {
        let csd = self.csd();
        let written = bytes.first_chunk().and_then(|bytes| program_csd(&csd, bytes));
        match written {
            None => self.errors |= status::CSD_OVERWRITE,
            Some(changed) if changed == self.programmed => {}
            Some(changed) => {
                self.programmed = changed;
                self.save();
            }
        }
    }

    /// CMD56: a block of the maker's own. There is nothing in it.
    pub(super) fn general(&mut self, arg: u32) -> Reply {
        const READ: u32 = 1;
        if arg & READ == 0 {
            return self.take(Taking::General, self.data_len());
        }
        let len = self.data_len();
        self.send(vec![0; len as usize])
    }

    pub(super) fn protect_group(&mut self, arg: u32, on: bool) -> Reply {
        if self.protect.group == 0 || !self.in_user_area() {
            return self.refuse();
        }
        let address = self.address(arg);
        if address >= self.area().1 {
            self.errors |= status::OUT_OF_RANGE;
            return self.answer();
        }
        if on {
            let kind = match &self.own {
                Own::Sd(_) => Kind::Temporary,
                Own::Emmc(emmc) => emmc.protection(),
            };
            self.protect.set(address, kind);
        } else if !self.protect.clear(address) {
            self.errors |= status::ERROR;
        }
        self.save();
        self.busy()
    }

    /// CMD30: a bit for each of 32 groups. CMD31: two for each, and 64 bits.
    pub(super) fn send_protection(&mut self, arg: u32, kinds: bool) -> Reply {
        if self.protect.group == 0 || !self.in_user_area() {
            return self.refuse();
        }
        let address = self.address(arg);
        if address >= self.area().1 {
            self.errors |= status::OUT_OF_RANGE;
            return self.answer();
        }
        let groups = self.protect.kinds(address, 32);
        let bytes = if kinds {
            let bits =
                groups.enumerate().fold(0_u64, |all, (i, kind)| all | u64::from(kind) << (2 * i));
            bits.to_be_bytes().to_vec()
        } else {
            let bits =
                groups.enumerate().fold(0_u32, |all, (i, kind)| all | u32::from(kind != 0) << i);
            bits.to_be_bytes().to_vec()
        };
        self.send(bytes)
    }
}
