//! The SET MAX security extension (ATA-6, 6.21.2): a password that keeps SET MAX ADDRESS from others
//! until the next power-on.

use super::super::{
    cmd::{ABORTED, Refused},
    spec::set_max,
};

/// Wrong passwords until the next power-on (ATA-6, 8.47.4).
const ATTEMPTS: u8 = 5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unlocked,
    Locked,
    Frozen,
}

/// See the module.
#[derive(Debug)]
pub(in super::super) struct MaxLock {
    /// There is none: the extension is not active.
    password: Option<[u8; 32]>,
    state: State,
    attempts: u8,
}

impl Default for MaxLock {
    fn default() -> Self {
        Self { password: None, state: State::Unlocked, attempts: ATTEMPTS }
    }
}

impl MaxLock {
    /// Whether a password was set.
    pub fn is_active(&self) -> bool {
        self.password.is_some()
    }

    /// Whether the largest address can be set.
    pub fn is_open(&self) -> bool {
        self.state == State::Unlocked
    }

    /// SET MAX with a feature; `data` is what came with those that have data.
    pub fn command(&mut self, feature: u8, data: &[u8; 512]) -> Result<(), Refused> {
        let mut given = [0; 32];
        given.copy_from_slice(&data[2..34]);
        match (feature, self.state) {
            (set_max::SET_PASSWORD, State::Unlocked) => self.password = Some(given),
            (set_max::LOCK, State::Unlocked) if self.is_active() => self.state = State::Locked,
            (set_max::UNLOCK, State::Locked) if self.attempts > 0 => {
                if self.password != Some(given) {
                    self.attempts -= 1;
                    return Err(ABORTED);
                }
                (self.state, self.attempts) = (State::Unlocked, ATTEMPTS);
            }
            (set_max::FREEZE_LOCK, State::Unlocked | State::Locked) if self.is_active() => {
                self.state = State::Frozen;
            }
            _ => return Err(ABORTED),
        }
        Ok(())
    }
}
