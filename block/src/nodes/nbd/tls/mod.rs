//! TLS over a socket that one thread reads from while another writes to it.

mod creds;

use std::{
    io::{self, Read, Write},
    sync::Mutex,
};

use rustls::Connection;

pub use creds::{Credentials, Endpoint};

use crate::qcow2::sync::lock;

/// Bytes that are read from the socket at once.
const READ: usize = 16 << 10;

/// A session after its handshake. Whoever reads never waits for one who writes: the session itself is held for
/// computing only.
pub(super) struct Session {
    tls: Mutex<Connection>,
    incoming: Mutex<Incoming>,
    /// What goes out is encrypted and sent by one at a time.
    outgoing: Mutex<Vec<u8>>,
}

/// What came from the socket and the session has not had yet.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    at: usize,
}

fn wrong(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

impl Credentials {
    /// Shakes hands over `socket`, which bounds the time. `host` as for [`Credentials::session`].
    pub(super) fn shake(
        &self,
        socket: &mut (impl Read + Write),
        host: Option<&str>,
    ) -> io::Result<Session> {
        let mut tls = self.session(host).map_err(io::Error::other)?;
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(socket).map_err(|error| {
                io::Error::new(error.kind(), format!("TLS handshake failed: {error}"))
            })?;
        }
        Ok(Session { tls: Mutex::new(tls), incoming: Mutex::default(), outgoing: Mutex::default() })
    }
}

impl Session {
    pub fn read(&self, socket: &mut impl ReadWrite, buf: &mut [u8]) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        loop {
            let answers = {
                let mut tls = lock(&self.tls);
                // It takes no more while there is something to be had from it.
                while tls.wants_read() && incoming.at < incoming.bytes.len() {
                    let Incoming { bytes, at } = &mut *incoming;
                    *at += tls.read_tls(&mut &bytes[*at..])?;
                    tls.process_new_packets().map_err(wrong)?;
                }
                match tls.reader().read(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                tls.wants_write()
            };
            // While somebody is sending, and be it that the peer takes nothing, it waits for the next to send.
            if answers && let Ok(mut out) = self.outgoing.try_lock() {
                self.send(socket, &mut out)?;
            }
            incoming.bytes.resize(READ, 0);
            let n = socket.read(&mut incoming.bytes)?;
            incoming.bytes.truncate(n);
            incoming.at = 0;
            if n == 0 {
                let mut tls = lock(&self.tls);
                tls.read_tls(&mut io::empty())?;
                tls.process_new_packets().map_err(wrong)?;
                // Nothing, or an error where nobody said good-bye.
                return tls.reader().read(buf);
            }
        }
    }

    pub fn write(&self, socket: &mut impl ReadWrite, buf: &[u8]) -> io::Result<usize> {
        let mut out = lock(&self.outgoing);
        let taken = lock(&self.tls).writer().write(buf)?;
        self.send(socket, &mut out)?;
        Ok(taken)
    }

    /// Says good-bye.
    pub fn finish(&self, socket: &mut impl ReadWrite) -> io::Result<()> {
        let mut out = lock(&self.outgoing);
        lock(&self.tls).send_close_notify();
        self.send(socket, &mut out)
    }

    /// Sends what the session has to say. It is not held while the socket takes it.
    fn send(&self, socket: &mut impl ReadWrite, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        {
            let mut tls = lock(&self.tls);
            while tls.wants_write() {
                tls.write_tls(out)?;
            }
        }
        socket.write_all(out)
    }
}

/// A socket.
pub(super) trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}
