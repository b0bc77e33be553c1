//! `--list`: what another server offers.
use super::listen::Address;
use super::negotiate::sized;
use super::spec::*;
use spindle_block::nodes::nbd::{Secure, Stream, Until, start_tls};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a server may take for all of it.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is taken, in bytes.
const ANSWER_MAX: u32 = 64 << 10;
/// Most exports that are shown.
const EXPORTS_MAX: usize = 1024;

/// An export as a server describes it.
#[derive(Default)]
struct Found {
    name: String,
    description: Option<String>,
    size: u64,
    flags: u16,
    blocks: Option<[u32; 3]>,
    /// Requests may have 64-bit lengths.
    wide: bool,
    contexts: Vec<String>,
}

/// Asks the server at `address`, with TLS where `secure` says how. Returns what is to be printed.
///
/// # Errors
///
/// One sentence.
pub fn list(address: &Address, secure: Option<&Secure>) -> Result<String, String> {
    let mut stream = connect(address)?;
    let mut ask = || -> io::Result<Vec<Found>> {
        Client(Until::new(&stream, Some(LIMIT))).greet()?;
        if let Some(Secure { credentials, host }) = secure {
            start_tls(Until::new(&stream, Some(LIMIT)))?;
            let host = host.as_deref().or(address.host());
            stream = stream.secure(credentials, host, Some(LIMIT))?;
        }
        let found = Client(Until::new(&stream, Some(LIMIT))).ask()?;
        stream.finish();
        Ok(found)
    };
    let found = ask().map_err(|error| format!("Failed to list exports: {error}"))?;
    Ok(text(&found))
}

fn connect(address: &Address) -> Result<Stream, String> {
    let reason = |error: io::Error| {
        let text = error.to_string();
        text.split(" (os error").next().unwrap_or_default().to_owned()
    };
    match address {
        Address::Unix(path) => UnixStream::connect(path).map(Stream::from).map_err(|error| {
            format!("Failed to connect to '{}': {}", path.display(), reason(error))
        }),
        Address::Activated => Err("There is no server to be asked".to_owned()),
        Address::Tcp { host, port } => {
            let addresses = Address::resolve(host, port)?;
            let connected = TcpStream::connect(addresses.as_slice());
            connected
                .map(Stream::from)
                .map_err(|error| format!("Failed to connect to '{host}:{port}': {}", reason(error)))
        }
    }
}

struct Client<S>(S);

fn broken<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

