//! GET CONFIGURATION (MMC-6, 6.5 and 5.3).

use super::Disc;

/// Profiles (MMC-6, table 88).
const CD_ROM: u16 = 0x0008;
const DVD_ROM: u16 = 0x0010;

/// Which features RT asks for.
mod request {
    pub const CURRENT: u8 = 1;
    pub const ONE: u8 = 2;
}

/// A feature: code, version, persistent, current, data.
struct Feature {
    code: u16,
    version: u8,
    persistent: bool,
    current: bool,
    data: Vec<u8>,
}

fn features(disc: Disc) -> Vec<Feature> {
    let (cd, dvd) = (matches!(disc, Disc::Cd { .. }), matches!(disc, Disc::Dvd { .. }));
    let always = |code, version, data: &[u8]| Feature {
        code,
        version,
        persistent: true,
        current: true,
        data: data.to_vec(),
    };
    let with = |code, version, current, data: &[u8]| Feature {
        code,
        version,
        persistent: false,
        current,
        data: data.to_vec(),
    };
    let [dvd_high, dvd_low] = DVD_ROM.to_be_bytes();
    let [cd_high, cd_low] = CD_ROM.to_be_bytes();
    let profiles = [dvd_high, dvd_low, u8::from(dvd), 0, cd_high, cd_low, u8::from(cd), 0];
    vec![
        always(0x0000, 0, &profiles),
        // Core: the SCSI family; DBE.
        always(0x0001, 2, &[0, 0, 0, 1, 1, 0, 0, 0]),
        // Morphing: polled events only.
        always(0x0002, 1, &[2, 0, 0, 0]),
        // Removable medium: a tray, that ejects and can be locked.
        always(0x0003, 0, &[0x29, 0, 0, 0]),
        // Random readable: blocks of 2048 bytes, one at a time.
        with(0x0010, 0, cd || dvd, &[0, 0, 8, 0, 0, 1, 0, 0]),
        // CD read: neither C2 flags nor CD-TEXT.
        with(0x001e, 2, cd, &[0, 0, 0, 0]),
        with(0x001f, 0, dvd, &[]),
        // Power management, timeouts.
        always(0x0100, 0, &[]),
        always(0x0105, 0, &[]),
    ]
}

/// The answer: features from number `first` on.
pub(super) fn configuration(disc: Disc, kind: u8, first: u16) -> Vec<u8> {
    let profile = match disc {
        Disc::None => 0,
        Disc::Cd { .. } => CD_ROM,
        Disc::Dvd { .. } => DVD_ROM,
    };
    let mut body = vec![0, 0];
    body.extend(profile.to_be_bytes());
    for feature in features(disc) {
        let wanted = match kind {
            request::ONE => feature.code == first,
            request::CURRENT => feature.code >= first && feature.current,
            _ => feature.code >= first,
        };
        if !wanted {
            continue;
        }
        body.extend(feature.code.to_be_bytes());
        let flags = u8::from(feature.persistent) << 1 | u8::from(feature.current);
        body.extend([feature.version << 2 | flags, feature.data.len() as u8]);
        body.extend(feature.data);
    }
    let mut data = (body.len() as u32).to_be_bytes().to_vec();
    data.extend(body);
    data
}
