//! CMD42: the password (SD 4.3.7, eMMC 6.6.30).

/// The longest password, in bytes.
const PASSWORD_MAX: usize = 16;

const SET: u8 = 1 << 0;
const CLEAR: u8 = 1 << 1;
const LOCK: u8 = 1 << 2;
const ERASE: u8 = 1 << 3;

/// A password, and whether it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lock {
    /// Empty: there is none.
    pub password: Vec<u8>,
    /// The card is locked.
    pub locked: bool,
}

/// What a lock command comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It failed; nothing has changed.
    Failed,
    /// Only whether it is locked may have changed.
    Done,
    /// The password has changed.
    Changed,
    /// Forced erase: all data go, and the password with them.
    Erase,
}

impl Lock {
    /// After power on: a card with a password is locked.
    pub fn power_on(&mut self) {
        self.locked = !self.password.is_empty();
    }

    /// Carries out the data block of a lock command.
    pub fn command(&mut self, block: &[u8]) -> Outcome {
        let Some((&mode, rest)) = block.split_first() else { return Outcome::Failed };
        if mode & ERASE != 0 {
            // Only that bit, and only a locked card.
            if mode != ERASE || !self.locked {
                return Outcome::Failed;
            }
            *self = Self::default();
            return Outcome::Erase;
        }
        let Some((&len, rest)) = rest.split_first() else { return Outcome::Failed };
        let Some(given) = rest.get(..usize::from(len)) else { return Outcome::Failed };
        let Some(new) = given.strip_prefix(&*self.password) else { return Outcome::Failed };
        match mode & (SET | CLEAR) {
            SET => self.set(new, mode & LOCK != 0),
            CLEAR if mode & LOCK == 0 && new.is_empty() && !self.password.is_empty() => {
                *self = Self::default();
                Outcome::Changed
            }
            0 if new.is_empty() && !self.password.is_empty() => {
                let lock = mode & LOCK != 0;
                // Locking a locked card, or unlocking an open one, fails.
                if lock == self.locked {
                    return Outcome::Failed;
                }
                self.locked = lock;
                Outcome::Done
            }
            _ => Outcome::Failed,
        }
    }

    fn set(&mut self, new: &[u8], lock: bool) -> Outcome {
        if self.locked || new.is_empty() || new.len() > PASSWORD_MAX {
            return Outcome::Failed;
        }
        self.password = new.to_vec();
        self.locked = lock;
        Outcome::Changed
    }
}
