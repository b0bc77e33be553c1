//! The protocol's numbers, and the handshake as a client.
//!
//! Source: the NBD project, `doc/proto.md` (fixed newstyle negotiation, structured replies, metadata
//! contexts). The server is a stranger: what it says is bounded before it is believed.

use std::io::{self, Read, Write};

pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Commands.
pub(super) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub(super) mod flag {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 2;
    pub const ONE: u16 = 8;
}

/// What an export can do.
pub(super) mod can {
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
}

/// Chunks of a structured reply.
pub(super) mod chunk {
    pub const DONE: u16 = 1;
    pub const DATA: u16 = 1;
    pub const HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 1 << 15;
}

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

const EXPORT_NAME: u32 = 1;
const START_TLS: u32 = 5;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const SET_CONTEXT: u32 = 10;

const ACK: u32 = 1;
const INFO: u32 = 3;
const CONTEXT: u32 = 4;
const ERROR: u32 = 1 << 31;
const UNSUPPORTED: u32 = ERROR + 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCKS: u16 = 3;

/// The longest answer to an option, in bytes, and most answers.
const ANSWER_MAX: u32 = 64 << 10;
const ANSWERS_MAX: usize = 1000;
/// The longest name of an export, in bytes.
const NAME_MAX: usize = 4096;
/// The context that says what is allocated.
const ALLOCATION: &str = "base:allocation";

/// What a server said of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Export {
    pub size: u64,
    pub flags: u16,
    /// Smallest and largest request in bytes, where it said so.
    pub blocks: Option<(u32, u32)>,
    /// Replies are structured.
    pub structured: bool,
    /// The number of [`ALLOCATION`], where there is that context.
    pub context: Option<u32>,
}

fn bad<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn u16_of(from: &mut impl Read) -> io::Result<u16> {
    array(from).map(u16::from_be_bytes)
}

pub(super) fn u32_of(from: &mut impl Read) -> io::Result<u32> {
    array(from).map(u32::from_be_bytes)
}

pub(super) fn u64_of(from: &mut impl Read) -> io::Result<u64> {
    array(from).map(u64::from_be_bytes)
}

struct Talk<S>(S);

impl<S: Read + Write> Talk<S> {
    fn ask(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut out = OPTION.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.0.write_all(&out)
    }

    /// An answer to `option`: its type and data.
    fn answer(&mut self, option: u32) -> io::Result<(u32, Vec<u8>)> {
        if u64_of(&mut self.0)? != OPTION_REPLY || u32_of(&mut self.0)? != option {
            return bad("the server's answer makes no sense");
        }
        let (kind, len) = (u32_of(&mut self.0)?, u32_of(&mut self.0)?);
        if len > ANSWER_MAX {
            return bad("the server's answer is too long");
        }
        let mut data = vec![0; len as usize];
        self.0.read_exact(&mut data)?;
        Ok((kind, data))
    }

    /// Whether the server does structured replies.
    fn structured(&mut self) -> io::Result<bool> {
        self.ask(STRUCTURED, &[])?;
        Ok(self.answer(STRUCTURED)?.0 == ACK)
    }

