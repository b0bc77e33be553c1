//! What every storage controller has in common: what it does when a request of its guest fails, and
//! whom it tells.

mod policy;

pub use policy::{
    BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation, is_drivers_fault,
};
