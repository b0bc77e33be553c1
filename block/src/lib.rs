//! The block layer: image formats, filters and files as one graph of [`Node`]s, and the rings that
//! carry its requests to the kernel.
//!
//! Three ideas hold it together:
//!
//! * **Translate first.** A queue asks the graph [`Node::map`], synchronously and without I/O. The
//!   usual answer is a *leaf*: a file, an offset and a [`Pin`] that keeps the mapping true. That
//!   becomes one submission-queue entry into the caller's memory.
//! * **Run a task only when you must.** What needs I/O of its own (a metadata miss, an allocation,
//!   a filter) is [`Node::run`], an async function on the iothread's local executor.
//! * **One ring per iothread**, behind one interface with three engines: io_uring, a thread pool,
//!   and a simulator that loses, tears and reorders what it is allowed to.
//!
//! This crate knows nothing of guests, PCI or KVM: memory arrives as [`IoBuf`], doorbells as file
//! descriptors, and whoever wants requests served implements [`iothread::Queue`].

mod bochs;
pub mod bounce;
mod cloop;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod deflate;
mod dmg;
pub mod error;
pub mod file;
pub mod formats;
pub mod graph;
pub mod io;
pub mod iobuf;
pub mod iothread;
pub mod lock;
pub mod luks;
mod mapped;
pub mod node;
pub mod nodes;
mod parallels;
pub mod pin;
mod qcow;
pub mod qcow2;
mod qed;
pub mod ring;
pub mod root;
pub mod submit;
mod vdi;
mod vhdx;
pub mod vmdk;
mod vpc;

pub use error::BlockError;
pub use io::{Io, Op, OpKind, Range};
pub use iobuf::IoBuf;
pub use iothread::{Cx, Iothread};
pub use node::{Extent, ExtentKind, Info, LocalBoxFuture, Map, Node};
pub use pin::{Lane, Pin, PinDomain};
pub use root::{Root, RootHandle};
