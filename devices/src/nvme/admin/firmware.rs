//! Firmware Image Download and Firmware Commit (Base 5.12, 5.13).
//!
//! Slot 1 holds what the controller was built with and is read-only.

use crate::{
    firmware::{self, IMAGE_MAX, Revision, text},
    nvme::{spec::Sqe, status::Status},
    state_file::{Fields, Section},
};

use super::identify::FIRMWARE;

/// Slots, the read-only one included.
pub const SLOTS: u8 = 3;
/// The section of the state that has the slots.
pub const SECTION: &str = "nvme/firmware";
const VERSION: u16 = 1;

/// The slots, and the image that is being downloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Revisions in slots 2 and 3.
    slots: [Option<Revision>; SLOTS as usize - 1],
    /// The active slot less one.
    active: u8,
    /// The slot that a reset activates, 1 to 3; 0: the same.
    next: u8,
    image: Vec<u8>,
    /// Pieces that were downloaded: offset and end.
    pieces: Vec<(usize, usize)>,
}

impl Firmware {
    /// The revision of the active slot.
    #[must_use]
    pub fn revision(&self) -> String {
        self.in_slot(self.active + 1).unwrap_or_else(|| FIRMWARE.to_owned())
    }

    fn in_slot(&self, slot: u8) -> Option<String> {
        match slot {
            1 => Some(FIRMWARE.to_owned()),
            2 | 3 => self.slots[usize::from(slot) - 2].as_ref().map(text),
            _ => None,
        }
    }

    /// The active slot, 1 to 3, the one that a reset activates (0: the same), and the revision in
    /// each.
    #[must_use]
    pub fn state(&self) -> (u8, u8, [Option<String>; SLOTS as usize]) {
        (self.active + 1, self.next, [1, 2, 3].map(|slot| self.in_slot(slot)))
    }

    /// Bytes that a download transfers.
    #[must_use]
    pub fn download_len(sqe: &Sqe) -> usize {
        (sqe.dword::<10>() as usize).saturating_add(1).saturating_mul(4)
    }

    /// A piece of an image.
    ///
    /// # Errors
    /// When it overlaps another piece, or lies beyond what an image can have.
    pub fn download(&mut self, sqe: &Sqe, bytes: &[u8]) -> Result<(), Status> {
        let at = (sqe.dword::<11>() as usize).saturating_mul(4);
        let end = at.saturating_add(bytes.len());
        if end > IMAGE_MAX {
            return Err(Status::INVALID_FIELD);
        }
        // A host may begin anew.
        if at == 0 {
            self.pieces.clear();
            self.image.clear();
        }
        if self.pieces.iter().any(|(from, to)| at < *to && *from < end) {
            return Err(Status::OVERLAPPING_RANGE);
        }
        if self.image.len() < end {
            self.image.resize(end, 0);
        }
        self.image[at..end].copy_from_slice(bytes);
        self.pieces.push((at, end));
        Ok(())
    }

    /// The revision of what was downloaded, if it is a whole image.
    fn downloaded(&mut self) -> Result<Revision, Status> {
        let whole = self.pieces.iter().map(|(from, to)| to - from).sum::<usize>();
        let (image, pieces) = (std::mem::take(&mut self.image), std::mem::take(&mut self.pieces));
        let invalid = Status::INVALID_FIRMWARE_IMAGE;
        if pieces.is_empty() || whole != image.len() {
            return Err(invalid);
        }
        firmware::revision(&image).ok_or(invalid)
    }

    /// Firmware Commit.
    ///
    /// # Errors
    /// When there is no such slot or it is read-only, or no good image was downloaded.
    pub fn commit(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (slot, action) = ((sqe.dword::<10>() & 7) as u8, sqe.dword::<10>() >> 3 & 7);
        match action {
            // Replace; replace and activate at a reset; replace and activate now.
            0 | 1 | 3 if slot == 1 || slot > SLOTS => Err(Status::INVALID_FIRMWARE_SLOT),
            3 if self.pieces.is_empty() && slot != 0 => self.activate_now(slot),
            0 | 1 | 3 => {
                // The controller chooses: the one that is not active.
                let slot = if slot == 0 { if self.active == 1 { 3 } else { 2 } } else { slot };
                let revision = self.downloaded()?;
                self.slots[usize::from(slot) - 2] = Some(revision);
                match action {
                    1 => self.next = slot,
                    3 => return self.activate_now(slot),
                    _ => {}
                }
                Ok(())
            }
            2 if self.in_slot(slot).is_none() => Err(Status::INVALID_FIRMWARE_SLOT),
            2 => {
                self.next = slot;
                Ok(())
            }
            // Boot partitions: there are none.
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn activate_now(&mut self, slot: u8) -> Result<(), Status> {
        self.in_slot(slot).ok_or(Status::INVALID_FIRMWARE_SLOT)?;
        (self.active, self.next) = (slot - 1, 0);
        Ok(())
    }

    /// The controller was reset.
    pub fn reset(&mut self) {
        if self.next != 0 {
            (self.active, self.next) = (self.next - 1, 0);
        }
        self.image.clear();
        self.pieces.clear();
    }

    /// What survives power loss, which is a reset, too.
    #[must_use]
    pub fn section(&self) -> Section {
        let active = if self.next == 0 { self.active } else { self.next - 1 };
        let mut bytes = vec![active];
        for slot in &self.slots {
            bytes.extend(slot.unwrap_or_default());
        }
        Section { version: VERSION, bytes }
    }

    /// What a section holds; what the controller was built with where it makes no sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Self {
        let mut all = Self::default();
        let Some(section) = section.filter(|section| section.version == VERSION) else {
            return all;
        };
        let mut fields = Fields::new(&section.bytes);
        let active = fields.u8().unwrap_or(0);
        for slot in &mut all.slots {
            *slot = fields.array().ok().filter(|revision: &Revision| revision[0] != 0);
        }
        if active < SLOTS && all.in_slot(active + 1).is_some() {
            all.active = active;
        }
        all
    }
}
