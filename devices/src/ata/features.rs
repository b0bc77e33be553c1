//! SET FEATURES (ACS-3, 7.45).

use super::{
    Settings, TransferMode, Transport,
    cmd::{ABORTED, Refused},
    spec::{feature, sata_feature},
};

/// Changes the settings as a SET FEATURES command asks.
///
/// # Errors
/// When the drive does not have the feature, or not with this value.
pub(super) fn set(
    settings: &mut Settings,
    (transport, packet): (Transport, bool),
    feature: u8,
    count: u8,
) -> Result<(), Refused> {
    match feature {
        feature::TRANSFER_MODE => return transfer_mode(settings, transport, count),
        feature::KEEP_SETTINGS => settings.revert = false,
        feature::REVERT_SETTINGS => settings.revert = true,
        feature::ENABLE_SATA | feature::DISABLE_SATA if transport == Transport::Serial => {
            if count != sata_feature::SETTINGS_PRESERVATION {
                return Err(ABORTED);
            }
            let bit = 1 << count;
            if feature == feature::ENABLE_SATA {
                settings.sata |= bit;
            } else {
                settings.sata &= !bit;
            }
        }
        _ if packet => return Err(ABORTED),
        feature::ENABLE_WRITE_CACHE => settings.write_cache = true,
        feature::DISABLE_WRITE_CACHE => settings.write_cache = false,
        feature::ENABLE_LOOK_AHEAD => settings.look_ahead = true,
        feature::DISABLE_LOOK_AHEAD => settings.look_ahead = false,
        _ => return Err(ABORTED),
    }
    Ok(())
}

/// Transfer mode: bits 7:3 are the kind, bits 2:0 the mode (ACS-3, table 110).
fn transfer_mode(settings: &mut Settings, transport: Transport, count: u8) -> Result<(), Refused> {
    let udma_max = match transport {
        Transport::Serial => Some(6),
        Transport::Parallel { udma } => udma,
    };
    let mode = count & 0x07;
    match count >> 3 {
        // The default, with or without IORDY.
        0 if mode <= 1 => {}
        1 if mode <= 4 => {}
        4 if mode <= 2 => settings.dma = Some(TransferMode::Multiword(mode)),
        8 if udma_max.is_some_and(|max| mode <= max) => {
            settings.dma = Some(TransferMode::Ultra(mode));
        }
        _ => return Err(ABORTED),
    }
    Ok(())
}
