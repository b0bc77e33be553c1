//! The debug-exit port: what is written becomes the exit status of the process.

use std::sync::Arc;

use crate::{Access, PowerRequest, PowerSink, Registers};

/// A window of up to four ports.
pub struct DebugExit {
    power: Arc<dyn PowerSink>,
}

impl DebugExit {
    /// Number of ports.
    pub const PORTS: u64 = 4;

    /// The port; `power` hears of writes.
    #[must_use]
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power }
    }
}

impl Registers for DebugExit {
    fn read(&self, _access: Access) -> u64 {
        0
    }

    fn write(&self, access: Access, value: u64) {
        let bits = 8 * u32::from(access.width.min(4));
        let mask = u64::MAX >> (64 - bits.max(8));
        self.power.request(PowerRequest::DebugExit((value & mask) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Requests, read, write};

    #[test]
    fn a_write_of_any_width_is_the_exit_status() {
        let power = Arc::new(Requests::default());
        let port = DebugExit::new(Arc::clone(&power) as _);
        for (width, value) in [(1, 0xAB), (2, 0xABCD), (4, 0xABCD_EF01)] {
            write(&port, 0, width, 0xFFFF_FFFF_0000_0000 | value);
            assert_eq!(power.take(), [PowerRequest::DebugExit(value as u32)]);
        }
        assert_eq!(read(&port, 0, 4), 0);
        assert_eq!(power.take(), []);
    }
}
