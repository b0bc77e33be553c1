//! Unix sockets of the monitor and the serial console.
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// What keeps a socket from being used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something listens there already.
    #[error("socket '{}': another process listens on it; choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is something else.
    #[error("socket '{}': it exists and is no socket; choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refuses.
    #[error("socket '{}': cannot {what}", .path.display())]
    Os {
        /// The path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket that only its owner can connect to; its path goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the path, to remove only what is ours.
    identity: Option<(u64, u64)>,
}

fn os(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Os { path, what, source }
}

impl Listener {
    /// Listens on `path`, mode 0600. A socket left there by a process that has ended is replaced.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    pub fn new(path: &Path) -> Result<Self, SocketError> {
        remove_stale(path)?;
        let socket = bind(path).map_err(os(path, "listen"))?;
        let identity = std::fs::symlink_metadata(path).ok().map(|m| identity(&m));
        Ok(Self { socket, path: path.to_owned(), identity })
    }

    /// The next connection, non-blocking; `None` when there is none now.
    ///
    /// # Errors
    ///
    /// Whatever accept4(2) returns, such as too many open files.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The peer left between its connect and our accept.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).ok().map(|m| identity(&m));
        if now.is_some() && now == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects to the socket at `path`, non-blocking.
///
/// # Errors
///
/// [`SocketError::Os`] when nobody listens there.
pub fn connect(path: &Path) -> Result<UnixStream, SocketError> {
    let stream = UnixStream::connect(path).map_err(os(path, "connect"))?;
    stream.set_nonblocking(true).map_err(os(path, "connect"))?;
    Ok(stream)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(os(path, "replace the old socket"))
        }
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

/// A listening socket whose inode has mode 0600 from its first moment: on Linux, bind(2) gives it
/// the mode of the socket's own inode, less the umask.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let bytes = path.as_os_str().as_bytes();
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, flags, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no memory is passed.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) })?;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_un, valid for `len` bytes during the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(fd.as_raw_fd(), 4) })?;
    Ok(UnixListener::from(fd))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_owner_may_connect_and_the_path_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let _peer = connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        assert!(matches!(Listener::new(&path), Err(SocketError::InUse(_))));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = Listener::new(&path).unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let error = Listener::new(&file).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
        assert!(connect(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_path_taken_over_by_another_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = Listener::new(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