    /// The number of the context for allocation.
    fn context(&mut self, name: &str) -> io::Result<Option<u32>> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend(1_u32.to_be_bytes());
        data.extend((ALLOCATION.len() as u32).to_be_bytes());
        data.extend(ALLOCATION.as_bytes());
        self.ask(SET_CONTEXT, &data)?;
        let mut found = None;
        for _ in 0..ANSWERS_MAX {
            match self.answer(SET_CONTEXT)? {
                (CONTEXT, data) if data.get(4..) == Some(ALLOCATION.as_bytes()) => {
                    found = data.first_chunk().map(|id| u32::from_be_bytes(*id));
                }
                (ACK, _) => return Ok(found),
                (kind, _) if kind & ERROR != 0 => return Ok(None),
                _ => {}
            }
        }
        bad("the server does not come to an end")
    }

    /// Begins transmission; `None`: the server knows no such option.
    fn go(&mut self, name: &str, export: &mut Export) -> io::Result<Option<()>> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend(1_u16.to_be_bytes());
        data.extend(INFO_BLOCKS.to_be_bytes());
        self.ask(GO, &data)?;
        let mut known = false;
        for _ in 0..ANSWERS_MAX {
            match self.answer(GO)? {
                (INFO, data) => {
                    let mut data = data.as_slice();
                    match u16_of(&mut data)? {
                        INFO_EXPORT => {
                            export.size = u64_of(&mut data)?;
                            export.flags = u16_of(&mut data)?;
                            known = true;
                        }
                        INFO_BLOCKS => {
                            let (min, _) = (u32_of(&mut data)?, u32_of(&mut data)?);
                            export.blocks = Some((min, u32_of(&mut data)?));
                        }
                        _ => {}
                    }
                }
                (ACK, _) if known => return Ok(Some(())),
                (UNSUPPORTED, _) => return Ok(None),
                (kind, text) if kind & ERROR != 0 => {
                    let what = if kind == ERROR + 6 {
                        "Requested export not available"
                    } else {
                        "Server refused the export"
                    };
                    return bad(&format!("{what}{}", reported(&text)));
                }
                _ => return bad("the server's answer makes no sense"),
            }
        }
        bad("the server does not come to an end")
    }

    /// The oldest way to begin.
    fn by_name(&mut self, name: &str, export: &mut Export) -> io::Result<()> {
        self.ask(EXPORT_NAME, name.as_bytes())?;
        export.size = u64_of(&mut self.0)?;
        export.flags = u16_of(&mut self.0)?;
        Ok(())
    }
}

/// What the server said of an error, for people: without what would steer their terminal.
fn reported(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() { text } else { format!("\nserver reported: {text}") }
}

/// Greets a server. Returns what [`begin`] has to know of it.
///
/// # Errors
/// A server that speaks another language.
pub(super) fn greet(mut stream: impl Read + Write) -> io::Result<u16> {
    if u64_of(&mut stream)? != MAGIC || u64_of(&mut stream)? != OPTION {
        return bad("Bad initial magic received: it is no NBD server of a version since 2012");
    }
    let flags = u16_of(&mut stream)?;
    if flags & 1 == 0 {
        return bad("the server has no fixed newstyle negotiation");
    }
    // Fixed newstyle; no 124 zeros.
    stream.write_all(&u32::from(flags & 3).to_be_bytes())?;
    Ok(flags)
}

/// Asks a server that was greeted to go on with TLS.
///
/// # Errors
/// It cannot.
pub fn start_tls(stream: impl Read + Write) -> io::Result<()> {
    let mut talk = Talk(stream);
    talk.ask(START_TLS, &[])?;
    match talk.answer(START_TLS)? {
        (ACK, _) => Ok(()),
        (_, text) => bad(&format!("Server does not support TLS{}", reported(&text))),
    }
}

/// Begins with the export `name` of a server that was greeted; `structured`: whoever goes on understands structured
/// replies.
///
/// # Errors
/// There is no such export, or the server makes no sense.
pub(super) fn begin(
    stream: impl Read + Write,
    flags: u16,
    name: &str,
    structured: bool,
) -> io::Result<Export> {
    if name.len() > NAME_MAX {
        return bad("export name too long");
    }
    let mut talk = Talk(stream);
    let mut export = Export { structured: structured && talk.structured()?, ..Export::default() };
    if export.structured {
        export.context = talk.context(name)?;
    }
    if talk.go(name, &mut export)?.is_none() {
        talk.by_name(name, &mut export)?;
        if flags & 2 == 0 {
            array::<124>(&mut talk.0)?;
        }
    }
    if export.size > i64::MAX as u64 {
        return bad("the export is larger than 8 EiB");
    }
    Ok(export)
}
