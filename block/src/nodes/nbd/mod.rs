//! `nbd`: a disk that a server has, over TCP or a local socket.
//!
//! Two threads per connection, one that sends and one that receives; requests wait in their tasks, as
//! many at a time as there are. When the connection breaks, every request fails with
//! [`BlockError::Gone`]: there is no reconnecting.

mod link;
mod stream;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::SeqCst},
    time::Duration,
};

use crate::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, Lane, LocalBoxFuture, Map, Node, Op, OpKind,
    Range,
};
use link::{Answer, Link};
pub use stream::{Stream, Until};
pub use tls::{Credentials, Endpoint};
pub use wire::start_tls;
use wire::{Export, can, command, flag};

/// The largest request, in bytes: what every server takes.
const TRANSFER_MAX: u64 = 32 << 20;
/// The longest stretch that is zeroed, trimmed or asked about at once, in bytes.
const STRETCH_MAX: u64 = 1 << 30;
/// Disks are made of sectors of this many bytes.
const SECTOR: u64 = 512;
/// How long the server may take to greet.
const GREETING: Duration = Duration::from_secs(30);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// At a local socket.
    Unix(PathBuf),
    /// At a host and port.
    Tcp {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// One sentence.
    fn connect(&self) -> Result<Stream, String> {
        let failed = |place: &dyn std::fmt::Display, error: std::io::Error| {
            let text = error.to_string();
            let reason = text.split(" (os error").next().unwrap_or_default();
            format!("Failed to connect to '{place}': {reason}")
        };
        match self {
            Self::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => Ok(stream.into()),
                Err(error) => Err(failed(&path.display(), error)),
            },
            Self::Tcp { host, port } => match TcpStream::connect((host.as_str(), *port)) {
                Ok(stream) => {
                    // Requests are small and answers are waited for.
                    let _ = stream.set_nodelay(true);
                    Ok(stream.into())
                }
                Err(error) => Err(failed(&format_args!("{host}:{port}"), error)),
            },
        }
    }

    /// The host's name or address.
    fn host(&self) -> Option<&str> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { host, .. } => Some(host),
        }
    }
}

/// What a server said of a disk that somebody else goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Bytes of the disk.
    pub size: u64,
    /// What the server can do (NBD protocol, "Transmission flags").
    pub flags: u16,
}

/// Begins with the export `name` on a connection, for a client that knows only simple replies, as the
/// kernel's.
///
/// # Errors
/// A server that speaks another language, or has no such export.
pub fn negotiate(stream: &UnixStream, name: &str) -> std::io::Result<Negotiated> {
    let flags = wire::greet(stream)?;
    let export = wire::begin(stream, flags, name, false)?;
    Ok(Negotiated { size: export.size, flags: export.flags })
}

/// How the connection is encrypted.
#[derive(Clone, Debug)]
pub struct Secure {
    /// A client's credentials.
    pub credentials: Credentials,
    /// Whom the server's certificate has to name, where it is not the host of a [`Server::Tcp`].
    pub host: Option<String>,
}

/// A disk of a server.
pub struct NbdNode {
    link: Link,
    export: Export,
    info: Info,
    closed: AtomicBool,
}

impl NbdNode {
    /// Connects and asks for the export `name`. With `read_only` nothing is ever written.
    ///
    /// # Errors
    /// One sentence, without the server's name.
    pub fn connect(
        server: &Server,
        name: &str,
        read_only: bool,
        secure: Option<&Secure>,
    ) -> Result<Arc<Self>, String> {
        let reason = |error: std::io::Error| {
            error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
        };
        let mut stream = server.connect()?;
        stream.set_timeout(Some(GREETING)).map_err(reason)?;
        let flags = wire::greet(&stream).map_err(reason)?;
        if let Some(Secure { credentials, host }) = secure {
            wire::start_tls(&stream).map_err(reason)?;
            let host = host.as_deref().or(server.host());
            stream = stream.secure(credentials, host, Some(GREETING)).map_err(reason)?;
        }
        let export = wire::begin(&stream, flags, name, true).map_err(reason)?;
        stream.set_timeout(None).map_err(reason)?;
        let has = |bit: u16| export.flags & bit != 0;
        if has(can::READ_ONLY) && !read_only {
            return Err("the server exports it for reading only".to_owned());
        }
        let (min, max) = export.blocks.unwrap_or((1, 0));
        let align = if min.is_power_of_two() && min <= 65536 { min } else { 1 };
        let most = if max == 0 { TRANSFER_MAX } else { u64::from(max).clamp(4096, TRANSFER_MAX) };
        let info = Info {
            size: export.size.next_multiple_of(SECTOR),
            request_alignment: align,
            memory_alignment: 1,
            preferred_write: align.max(4096),
            max_transfer: most / u64::from(align) * u64::from(align),
            max_segments: 1024,
            discard_granularity: if has(can::TRIM) && !read_only { align.max(4096) } else { 0 },
            read_only,
        };
        let link = Link::start(stream, export.structured).map_err(reason)?;
        Ok(Arc::new(Self { link, export, info, closed: AtomicBool::new(false) }))
    }

