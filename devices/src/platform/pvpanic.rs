//! pvpanic: a guest tells that it panicked (QEMU, docs/specs/pvpanic.rst).

use std::sync::Arc;

use crate::{Access, PowerRequest, PowerSink, Registers};

/// The guest panicked, and leaves it to the host what happens next.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and runs its crash kernel.
const CRASH_LOADED: u8 = 1 << 1;

/// The one port.
pub struct Pvpanic {
    power: Arc<dyn PowerSink>,
}

impl Pvpanic {
    /// The port; `power` hears of panics.
    #[must_use]
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { power }
    }
}

impl Registers for Pvpanic {
    fn read(&self, _access: Access) -> u64 {
        u64::from(PANICKED | CRASH_LOADED)
    }

    fn write(&self, _access: Access, value: u64) {
        if value as u8 & PANICKED != 0 {
            self.power.request(PowerRequest::Panic);
        } else if value as u8 & CRASH_LOADED != 0 {
            log::info!("the guest panicked and has loaded its crash kernel");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Requests, read, write};

    #[test]
    fn a_panic_is_reported_and_a_loaded_crash_kernel_is_left_alone() {
        let power = Arc::new(Requests::default());
        let port = Pvpanic::new(Arc::clone(&power) as _);
        assert_eq!(read(&port, 0, 1), 3);
        write(&port, 0, 1, 0x02);
        write(&port, 0, 1, 0xFC);
        assert_eq!(power.take(), []);
        write(&port, 0, 1, 0x01);
        assert_eq!(power.take(), [PowerRequest::Panic]);
    }
}
