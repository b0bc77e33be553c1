//! Cylinders, heads and sectors (ATA-5, 6.2 and annex C): how drivers before LBA address a drive.

/// A translation between sectors and their old addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 1 to 65535.
    pub cylinders: u16,
    /// 1 to 16.
    pub heads: u8,
    /// 1 to 255; sectors count from 1.
    pub sectors: u8,
}

impl Geometry {
    /// The default translation of a drive of so many sectors: 16 heads, 63 sectors, at most 16383
    /// cylinders (ATA-5, C.2).
    #[must_use]
    pub fn of_size(sectors: u64) -> Self {
        let cylinders = (sectors / (16 * 63)).clamp(1, 16383) as u16;
        Self { cylinders, heads: 16, sectors: 63 }
    }

    /// The translation that INITIALIZE DEVICE PARAMETERS asks for (ATA-5, 8.16), of a drive of so
    /// many sectors. `None`: there is none.
    #[must_use]
    pub fn initialized(sectors: u64, heads: u8, per_track: u8) -> Option<Self> {
        if heads == 0 || heads > 16 || per_track == 0 {
            return None;
        }
        let cylinders = sectors / (u64::from(heads) * u64::from(per_track));
        let cylinders = u16::try_from(cylinders).unwrap_or(u16::MAX).max(1);
        Some(Self { cylinders, heads, sectors: per_track })
    }

    /// Sectors that can be addressed.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        u32::from(self.cylinders) * u32::from(self.heads) * u32::from(self.sectors)
    }

    /// The LBA of an address, if there is such a sector.
    #[must_use]
    pub fn lba(&self, cylinder: u16, head: u8, sector: u8) -> Option<u64> {
        if cylinder >= self.cylinders || head >= self.heads {
            return None;
        }
        let sector = sector.checked_sub(1).filter(|sector| *sector < self.sectors)?;
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        Some(track * u64::from(self.sectors) + u64::from(sector))
    }

    /// The address of a sector: cylinder, head, sector; `None` where it has none.
    #[must_use]
    pub fn address(&self, lba: u64) -> Option<(u16, u8, u8)> {
        let per_track = u64::from(self.sectors);
        let track = lba / per_track;
        let cylinder = track / u64::from(self.heads);
        if cylinder >= u64::from(self.cylinders) {
            return None;
        }
        let head = (track % u64::from(self.heads)) as u8;
        Some((cylinder as u16, head, (lba % per_track) as u8 + 1))
    }
}
