//! ACPI fixed hardware (ACPI 6.5, 4.8): the PM1a registers with the power button, the PM timer, and a
//! block of general purpose events.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Access, LineIrq, PowerRequest, PowerSink, Registers};

/// Offset of the PM1a status register (16 bits).
pub const PM1_STATUS: u64 = 0x00;
/// Offset of the PM1a enable register (16 bits).
pub const PM1_ENABLE: u64 = 0x02;
/// Offset of the PM1a control register (16 bits).
pub const PM1_CONTROL: u64 = 0x04;
/// Offset of the PM timer (32 bits).
pub const PM_TIMER: u64 = 0x08;
/// Offset of the general purpose event block: status bytes, then enable bytes.
pub const GPE0: u64 = 0x20;
/// Offset of ICH9's SMI enable register (32 bits; ICH9 datasheet, 13.8.3.7).
pub const SMI_ENABLE: u64 = 0x30;
/// Length of the general purpose event block in bytes.
pub const GPE0_LEN: u64 = 16;
/// The soft-off value of SLP_TYP.
pub const SLEEP_TYPE_S5: u8 = 0;

/// SMI enable: writes to the APM command port raise an SMI. There is no system management mode; firmware that
/// finds the bit set takes it for set up and leaves it alone.
const APMC_ENABLE: u8 = 1 << 5;
/// PM1 status (4.8.3.1.1): power button pressed. Bits are cleared by writing ones.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1 status bits that exist: timer carry, bus master, global, power and sleep button, RTC, wake.
const STATUS_BITS: u16 = 0x8731;
/// PM1 enable bits that exist.
const ENABLE_BITS: u16 = 0x0721;
/// PM1 control (4.8.3.2.1): events raise the SCI. Always set, there is no SMI.
const SCI_ENABLE: u16 = 1 << 0;
/// PM1 control: go to sleep. Reads 0.
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u16 = 10;
/// PM1 control bits that keep what is written: BM_RLD and SLP_TYP.
const CONTROL_BITS: u16 = 1 << 1 | 0b111 << SLEEP_TYPE_SHIFT;
/// The timer's frequency in Hz and its width (4.8.2.1).
const TIMER_HZ: u128 = 3_579_545;
const TIMER_MASK: u64 = 0xFF_FFFF;

/// Where the timer's time comes from: nanoseconds that never go back.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

#[derive(Default)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    /// General purpose events (4.8.4.1) that came and were not cleared yet, a bit each.
    gpe_status: u64,
    /// Those of them that raise the interrupt.
    gpe_enable: u64,
}

impl State {
    fn wants_interrupt(&self) -> bool {
        self.status & self.enable != 0 || self.gpe_status & self.gpe_enable != 0
    }
}

/// Bytes of the status half of the event block, and of its enable half.
const GPE_HALF: u64 = GPE0_LEN / 2;
const _: () = assert!(GPE_HALF == size_of::<u64>() as u64);

/// Which half of the event block an offset is in, and the shift of its byte there.
fn gpe_byte(offset: u64) -> Option<(bool, u64)> {
    let at = offset.checked_sub(GPE0).filter(|at| *at < GPE0_LEN)?;
    Some((at >= GPE_HALF, at % GPE_HALF * 8))
}

/// The registers.
pub struct AcpiPm {
    state: Mutex<State>,
    sci: Box<dyn LineIrq>,
    power: Arc<dyn PowerSink>,
    clock: Clock,
}

impl AcpiPm {
    /// The registers; `sci` is the system control interrupt.
    #[must_use]
    pub fn new(sci: Box<dyn LineIrq>, power: Arc<dyn PowerSink>, clock: Clock) -> Self {
        Self { state: Mutex::default(), sci, power, clock }
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&self) {
        self.change(|state| state.status |= POWER_BUTTON);
    }

    /// The general purpose event `number` (below 64) happened: the guest runs its handler, `\_GPE._Exx`.
    pub fn raise_general_event(&self, number: u8) {
        self.change(|state| state.gpe_status |= 1_u64.checked_shl(number.into()).unwrap_or(0));
    }

