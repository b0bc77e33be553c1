//! The terminal as the guest's serial console: raw mode, and what Ctrl-A does.
//!
//! Both parts know nothing of the machine: [`Escape`] turns typed bytes into [`Action`]s,
//! [`RawTerminal`] holds the terminal in raw mode and gives it back on every way out.
mod escape;
mod terminal;

pub use escape::{Action, Escape, PromptCommand};
pub use terminal::{RawTerminal, restore};
