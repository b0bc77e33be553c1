//! The monitor: QMP, QEMU's Machine Protocol, over Unix sockets.
//!
//! [`Server`] sits on the main loop and owns the sockets; a `session` speaks the protocol with
//! one peer; a [`Handler`] (the machine) gets [`Command`]s, each with a [`Reply`] that it spends
//! at once or later, from any thread. Events go out through an [`EventSender`].
//!
//! The protocol is that of QEMU (docs/interop/qmp-spec.rst, qapi/*.json of QEMU 7.2 to 10.2),
//! the peer is hostile: input is bounded in size and depth, a peer that does not read is cut off,
//! and no command is taken while an earlier one of the same peer is unanswered.
mod command;
mod error;
mod event;
mod rehearsal;
mod reply;
pub mod schema;
mod server;
mod session;
pub mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use command::{BlockTarget, Command, MediumChange};
pub use error::{ErrorClass, QmpError};
pub use event::{Event, EventSender, IoAction, IoOperation};
pub use rehearsal::rehearse;
pub use reply::{Handler, Reply, Shared};
pub use server::Server;