    /// A reset of the machine: no events, nothing enabled.
    pub fn reset(&self) {
        self.change(|state| *state = State::default());
    }

    /// Changes the state and lets the interrupt follow, as one step.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = f(&mut state);
        self.sci.set(state.wants_interrupt());
        value
    }

    fn timer(&self) -> u32 {
        let ticks = u128::from((self.clock)()) * TIMER_HZ / 1_000_000_000;
        (ticks as u64 & TIMER_MASK) as u32
    }

    fn read_byte(&self, state: &State, offset: u64) -> u8 {
        let half = |value: u16, base: u64| value.to_le_bytes()[(offset - base) as usize];
        match offset {
            PM1_STATUS..PM1_ENABLE => half(state.status, PM1_STATUS),
            PM1_ENABLE..PM1_CONTROL => half(state.enable, PM1_ENABLE),
            0x04..0x06 => half(state.control | SCI_ENABLE, PM1_CONTROL),
            SMI_ENABLE => APMC_ENABLE,
            _ => match gpe_byte(offset) {
                Some((false, shift)) => (state.gpe_status >> shift) as u8,
                Some((true, shift)) => (state.gpe_enable >> shift) as u8,
                None => 0,
            },
        }
    }

    /// Status bits are cleared by ones (4.8.4.1.1), enable bits are what is written.
    fn write_event_byte(&self, offset: u64, value: u8) {
        let Some((enable, shift)) = gpe_byte(offset) else { return };
        let bits = u64::from(value) << shift;
        self.change(|state| {
            if enable {
                state.gpe_enable = state.gpe_enable & !(0xFF << shift) | bits;
            } else {
                state.gpe_status &= !bits;
            }
        });
    }

    fn write_half(&self, offset: u64, value: u16) {
        let sleep = self.change(|state| match offset {
            PM1_STATUS => {
                state.status &= !(value & STATUS_BITS);
                false
            }
            PM1_ENABLE => {
                state.enable = value & ENABLE_BITS;
                false
            }
            PM1_CONTROL => {
                state.control = value & CONTROL_BITS;
                value & SLEEP_ENABLE != 0
            }
            _ => false,
        });
        if !sleep {
            return;
        }
        match (value >> SLEEP_TYPE_SHIFT & 0b111) as u8 {
            SLEEP_TYPE_S5 => self.power.request(PowerRequest::PowerOff),
            other => log::debug!("the guest asks for sleep type {other}, which there is none of"),
        }
    }
}

impl Registers for AcpiPm {
    fn read(&self, access: Access) -> u64 {
        if access.offset == PM_TIMER {
            return u64::from(self.timer());
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; 8];
        for (byte, offset) in bytes.iter_mut().zip(access.offset..).take(access.width.into()) {
            *byte = self.read_byte(&state, offset);
        }
        u64::from_le_bytes(bytes)
    }

