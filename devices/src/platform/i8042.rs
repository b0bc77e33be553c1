//! The keyboard controller, as far as machines without a keyboard have it: always ready, nothing to
//! read, and a command that resets the machine (IBM PC/AT Technical Reference, 1-39).

use std::sync::Arc;

use crate::{Access, PowerRequest, PowerSink, Registers};

/// Offset of the data port.
pub const DATA: u64 = 0;
/// Offset of the command and status port, when both ports are one window from 60h.
pub const COMMAND: u64 = 4;
/// Pulse output line 0, which is wired to the CPU's reset; lines 1 to 3 are left alone.
const PULSE_RESET: u8 = 0xFE;
/// Status: the controller passed its self-test. Neither buffer is full.
const STATUS_SYSTEM: u8 = 1 << 2;

/// The controller; its two ports are declared as windows with `target_offset` [`DATA`] and
/// [`COMMAND`].
pub struct I8042 {
    power: Arc<dyn PowerSink>,
}

impl I8042 {
    /// The controller; `power` hears of the reset command.
    #[must_use]
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power }
    }
}

impl Registers for I8042 {
    fn read(&self, access: Access) -> u64 {
        if access.offset == COMMAND { u64::from(STATUS_SYSTEM) } else { 0 }
    }

    fn write(&self, access: Access, value: u64) {
        if access.offset == COMMAND && value as u8 == PULSE_RESET {
            self.power.request(PowerRequest::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Requests, read, write};

    #[test]
    fn only_the_reset_command_does_anything() {
        let power = Arc::new(Requests::default());
        let controller = I8042::new(Arc::clone(&power) as _);
        for command in (0..=0xFF).filter(|c| *c != 0xFE) {
            write(&controller, COMMAND, 1, command);
            write(&controller, DATA, 1, command);
        }
        write(&controller, DATA, 1, 0xFE);
        assert_eq!(power.take(), []);
        write(&controller, COMMAND, 1, 0xFE);
        assert_eq!(power.take(), [PowerRequest::Reset]);
    }

    #[test]
    fn a_driver_that_waits_for_the_buffers_never_waits() {
        let controller = I8042::new(Arc::new(Requests::default()));
        assert_eq!(read(&controller, COMMAND, 1) & 0b11, 0);
        assert_eq!(read(&controller, DATA, 1), 0);
    }
}
