//! The host's end of the guest's serial port: the terminal, a file, a socket, or nothing.

mod input;
mod output;
#[cfg(test)]
mod tests;

use std::{fs::File, io, os::fd::AsFd, path::PathBuf, sync::Arc};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    console::{Escape, RawTerminal},
    monitor::socket::{Listener, SocketError, connect},
    sandbox::Sandbox,
    spec::SerialSpec,
};
pub use input::{Keys, SerialInput};
pub use output::{Outlet, Tap};

/// The serial port's host end could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The file of `file:PATH`.
    #[error("serial console: cannot open '{}'", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket of `unix:PATH`.
    #[error("serial console")]
    Socket(#[from] SocketError),
    /// Anything else.
    #[error("serial console: cannot {what}")]
    Other {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn other(what: &'static str) -> impl FnOnce(io::Error) -> SerialError {
    move |source| SerialError::Other { what, source }
}

/// Where input comes from.
pub(crate) enum Source {
    /// Nowhere.
    Nothing,
    /// A terminal: its keys go through the escapes. It is in raw mode while this lives.
    Terminal { file: File, escape: Escape, _raw: RawTerminal },
    /// Standard input that is no terminal.
    Stream(File),
    /// A socket that one peer at a time can connect to.
    Listener(Listener),
    /// A connected socket.
    Socket(std::os::unix::net::UnixStream),
}

/// An opened host end, before it is joined with a port.
pub struct HostEnd {
    outlet: Outlet,
    source: Source,
    room: Arc<EventFd>,
}

impl HostEnd {
    /// Opens what `spec` says. A terminal is in raw mode from now on, until the
    /// [`SerialInput`] made of this is dropped.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn open(spec: &SerialSpec, sandbox: &Sandbox) -> Result<Self, SerialError> {
        let room = EventFd::new(EFD_NONBLOCK).map_err(other("make an eventfd"))?;
        let outlet = Outlet::spawn(sandbox).map_err(other("start its thread"))?;
        let source = match spec {
            SerialSpec::Null => Source::Nothing,
            SerialSpec::Stdio => {
                let output = io::stdout().as_fd().try_clone_to_owned();
                outlet.connect(Box::new(File::from(output.map_err(other("use standard output"))?)));
                stdin()?
            }
            SerialSpec::File(path) => {
                let file = File::create(path)
                    .map_err(|source| SerialError::File { path: path.clone(), source })?;
                outlet.connect(Box::new(file));
                Source::Nothing
            }
            SerialSpec::Unix(unix) if unix.server => Source::Listener(Listener::new(&unix.path)?),
            SerialSpec::Unix(unix) => {
                let stream = connect(&unix.path)?;
                outlet.connect_socket(&stream).map_err(other("use the socket"))?;
                Source::Socket(stream)
            }
        };
        Ok(Self { outlet, source, room: Arc::new(room) })
    }

    /// Where the port puts its output.
    #[must_use]
    pub fn tap(&self) -> Tap {
        self.outlet.tap()
    }

    /// What the port signals when it has room for input again.
    #[must_use]
    pub fn room(&self) -> Arc<EventFd> {
        Arc::clone(&self.room)
    }
}

fn stdin() -> Result<Source, SerialError> {
    // Standard input may be closed; then there is none.
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else { return Ok(Source::Nothing) };
    let file = File::from(input);
    match RawTerminal::new(&file).map_err(other("put the terminal into raw mode"))? {
        Some(raw) => Ok(Source::Terminal { file, escape: Escape::default(), _raw: raw }),
        None => Ok(Source::Stream(file)),
    }
}