    fn write(&self, access: Access, value: u64) {
        match (access.offset, access.width) {
            (PM1_STATUS | PM1_ENABLE | PM1_CONTROL, 2) => {
                self.write_half(access.offset, value as u16);
            }
            // Both halves of the event block, or control with its reserved upper half.
            (PM1_STATUS, 4) => {
                self.write_half(PM1_STATUS, value as u16);
                self.write_half(PM1_ENABLE, (value >> 16) as u16);
            }
            (PM1_CONTROL, 4) => self.write_half(PM1_CONTROL, value as u16),
            (offset, 1) => self.write_event_byte(offset, value as u8),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::testing::{Requests, Wire, read, write};

    fn device() -> (AcpiPm, Wire, Arc<Requests>) {
        let (wire, power) = (Wire::default(), Arc::new(Requests::default()));
        let pm = AcpiPm::new(
            Box::new(wire.clone()),
            Arc::clone(&power) as _,
            Box::new(|| 1_000_000_000),
        );
        (pm, wire, power)
    }

    #[test]
    fn the_power_button_raises_the_interrupt_while_enabled_and_until_cleared() {
        let (pm, sci, _) = device();
        pm.press_power_button();
        assert!(!sci.is_up(), "not enabled");
        assert_eq!(read(&pm, PM1_STATUS, 2), 0x100);
        write(&pm, PM1_ENABLE, 2, 0xFFFF);
        assert!(sci.is_up());
        assert_eq!(read(&pm, PM1_STATUS, 4), 0x0721_0100);
        write(&pm, PM1_STATUS, 2, 0x0001);
        assert!(sci.is_up(), "another bit was cleared");
        write(&pm, PM1_STATUS, 2, 0x0100);
        assert!(!sci.is_up());
        assert_eq!(read(&pm, PM1_STATUS, 2), 0);
        pm.press_power_button();
        assert!(sci.is_up());
        pm.reset();
        assert!(!sci.is_up());
        assert_eq!(read(&pm, PM1_STATUS, 4), 0);
    }

    #[test]
    fn sleep_enable_with_type_s5_powers_off_and_reads_as_zero() {
        let (pm, _, power) = device();
        assert_eq!(read(&pm, PM1_CONTROL, 2), 1, "always in ACPI mode");
        write(&pm, PM1_CONTROL, 2, 1 << 10 | 1 << 13);
        assert_eq!(power.take(), [], "no such sleep type");
        write(&pm, PM1_CONTROL, 2, 0);
        assert_eq!(power.take(), [], "not without the enable bit");
        write(&pm, PM1_CONTROL, 2, 1 << 13 | 1);
        assert_eq!(power.take(), [PowerRequest::PowerOff]);
        assert_eq!(read(&pm, PM1_CONTROL, 2), 1);
    }

    #[test]
    fn the_timer_counts_at_its_frequency_in_24_bits() {
        for (ns, want) in [
            (0, 0),
            (1_000_000_000, 3_579_545),
            (5_000_000_000, 17_897_725 - (1 << 24)),
            (u64::MAX, 0),
        ] {
            let power = Arc::new(Requests::default());
            let pm = AcpiPm::new(Box::new(Wire::default()), power, Box::new(move || ns));
            let value = read(&pm, PM_TIMER, 4);
            assert!(value <= TIMER_MASK);
            if ns != u64::MAX {
                assert_eq!(value, want);
            }
        }
    }

    #[test]
    fn every_other_register_reads_zero_and_takes_any_write() {
        let (pm, sci, power) = device();
        for offset in 0x10..0x80 {
            for width in [1, 2, 4] {
                write(&pm, offset, width, u64::MAX);
                let gpe_enable = (0x28..0x30).contains(&offset);
                // Firmware is told that SMIs are set up: there are none to set up.
                let want = if offset == SMI_ENABLE { 0x20 } else { 0 };
                assert!(gpe_enable || read(&pm, offset, 1) == want, "{offset:#x}");
            }
        }
        assert_eq!(read(&pm, 0x28, 8), u64::MAX);
        assert!(!sci.is_up());
        assert_eq!(power.take(), []);
    }

    #[test]
    fn a_general_event_raises_the_interrupt_while_enabled_and_until_cleared() {
        let (pm, sci, _) = device();
        pm.raise_general_event(9);
        pm.raise_general_event(64);
        assert!(!sci.is_up(), "not enabled");
        assert_eq!(read(&pm, GPE0, 8), 1 << 9);
        write(&pm, GPE0 + 8, 1, 0xFF);
        assert!(!sci.is_up(), "others are enabled");
        write(&pm, GPE0 + 9, 1, 0x02);
        assert!(sci.is_up());
        assert_eq!(read(&pm, GPE0 + 8, 2), 0x02FF);
        write(&pm, GPE0 + 1, 1, 0x01);
        assert!(sci.is_up(), "another one was cleared");
        write(&pm, GPE0 + 1, 1, 0x02);
        assert!(!sci.is_up());
        assert_eq!(read(&pm, GPE0, 8), 0);
        pm.raise_general_event(9);
        assert!(sci.is_up());
        pm.reset();
        assert!(!sci.is_up());
        assert_eq!((read(&pm, GPE0, 8), read(&pm, GPE0 + 8, 8)), (0, 0));
    }
}
