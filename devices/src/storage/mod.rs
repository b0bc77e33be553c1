//! What all storage controllers have in common: see [`crate::policy`].

pub use crate::policy::{
    BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation, is_drivers_fault,
};
