//! A connection to the other side: over TCP or a local socket, plain or encrypted.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use super::tls::{Credentials, Session};

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection. Several may use it at once, one that reads and one that writes at a time.
pub struct Stream {
    socket: Socket,
    tls: Option<Arc<Session>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = self.tls.is_some();
        f.debug_struct("Stream").field("socket", &self.socket).field("tls", &tls).finish()
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self { socket: Socket::Tcp(socket), tls: None }
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self { socket: Socket::Unix(socket), tls: None }
    }
}

impl Stream {
    /// Another handle on the same connection.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
        };
        Ok(Self { socket, tls: self.tls.clone() })
    }

    /// Encrypts from here on: shakes hands, which may take `limit`. As a client, `host` is whom the server's
    /// certificate has to name.
    ///
    /// # Errors
    /// The other side is not trusted, does not trust us, or does not speak TLS.
    pub fn secure(
        &self,
        credentials: &Credentials,
        host: Option<&str>,
        limit: Option<Duration>,
    ) -> io::Result<Self> {
        let session = credentials.shake(&mut Until::new(self, limit), host)?;
        Ok(Self { tls: Some(Arc::new(session)), ..self.try_clone()? })
    }

    /// Ends the connection for every handle; whoever waits on it hears of it.
    pub fn shut_down(&self) {
        // One that has ended already is what was wanted.
        let _ = match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Says good-bye where that is a message of its own, which may take a second, and ends the connection.
    pub fn finish(&self) {
        const GOOD_BYE: Duration = Duration::from_secs(1);
        if let Some(tls) = &self.tls
            && self.set_timeout(Some(GOOD_BYE)).is_ok()
        {
            // Who does not hear it has gone.
            let _ = tls.finish(&mut &self.socket);
        }
        self.shut_down();
    }

    /// How long a single read or write may take.
    ///
    /// # Errors
    /// The socket does not allow it.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(s) => s.set_read_timeout(timeout).and(s.set_write_timeout(timeout)),
            Socket::Unix(s) => s.set_read_timeout(timeout).and(s.set_write_timeout(timeout)),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).read(buf),
            Socket::Unix(stream) => (&mut &*stream).read(buf),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write(buf),
            Socket::Unix(stream) => (&mut &*stream).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            Some(tls) => tls.read(&mut &self.socket, buf),
            None => (&mut &self.socket).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.tls {
            Some(tls) => tls.write(&mut &self.socket, buf),
            None => (&mut &self.socket).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream until a moment.
pub struct Until<'a> {
    stream: &'a Stream,
    end: Option<Instant>,
}

impl<'a> Until<'a> {
    /// `None`: without an end.
    #[must_use]
    pub fn new(stream: &'a Stream, time: Option<Duration>) -> Self {
        Self { stream, end: time.map(|time| Instant::now() + time) }
    }

    /// How long it is until then.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn arm(&self) -> io::Result<()> {
        match self.left() {
            None => Ok(()),
            Some(left) if left.is_zero() => Err(io::ErrorKind::TimedOut.into()),
            left => self.stream.set_timeout(left),
        }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        (&mut &*self.stream).read(buf)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.arm()?;
        (&mut &*self.stream).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
