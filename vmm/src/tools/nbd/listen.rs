//! Where clients come in.
use spindle_block::nodes::nbd::Stream;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or number; empty: all.
        host: String,
        /// A number or service.
        port: String,
    },
    /// A local socket.
    Unix(PathBuf),
    /// Descriptor 3, which listens already (sd_listen_fds(3)).
    Activated,
}

impl Address {
    fn host_and_port(host: &str, port: &str) -> String {
        format!("{host}:{port}")
    }

    /// The name of the host, where it is one's.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            Self::Unix(_) | Self::Activated => None,
        }
    }

    /// The socket addresses that it stands for.
    ///
    /// # Errors
    ///
    /// QEMU's sentence.
    pub(super) fn resolve(host: &str, port: &str) -> Result<Vec<std::net::SocketAddr>, String> {
        let failed = |why: &str| {
            Err(format!("address resolution failed for {}: {why}", Self::host_and_port(host, port)))
        };
        let Ok(number) = port.parse::<u32>() else {
            return failed("Servname not supported for ai_socktype");
        };
        // The C library takes what fits 16 bits of it.
        match (host, (number & 0xffff) as u16).to_socket_addrs() {
            Ok(found) => Ok(found.collect()),
            Err(_) => failed("Name or service not known"),
        }
    }
}

/// Bytes of the longest name of a local socket, with the zero behind it (unix(7)).
const SUN_PATH: usize = 108;

/// A socket that listens. A local one is removed with it.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub fn bind(address: &Address) -> Result<Vec<Self>, String> {
        let reason = |error: io::Error| {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        };
        match address {
            Address::Activated => Ok(vec![Self::activated().map_err(|error| {
                format!("Failed to use the socket that was handed over: {}", reason(error))
            })?]),
            Address::Unix(path) => {
                if path.as_os_str().len() >= SUN_PATH {
                    return Err(format!(
                        "UNIX socket path '{}' is too long\nPath must be less than {SUN_PATH} bytes",
                        path.display()
                    ));
                }
                remove_socket(path);
                let bound = UnixListener::bind(path).map_err(|error| {
                    format!("Failed to bind socket to {}: {}", path.display(), reason(error))
                })?;
                bound.set_nonblocking(true).map_err(|e| e.to_string())?;
                Ok(vec![Self::Unix(bound, path.clone())])
            }
            Address::Tcp { host, port } => {
                let mut bound = Vec::new();
                let mut failure = None;
                for address in Address::resolve(host, port)? {
                    match TcpListener::bind(address) {
                        Ok(listener) => {
                            listener.set_nonblocking(true).map_err(|e| e.to_string())?;
                            bound.push(Self::Tcp(listener));
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                match failure {
                    Some(error) if bound.is_empty() => {
                        let nobody = error.kind() == io::ErrorKind::AddrInUse;
                        let what = if nobody { "find an available port" } else { "bind socket" };
                        Err(format!("Failed to {what}: {}", reason(error)))
                    }
                    _ => Ok(bound),
                }
            }
        }
    }

    /// The socket that was handed over.
    fn activated() -> io::Result<Self> {
        const FIRST: RawFd = 3;
        let mut family: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel fills in an integer of ours; a descriptor that is none is an error.
        let asked = unsafe {
            let place = (&raw mut family).cast();
            libc::getsockopt(FIRST, libc::SOL_SOCKET, libc::SO_DOMAIN, place, &raw mut len)
        };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the environment says that the descriptor is ours, and nothing else here uses it.
        let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
        Ok(if family == libc::AF_UNIX {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            // Its name is not ours to remove.
            Self::Unix(listener, PathBuf::new())
        } else {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Self::Tcp(listener)
        })
    }

    pub fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener, _) => listener.as_raw_fd(),
        }
    }

    /// A client, if one is there.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }),
            Self::Unix(listener, _) => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            remove_socket(path);
        }
    }
}

/// Removes a socket that nobody else made into something else.
fn remove_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}
