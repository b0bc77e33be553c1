//! DOWNLOAD MICROCODE (ACS-3, 7.7): a revision comes, at once or piece by piece, and is in force at
//! once or when it is activated.

use super::super::{
    cmd::{ABORTED, Refused},
    spec::{SECTOR, microcode},
};
use crate::{
    firmware::{self, IMAGE_MAX, Revision},
    state_file::{Fields, Section, Truncated},
};

pub(in super::super) const SECTION: &str = "ata/microcode";
const VERSION: u16 = 1;

/// What COUNT tells after a piece (ACS-3, table 42).
mod count {
    pub const MORE: u16 = 1;
    pub const APPLIED: u16 = 2;
    pub const SAVED: u16 = 3;
}

/// See the module.
#[derive(Default)]
pub(in super::super) struct Microcode {
    /// What is in force, if it was ever downloaded.
    active: Option<Revision>,
    /// What waits for being activated.
    next: Option<Revision>,
    /// How the image comes that is under way, and what has come of it.
    mode: u16,
    image: Vec<u8>,
}

impl Microcode {
    pub fn load(section: Option<&Section>) -> Self {
        let mut microcode = Self::default();
        if let Some(section) = section.filter(|section| section.version == VERSION) {
            // What is cut short is as far as it goes.
            microcode.read(&section.bytes).ok();
        }
        microcode.power_on();
        microcode
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let mut fields = Fields::new(bytes);
        for slot in [&mut self.active, &mut self.next] {
            let revision: Revision = fields.array()?;
            // What no image could have brought is none.
            let image = [&firmware::MAGIC[..], &revision].concat();
            *slot = firmware::revision(&image);
        }
        Ok(())
    }

    pub fn section(&self) -> Section {
        let bytes = [self.active, self.next].map(Option::unwrap_or_default).concat();
        Section { version: VERSION, bytes }
    }

    /// What was saved for later is in force (ACS-3, 7.7.3.4).
    pub fn power_on(&mut self) {
        self.active = self.next.take().or(self.active);
        self.image = Vec::new();
    }

    /// The revision that the drive shows, if it is not the one it was made with.
    pub fn revision(&self) -> Option<String> {
        self.active.as_ref().map(firmware::text)
    }

    /// A piece of an image, `offset` blocks behind its start. Returns COUNT, and whether a revision
    /// is there now.
    pub fn download(
        &mut self,
        mode: u16,
        offset: u16,
        bytes: &[u8],
    ) -> Result<(u16, bool), Refused> {
        if offset == 0 || mode == microcode::WHOLE {
            self.image.clear();
            self.mode = mode;
        }
        let sector = SECTOR as usize;
        let follows = self.mode == mode && self.image.len() == usize::from(offset) * sector;
        let fits = !bytes.is_empty() && self.image.len() + bytes.len() <= IMAGE_MAX;
        if !follows || !fits {
            self.image = Vec::new();
            return Err(ABORTED);
        }
        self.image.extend_from_slice(bytes);
        let said = firmware::blocks(&self.image) as usize;
        let have = self.image.len() / sector;
        let Some(revision) = firmware::revision(&self.image).filter(|_| said == 0 || have <= said)
        else {
            self.image = Vec::new();
            return Err(ABORTED);
        };
        if mode != microcode::WHOLE && have < said {
            return Ok((count::MORE, false));
        }
        self.image = Vec::new();
        if mode == microcode::PIECES_LATER {
            self.next = Some(revision);
            return Ok((count::SAVED, true));
        }
        (self.active, self.next) = (Some(revision), None);
        Ok((count::APPLIED, true))
    }

    /// Puts into force what was saved for later.
    pub fn activate(&mut self) -> Result<(), Refused> {
        let next = self.next.take().ok_or(ABORTED)?;
        self.active = Some(next);
        Ok(())
    }
}