    fn has(&self, bit: u16) -> bool {
        self.export.flags & bit != 0
    }

    /// The part of a range that the server has; behind it the last sector is zeros.
    fn inside(&self, range: Range) -> u64 {
        self.export.size.saturating_sub(range.offset).min(range.len)
    }

    async fn read(&self, io: &mut Io) -> Result<(), BlockError> {
        let have = self.inside(io.range);
        let mut at = 0;
        while at < have {
            let len = (have - at).min(self.info.max_transfer);
            let range = Range::new(io.range.offset + at, len);
            let answer = self.link.ask(command::READ, 0, range, Vec::new()).await?;
            io.buf.write_at(at, &answer.data);
            at += len;
        }
        io.buf.zero(have, io.range.len - have);
        Ok(())
    }

    async fn write(&self, io: &Io, fua: bool) -> Result<(), BlockError> {
        if self.inside(io.range) < io.range.len {
            return Err(BlockError::NoSpace);
        }
        let forced = fua && self.has(can::FUA);
        let mut at = 0;
        while at < io.range.len {
            let len = (io.range.len - at).min(self.info.max_transfer);
            let range = Range::new(io.range.offset + at, len);
            let flags = if forced { flag::FUA } else { 0 };
            let data = io.buf.view(at, len).to_vec();
            self.link.ask(command::WRITE, flags, range, data).await?;
            at += len;
        }
        if fua && !forced { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), BlockError> {
        if !self.has(can::FLUSH) {
            return Ok(());
        }
        self.link.ask(command::FLUSH, 0, Range::default(), Vec::new()).await.map(drop)
    }

    /// A command without data on a stretch of any length.
    async fn stretch(&self, kind: u16, flags: u16, range: Range) -> Result<(), BlockError> {
        let end = range.offset + self.inside(range);
        let mut at = range.offset;
        while at < end {
            let len = (end - at).min(STRETCH_MAX);
            self.link.ask(kind, flags, Range::new(at, len), Vec::new()).await?;
            at += len;
        }
        Ok(())
    }

    async fn request(&self, io: &mut Io) -> Result<(), BlockError> {
        if io.op.writes() && self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        match io.op {
            Op::Read => self.read(io).await,
            Op::Write { fua } => self.write(io, fua).await,
            Op::Flush => self.flush().await,
            Op::Discard if self.has(can::TRIM) => self.stretch(command::TRIM, 0, io.range).await,
            Op::Discard => Ok(()),
            Op::WriteZeroes { unmap, fua } if self.has(can::WRITE_ZEROES) => {
                let hole = if unmap { 0 } else { flag::NO_HOLE };
                self.stretch(command::WRITE_ZEROES, hole, io.range).await?;
                if fua { self.flush().await } else { Ok(()) }
            }
            Op::WriteZeroes { .. } => Err(BlockError::Unsupported),
        }
    }

    async fn first_extent(&self, range: Range) -> Result<Extent, BlockError> {
        let data =
            Extent { len: range.len, kind: ExtentKind::Data, host_offset: Some(range.offset) };
        let have = self.inside(range);
        let Some(context) = self.export.context.filter(|_| have > 0) else { return Ok(data) };
        let align = u64::from(self.info.request_alignment);
        let asked = Range::new(range.offset, have.min(STRETCH_MAX) / align * align);
        if asked.len == 0 {
            return Ok(data);
        }
        let answer = self.link.ask(command::BLOCK_STATUS, flag::ONE, asked, Vec::new()).await;
        let Answer { status, .. } = match answer {
            // It may know nothing of it.
            Err(BlockError::Unsupported | BlockError::Misaligned) => return Ok(data),
            other => other?,
        };
        let Some((_, len, state)) = status.into_iter().find(|(id, ..)| *id == context) else {
            return Ok(data);
        };
        let kind = match (state & 1 != 0, state & 2 != 0) {
            (hole, true) => ExtentKind::Zero { allocated: !hole },
            (_, false) => ExtentKind::Data,
        };
        let len = u64::from(len).clamp(1, range.len);
        Ok(Extent { len, kind, host_offset: Some(range.offset) })
    }
}

impl Node for NbdNode {
    fn driver(&self) -> &'static str {
        "nbd"
    }

    fn info(&self) -> Info {
        self.info
    }

    fn map(&self, _lane: Lane, _op: OpKind, _range: Range) -> Map {
        Map::Slow
    }

    fn run(
        self: Arc<Self>,
        _cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = self.request(&mut io).await;
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move { self.first_extent(range).await })
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        let same = size == self.info.size;
        Box::pin(async move { if same { Ok(()) } else { Err(BlockError::Unsupported) } })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            if self.closed.swap(true, SeqCst) {
                return Ok(());
            }
            let flushed = if self.info.read_only { Ok(()) } else { self.flush().await };
            self.link.end();
            flushed
        })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        Vec::new()
    }
}
