//! Mode pages that outlive a power loss: their form in the state file. It is read with suspicion.

use std::{
    io,
    sync::{Arc, PoisonError},
};

use super::{
    mode::Values,
    unit::{LogicalUnit, UnitConfig, UnitKind},
};
use crate::state_file::{Fields, Section};

/// The section of the state file, and the version of its layout: one byte of [`bit`]s.
const SECTION: &str = "scsi-mode";
const SECTION_VERSION: u16 = 1;

mod bit {
    pub const WRITE_CACHE: u8 = 1 << 0;
    pub const DESCRIPTOR_SENSE: u8 = 1 << 1;
    pub const WRITE_PROTECT: u8 = 1 << 2;
    pub const ALL: u8 = WRITE_CACHE | DESCRIPTOR_SENSE | WRITE_PROTECT;
}

/// Whether a unit can save mode pages.
pub(super) fn can_save(config: &UnitConfig) -> bool {
    config.kind == UnitKind::Disk && config.state.is_some()
}

/// What was saved, if anything was.
pub(super) fn load(config: &UnitConfig) -> Option<Values> {
    let state = config.state.as_ref().filter(|_| can_save(config))?;
    let section = state.get(SECTION).filter(|section| section.version == SECTION_VERSION)?;
    let mut fields = Fields::new(&section.bytes);
    let bits = fields.u8().ok().filter(|bits| bits & !bit::ALL == 0)?;
    fields.is_empty().then_some(Values {
        write_cache: bits & bit::WRITE_CACHE != 0,
        descriptor_sense: bits & bit::DESCRIPTOR_SENSE != 0,
        write_protect: bits & bit::WRITE_PROTECT != 0,
    })
}

fn encode(values: Values) -> Section {
    let if_set = |on: bool, bit: u8| if on { bit } else { 0 };
    let bits = if_set(values.write_cache, bit::WRITE_CACHE)
        | if_set(values.descriptor_sense, bit::DESCRIPTOR_SENSE)
        | if_set(values.write_protect, bit::WRITE_PROTECT);
    Section { version: SECTION_VERSION, bytes: vec![bits] }
}

impl LogicalUnit {
    /// Stores the saved values as they are now. `saved` is called once they are durable, or could
    /// not be made so.
    pub(super) fn store_mode(&self, saved: impl FnOnce(io::Result<()>) + Send + 'static) {
        let _order = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let section = encode(self.lock().mode.saved());
        match self.config.state.as_ref().map(Arc::clone) {
            Some(state) => state.put(SECTION, section, Box::new(saved)),
            None => saved(Ok(())),
        }
    }
}
