//! FADT: the fixed hardware (ACPI 6.5, 5.2.9).

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, aml_bytes};
use crate::ports;

const BITS: u8 = 8;
/// IA-PC boot architecture flags (5.2.9.3): legacy devices on the LPC bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// A keyboard controller at ports 60h and 64h.
const HAS_8042: u16 = 1 << 1;
/// Do not touch VGA memory: there is none.
const NO_VGA: u16 = 1 << 2;
/// There is no real-time clock.
const NO_RTC: u16 = 1 << 5;
/// Worst-case latencies that say "C2 and C3 are not supported" (5.2.9, P_LVL2_LAT and P_LVL3_LAT).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// CMOS index of the century byte, where PCs have it.
const CENTURY: u8 = 0x32;

fn io(address: u16, len: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, len * BITS, 0, access, u64::from(address))
}

/// The table; `facs` and `dsdt` are the addresses of these two.
///
/// SMI_CMD is 0: the machine is always in ACPI mode. The power button is a fixed one (flag clear), there
/// is no sleep button (flag set). The PM timer has 24 bits.
pub(super) fn table(config: &AcpiConfig, facs: u32, dsdt: u32) -> Vec<u8> {
    let port = |offset: u16| config.pm_base.wrapping_add(offset);
    let (event, control) = (port(ports::PM1A_EVENT_OFFSET), port(ports::PM1A_CONTROL_OFFSET));
    let (timer, gpe0) = (port(ports::PM_TIMER_OFFSET), port(ports::GPE0_OFFSET));
    let mut boot_arch = LEGACY_DEVICES | NO_VGA;
    boot_arch |= if config.i8042 { HAS_8042 } else { 0 };
    boot_arch |= if config.rtc { 0 } else { NO_RTC };

    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_64(u64::from(dsdt))
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = dsdt.into();
    fadt.sci_int = u16::from(config.sci_gsi).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm_tmr_blk = u32::from(timer).into();
    fadt.gpe0_blk = u32::from(gpe0).into();
    fadt.pm1_evt_len = ports::PM1A_EVENT_LEN;
    fadt.pm1_cnt_len = ports::PM1A_CONTROL_LEN;
    fadt.pm_tmr_len = ports::PM_TIMER_LEN;
    fadt.gpe0_blk_len = ports::GPE0_LEN;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = if config.rtc { CENTURY } else { 0 };
    fadt.iapc_boot_arch = boot_arch.into();
    fadt.reset_reg = io(ports::RESET_CONTROL, 1, AccessSize::ByteAccess);
    fadt.reset_value = ports::RESET_VALUE;
    fadt.x_pm1a_evt_blk = io(event, ports::PM1A_EVENT_LEN, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = io(control, ports::PM1A_CONTROL_LEN, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = io(timer, ports::PM_TIMER_LEN, AccessSize::DwordAccess);
    fadt.x_gpe0_blk = io(gpe0, ports::GPE0_LEN, AccessSize::ByteAccess);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    aml_bytes(&fadt.finalize())
}
