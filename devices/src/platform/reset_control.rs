//! The reset control register, RST_CNT (Intel ICH9 datasheet, 13.7.5), at port CF9h.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::{Access, PowerRequest, PowerSink, Registers};

/// SYS_RST: a reset is of the whole system, not of the CPU alone.
const SYSTEM: u8 = 1 << 1;
/// RST_CPU: going from 0 to 1 resets.
const RESET: u8 = 1 << 2;
/// FULL_RST: power goes off and on.
const FULL: u8 = 1 << 3;

/// The register.
pub struct ResetControl {
    value: AtomicU8,
    power: Arc<dyn PowerSink>,
}

impl ResetControl {
    /// The register; `power` hears of resets.
    #[must_use]
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        Self { value: AtomicU8::new(0), power }
    }

    /// A reset of the machine clears it.
    pub fn reset(&self) {
        self.value.store(0, Ordering::Relaxed);
    }
}

impl Registers for ResetControl {
    fn read(&self, _access: Access) -> u64 {
        u64::from(self.value.load(Ordering::Relaxed))
    }

    fn write(&self, access: Access, value: u64) {
        if access.width != 1 {
            return;
        }
        let new = value as u8 & (SYSTEM | RESET | FULL);
        let old = self.value.swap(new & !RESET, Ordering::Relaxed);
        if new & RESET != 0 && old & RESET == 0 {
            self.power.request(PowerRequest::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Requests, read, write};

    #[test]
    fn setting_the_reset_bit_resets() {
        let power = Arc::new(Requests::default());
        let register = ResetControl::new(Arc::clone(&power) as _);
        write(&register, 0, 1, 0x02);
        assert_eq!((power.take(), read(&register, 0, 1)), (vec![], 2));
        for value in [0x06, 0x0E, 0x04] {
            write(&register, 0, 1, value);
            assert_eq!(power.take(), [PowerRequest::Reset], "{value:#x}");
        }
        register.reset();
        assert_eq!(read(&register, 0, 1), 0);
    }

    #[test]
    fn a_wide_write_belongs_to_the_pci_configuration_port() {
        let power = Arc::new(Requests::default());
        let register = ResetControl::new(Arc::clone(&power) as _);
        write(&register, 0, 4, 0x0606_0606);
        assert_eq!((power.take(), read(&register, 0, 1)), (vec![], 0));
    }
}
