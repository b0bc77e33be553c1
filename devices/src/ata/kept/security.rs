//! The Security feature set (ACS-3, 4.19): passwords, and what they lock.

use super::super::{
    cmd::{ABORTED, Refused},
    identify::Words,
    rare::Rare,
};
use crate::state_file::{Fields, Section, Truncated};

pub(in super::super) const SECTION: &str = "ata/security";
const VERSION: u16 = 1;
/// Wrong passwords until the next power-on (ACS-3, 4.19.5).
const ATTEMPTS: u8 = 5;
/// MASTER PASSWORD IDENTIFIER as it was made (ACS-3, 4.19.3.5).
const FIRST_IDENTIFIER: u16 = 0xfffe;

type Password = [u8; 32];

/// What the data of a command say (ACS-3, tables 84 to 88).
struct Data {
    master: bool,
    /// Level of SET PASSWORD.
    maximum: bool,
    password: Password,
    identifier: u16,
}

impl Data {
    fn new(bytes: &[u8; 512]) -> Self {
        let mut password = [0; 32];
        password.copy_from_slice(&bytes[2..34]);
        Self {
            master: bytes[0] & 1 != 0,
            maximum: bytes[1] & 1 != 0,
            password,
            identifier: u16::from_le_bytes([bytes[34], bytes[35]]),
        }
    }
}

/// See the module.
pub(in super::super) struct Security {
    user: Option<Password>,
    master: Password,
    identifier: u16,
    /// Level: the master password does not unlock.
    maximum: bool,
    locked: bool,
    frozen: bool,
    attempts: u8,
    prepared: bool,
}

impl Security {
    pub fn load(section: Option<&Section>) -> Self {
        let mut security = Self {
            user: None,
            master: [0; 32],
            identifier: FIRST_IDENTIFIER,
            maximum: false,
            locked: false,
            frozen: false,
            attempts: ATTEMPTS,
            prepared: false,
        };
        if let Some(section) = section.filter(|section| section.version == VERSION)
            && security.read(&section.bytes).is_err()
        {
            log::warn!("the passwords in the state of a disk are cut short, and forgotten");
        }
        security.locked = security.enabled();
        security
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut fields = Fields::new(bytes);
        let (flags, identifier) = (fields.u8()?, fields.u16()?);
        let (user, master) = (fields.array()?, fields.array()?);
        self.user = (flags & 1 != 0).then_some(user);
        self.maximum = flags & 2 != 0;
        (self.master, self.identifier) = (master, identifier);
        Ok(())
    }

    pub fn section(&self) -> Section {
        let mut bytes = vec![u8::from(self.enabled()) | u8::from(self.maximum) << 1];
        bytes.extend(self.identifier.to_le_bytes());
        bytes.extend(self.user.unwrap_or_default());
        bytes.extend(self.master);
        Section { version: VERSION, bytes }
    }

    pub fn enabled(&self) -> bool {
        self.user.is_some()
    }

    pub fn locked(&self) -> bool {
        self.locked
    }

    pub fn power_on(&mut self) {
        self.locked = self.enabled();
        (self.frozen, self.prepared, self.attempts) = (false, false, ATTEMPTS);
    }

    /// A command comes: whatever is not SECURITY ERASE UNIT ends what SECURITY ERASE PREPARE began.
    pub fn note(&mut self, rare: Option<Rare>) {
        self.prepared &= rare == Some(Rare::SecurityEraseUnit);
    }

    pub fn describe(&self, w: &mut Words) {
        let on = |set: bool, bit: u32| u16::from(set) << bit;
        // Two minutes, as any drive.
        w[89] = 1;
        w[90] = 1;
        w[92] = self.identifier;
        w[128] = 1
            | on(self.enabled(), 1)
            | on(self.locked, 2)
            | on(self.frozen, 3)
            | on(self.attempts == 0, 4)
            | 1 << 5
            | on(self.enabled() && self.maximum, 8);
    }

    pub fn set_password(&mut self, bytes: &[u8; 512]) -> Result<(), Refused> {
        if self.locked || self.frozen {
            return Err(ABORTED);
        }
        let data = Data::new(bytes);
        if data.master {
            self.master = data.password;
            if !matches!(data.identifier, 0 | 0xffff) {
                self.identifier = data.identifier;
            }
        } else {
            self.user = Some(data.password);
            self.maximum = data.maximum;
        }
        Ok(())
    }

    /// Whether a password is right for opening; one that is wrong counts.
    fn matches(&mut self, data: &Data) -> bool {
        let right = match (data.master, self.user) {
            (true, _) => data.password == self.master,
            (false, Some(user)) => data.password == user,
            (false, None) => false,
        };
        if !right {
            self.attempts = self.attempts.saturating_sub(1);
        }
        right
    }

    pub fn unlock(&mut self, bytes: &[u8; 512]) -> Result<(), Refused> {
        let data = Data::new(bytes);
        if self.frozen || self.attempts == 0 || (data.master && self.maximum && self.enabled()) {
            return Err(ABORTED);
        }
        if !self.enabled() {
            return Ok(());
        }
        if !self.matches(&data) {
            return Err(ABORTED);
        }
        (self.locked, self.attempts) = (false, ATTEMPTS);
        Ok(())
    }

    pub fn disable(&mut self, bytes: &[u8; 512]) -> Result<(), Refused> {
        let data = Data::new(bytes);
        if self.locked || self.frozen || (data.master && self.maximum && self.enabled()) {
            return Err(ABORTED);
        }
        if self.enabled() && !self.matches(&data) {
            return Err(ABORTED);
        }
        self.forget();
        Ok(())
    }

    /// There is no user password any more.
    pub fn forget(&mut self) {
        (self.user, self.maximum, self.locked) = (None, false, false);
    }

    pub fn freeze(&mut self) -> Result<(), Refused> {
        if self.locked {
            return Err(ABORTED);
        }
        self.frozen = true;
        Ok(())
    }

    pub fn prepare(&mut self) -> Result<(), Refused> {
        if self.frozen {
            return Err(ABORTED);
        }
        self.prepared = true;
        Ok(())
    }

    /// Whether everything may be erased; if so, [`Security::forget`] follows once it is.
    pub fn erase(&mut self, bytes: &[u8; 512]) -> Result<(), Refused> {
        let prepared = std::mem::take(&mut self.prepared);
        let data = Data::new(bytes);
        // Whatever the level, the master password erases (ACS-3, 4.19.3.4).
        if self.frozen || !prepared || self.attempts == 0 || !self.matches(&data) {
            return Err(ABORTED);
        }
        Ok(())
    }
}