impl<S: Read + Write> Client<S> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn send(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend(data);
        self.0.write_all(&out)
    }

    fn answer(&mut self, option: u32) -> io::Result<(u32, Vec<u8>)> {
        if u64::from_be_bytes(self.bytes()?) != OPTION_REPLY_MAGIC {
            return broken("an answer does not begin as one");
        }
        if u32::from_be_bytes(self.bytes()?) != option {
            return broken("an answer to another option");
        }
        let kind = u32::from_be_bytes(self.bytes()?);
        let len = u32::from_be_bytes(self.bytes()?);
        if len > ANSWER_MAX {
            return broken("an answer is too long");
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        self.0.read_exact(&mut data)?;
        Ok((kind, data))
    }

    fn greet(&mut self) -> io::Result<()> {
        if u64::from_be_bytes(self.bytes()?) != NBD_MAGIC
            || u64::from_be_bytes(self.bytes()?) != OPTION_MAGIC
        {
            return broken("it is no server of the new style");
        }
        let flags = u16::from_be_bytes(self.bytes()?);
        if flags & FLAG_FIXED_NEWSTYLE == 0 {
            return broken("the server cannot list");
        }
        let ours = flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        self.0.write_all(&u32::from(ours).to_be_bytes())
    }

    fn ask(&mut self) -> io::Result<Vec<Found>> {
        let wide = self.switch(OPT_EXTENDED_HEADERS)?;
        let structured = wide || self.switch(OPT_STRUCTURED_REPLY)?;
        self.send(OPT_LIST, &[])?;
        let mut found = Vec::new();
        loop {
            let (kind, data) = self.answer(OPT_LIST)?;
            match kind {
                REP_ACK => break,
                REP_SERVER if found.len() < EXPORTS_MAX => {
                    let name = data.first_chunk().map(|len| u32::from_be_bytes(*len) as usize);
                    let Some(name) = name.and_then(|len| data.get(4..4 + len)) else {
                        return broken("the lengths of an answer do not fit");
                    };
                    let name = String::from_utf8_lossy(name).into_owned();
                    found.push(Found { name, wide, ..Found::default() });
                }
                REP_SERVER => return broken("the list does not end"),
                _ => return broken("the server does not list its exports"),
            }
        }
        for export in &mut found {
            self.describe(export, structured)?;
        }
        self.send(OPT_ABORT, &[])?;
        Ok(found)
    }

    /// Whether the server does what an option without data asks for.
    fn switch(&mut self, option: u32) -> io::Result<bool> {
        self.send(option, &[])?;
        Ok(self.answer(option)?.0 == REP_ACK)
    }

    fn describe(&mut self, export: &mut Found, structured: bool) -> io::Result<()> {
        let mut data = sized(&export.name);
        data.extend(1_u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.send(OPT_INFO, &data)?;
        loop {
            let (kind, data) = self.answer(OPT_INFO)?;
            match (kind, data.first_chunk().map(|kind| u16::from_be_bytes(*kind))) {
                (REP_ACK, _) => break,
                (REP_INFO, Some(INFO_EXPORT)) if data.len() == 12 => {
                    export.size = data[2..10].iter().fold(0, |n, b| n << 8 | u64::from(*b));
                    export.flags = u16::from_be_bytes([data[10], data[11]]);
                }
                (REP_INFO, Some(INFO_DESCRIPTION)) => {
                    export.description = Some(String::from_utf8_lossy(&data[2..]).into_owned());
                }
                (REP_INFO, Some(INFO_BLOCK_SIZE)) if data.len() == 14 => {
                    let size =
                        |at: usize| data[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
                    export.blocks = Some([size(2), size(6), size(10)]);
                }
                (REP_INFO, _) => {}
                _ => return Ok(()),
            }
        }
        if !structured {
            return Ok(());
        }
        let mut data = sized(&export.name);
        data.extend(0_u32.to_be_bytes());
        self.send(OPT_LIST_META_CONTEXT, &data)?;
        loop {
            let (kind, data) = self.answer(OPT_LIST_META_CONTEXT)?;
            match kind {
                REP_META_CONTEXT if data.len() >= 4 && export.contexts.len() < EXPORTS_MAX => {
                    export.contexts.push(String::from_utf8_lossy(&data[4..]).into_owned());
                }
                _ => return Ok(()),
            }
        }
    }
}

fn text(found: &[Found]) -> String {
    let mut out = format!("exports available: {}\n", found.len());
    for export in found {
        let _ = writeln!(out, " export: '{}'", export.name);
        if let Some(text) = export.description.as_ref().filter(|text| !text.is_empty()) {
            let _ = writeln!(out, "  description: {text}");
        }
        if export.flags & HAS_FLAGS != 0 {
            let _ = write!(out, "  size:  {}\n  flags: {:#x} (", export.size, export.flags);
            for (_, name) in TRANSMISSION_FLAGS.iter().filter(|(bit, _)| export.flags & bit != 0) {
                let _ = write!(out, " {name}");
            }
            out.push_str(" )\n");
        }
        if let Some([least, best, most]) = export.blocks {
            let _ = writeln!(out, "  min block: {least}\n  opt block: {best}\n  max block: {most}");
        }
        let _ = writeln!(out, "  transaction size: {}-bit", if export.wide { 64 } else { 32 });
        if !export.contexts.is_empty() {
            let _ = writeln!(out, "  available meta contexts: {}", export.contexts.len());
            for name in &export.contexts {
                let _ = writeln!(out, "   {name}");
            }
        }
    }
    out
}
