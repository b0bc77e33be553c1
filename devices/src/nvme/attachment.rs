//! Which controllers have a namespace, as its host has left it: the form in its state. It is read with
//! suspicion.

use std::collections::BTreeSet;

use crate::state_file::{Fields, Section, Truncated};

/// The section of the state, and the version of its layout: shared (1 byte), number of controllers (2),
/// their IDs (2 each).
pub const SECTION: &str = "nvme/attachment";
const VERSION: u16 = 1;

/// What a host has said about a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Several controllers may have it.
    pub shared: bool,
    /// The controllers that have it, by ID.
    pub controllers: BTreeSet<u16>,
}

impl Attachment {
    /// What was saved, if anything was and it makes sense.
    #[must_use]
    pub fn load(section: Option<&Section>) -> Option<Self> {
        let section = section.filter(|section| section.version == VERSION)?;
        Self::decode(&section.bytes).ok().flatten()
    }

    fn decode(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut fields = Fields::new(bytes);
        let shared = fields.u8()?;
        let count = fields.u16()?;
        let controllers = (0..count).map(|_| fields.u16()).collect::<Result<BTreeSet<_>, _>>()?;
        let valid = shared <= 1 && controllers.len() == usize::from(count) && fields.is_empty();
        Ok(valid.then_some(Self { shared: shared == 1, controllers }))
    }

    /// The form in which it is saved.
    #[must_use]
    pub fn section(&self) -> Section {
        let mut bytes = vec![self.shared.into()];
        bytes.extend((self.controllers.len() as u16).to_le_bytes());
        self.controllers.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        Section { version: VERSION, bytes }
    }
}
