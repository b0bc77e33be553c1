//! The server's side of the handshake: fixed newstyle.
use super::spec::*;
use std::io::{self, Read, Write};

/// The longest option that is looked at, in bytes; what is longer is passed over.
const OPTION_MAX: u32 = 64 << 10;
/// Most options of one handshake.
const OPTIONS_MAX: u32 = 4096;
/// Zeros that old clients expect.
const ZEROES: usize = 124;

/// What is told of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Transmission flags, but for those that depend on what is agreed on.
    pub flags: u16,
    /// Its contexts; their places are their numbers.
    pub contexts: Vec<String>,
}

/// What was agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Structured replies.
    pub structured: bool,
    /// Extended headers: requests and replies with 64-bit lengths; replies are structured then.
    pub extended: bool,
    /// The contexts that block status is told in, by their places.
    pub contexts: Vec<usize>,
}

/// What is to be known of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// The server has none.
    No,
    /// The client has to begin with it.
    Needed,
    /// It is on.
    On,
}

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Requests follow.
    Agreed(Agreed),
    /// TLS follows, and behind it the handshake goes on.
    StartTls,
    /// The client wants nothing more.
    Over,
}

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    fixed: bool,
    no_zeroes: bool,
}

struct Handshake<'a, S> {
    stream: S,
    offer: &'a Offer,
    agreed: Agreed,
    client: Client,
    tls: Tls,
}

/// Greets a client.
///
/// # Errors
///
/// The connection ended, or the client does not speak the protocol.
pub fn greet<S: Read + Write>(mut stream: S) -> io::Result<Client> {
    let mut hello = Vec::new();
    hello.extend(NBD_MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    stream.write_all(&hello)?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return broken("client flags that are not known");
    }
    let has = |flag: u16| flags & u32::from(flag) != 0;
    Ok(Client { fixed: has(FLAG_FIXED_NEWSTYLE), no_zeroes: has(FLAG_NO_ZEROES) })
}

/// Agrees with a client that was greeted on what follows.
///
/// # Errors
///
/// As for [`greet`].
pub fn negotiate<S: Read + Write>(
    stream: S,
    offer: &Offer,
    client: Client,
    tls: Tls,
) -> io::Result<Outcome> {
    Handshake { stream, offer, agreed: Agreed::default(), client, tls }.run()
}

fn broken<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Bytes of an option, taken off from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len).filter(|text| text.len() <= NAME_MAX)
    }
}

impl<S: Read + Write> Handshake<'_, S> {
    fn run(mut self) -> io::Result<Outcome> {
        for _ in 0..OPTIONS_MAX {
            if self.u64()? != OPTION_MAGIC {
                return broken("an option does not begin as one");
            }
            let (option, len) = (self.u32()?, self.u32()?);
            if !self.client.fixed && option != OPT_EXPORT_NAME {
                return broken("an option other than the export's name, without fixed newstyle");
            }
            if len > DATA_MAX {
                return broken("an option is too long");
            }
            if len > OPTION_MAX {
                io::copy(&mut (&mut self.stream).take(len.into()), &mut io::sink())?;
                self.refuse(option, REP_ERR_TOO_BIG, "the option is too long")?;
                continue;
            }
            let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
            self.stream.read_exact(&mut data)?;
            match option {
                OPT_STARTTLS if !data.is_empty() => {
                    self.refuse(option, REP_ERR_INVALID, "the option has no data")?;
                }
                OPT_STARTTLS if self.tls == Tls::Needed => {
                    self.reply(option, REP_ACK, &[])?;
                    return Ok(Outcome::StartTls);
                }
                OPT_STARTTLS if self.tls == Tls::On => {
                    self.refuse(option, REP_ERR_INVALID, "TLS already enabled")?;
                }
                OPT_STARTTLS => self.refuse(option, REP_ERR_POLICY, "TLS not configured")?,
                OPT_ABORT => {
                    // Who says so may be gone already.
                    let _ = self.reply(option, REP_ACK, &[]);
                    return Ok(Outcome::Over);
                }
                OPT_EXPORT_NAME if self.tls == Tls::Needed => {
                    return broken("the export's name before TLS");
                }
                _ if self.tls == Tls::Needed => {
                    let why = format!("Option {option:#x} not permitted before TLS");
                    self.refuse(option, REP_ERR_TLS_REQD, &why)?;
                }
                OPT_EXPORT_NAME => return self.export_name(&data).map(Outcome::Agreed),
                OPT_LIST => self.list(&data)?,
                OPT_INFO | OPT_GO => {
                    if self.info(option, &data)? && option == OPT_GO {
                        return Ok(Outcome::Agreed(self.agreed));
                    }
                }
                OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS => self.mode(option, &data)?,
                OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.contexts(option, &data)?,
                _ => self.refuse(option, REP_ERR_UNSUP, "the option is not known")?,
            }
        }
        broken("the handshake does not end")
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(20 + data.len());
        out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out)
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> io::Result<()> {
        self.reply(option, kind, why.as_bytes())
    }

    fn flags(&self) -> u16 {
        let structured = if self.agreed.structured { SEND_DF } else { 0 };
        let extended = if self.agreed.extended { BLOCK_STAT_PAYLOAD } else { 0 };
        self.offer.flags | structured | extended
    }

    /// What requests and replies look like.
    fn mode(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let extended = option == OPT_EXTENDED_HEADERS;
        if !data.is_empty() {
            return self.refuse(option, REP_ERR_INVALID, "the option has no data");
        }
        if self.agreed.extended {
            let kind = if extended { REP_ERR_INVALID } else { REP_ERR_EXT_HEADER_REQD };
            return self.refuse(option, kind, "extended headers are on already");
        }
        if self.agreed.structured && !extended {
            return self.refuse(option, REP_ERR_INVALID, "structured replies are on already");
        }
        self.agreed.structured = true;
        self.agreed.extended = extended;
        self.reply(option, REP_ACK, &[])
    }

    fn export_name(&mut self, name: &[u8]) -> io::Result<Agreed> {
        if name != self.offer.name.as_bytes() {
            return broken("there is no such export");
        }
        let mut out = Vec::new();
        out.extend(self.offer.size.to_be_bytes());
        out.extend(self.flags().to_be_bytes());
        if !self.client.no_zeroes {
            out.extend([0; ZEROES]);
        }
        self.stream.write_all(&out)?;
        Ok(self.agreed.clone())
    }

    fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.refuse(OPT_LIST, REP_ERR_INVALID, "the option has no data");
        }
        let mut entry = sized(&self.offer.name);
        entry.extend(self.offer.description.iter().flat_map(|text| text.bytes()));
        self.reply(OPT_LIST, REP_SERVER, &entry)?;
        self.reply(OPT_LIST, REP_ACK, &[])
    }

    /// Whether the client may go on with the export.
    fn info(&mut self, option: u32, data: &[u8]) -> io::Result<bool> {
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.text()?;
            let count = fields.u16()?;
            let wanted: Option<Vec<u16>> = (0..count).map(|_| fields.u16()).collect();
            Some((name, wanted?)).filter(|_| fields.0.is_empty())
        })();
        let Some((name, wanted)) = parsed else {
            self.refuse(option, REP_ERR_INVALID, "the option's lengths do not fit")?;
            return Ok(false);
        };
        if name != self.offer.name.as_bytes() {
            let why = format!("export '{}' not present", String::from_utf8_lossy(name));
            self.refuse(option, REP_ERR_UNKNOWN, &why)?;
            return Ok(false);
        }
        let info = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], data].concat();
        if wanted.contains(&INFO_NAME) {
            let info = info(INFO_NAME, self.offer.name.as_bytes());
            self.reply(option, REP_INFO, &info)?;
        }
        if let Some(text) = &self.offer.description {
            let info = info(INFO_DESCRIPTION, text.as_bytes());
            self.reply(option, REP_INFO, &info)?;
        }
        let sizes = [1_u32, 4096, DATA_MAX].map(u32::to_be_bytes).concat();
        self.reply(option, REP_INFO, &info(INFO_BLOCK_SIZE, &sizes))?;
        let mut export = self.offer.size.to_be_bytes().to_vec();
        export.extend(self.flags().to_be_bytes());
        self.reply(option, REP_INFO, &info(INFO_EXPORT, &export))?;
        self.reply(option, REP_ACK, &[])?;
        Ok(true)
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let set = option == OPT_SET_META_CONTEXT;
        if set {
            self.agreed.contexts.clear();
        }
        if !self.agreed.structured {
            return self.refuse(option, REP_ERR_INVALID, "structured replies are not on");
        }
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.text()?;
            let count = fields.u32()?;
            // Each takes at least the four bytes of its length.
            let queries: Option<Vec<&[u8]>> = (0..count).map(|_| fields.text()).collect();
            Some((name, queries?)).filter(|_| fields.0.is_empty())
        })();
        let Some((name, queries)) = parsed else {
            return self.refuse(option, REP_ERR_INVALID, "the option's lengths do not fit");
        };
        if name != self.offer.name.as_bytes() {
            let why = format!("export '{}' not present", String::from_utf8_lossy(name));
            return self.refuse(option, REP_ERR_UNKNOWN, &why);
        }
        let names = self.offer.contexts.clone();
        let wanted = |name: &str| {
            let space = name.split_once(':').map_or(0, |(space, _)| space.len() + 1);
            queries.iter().any(|query| {
                *query == name.as_bytes() || (!set && *query == &name.as_bytes()[..space])
            }) || (!set && queries.is_empty())
        };
        for (number, name) in names.iter().enumerate().filter(|(_, name)| wanted(name)) {
            let number_bytes = u32::try_from(number).unwrap_or(0).to_be_bytes();
            self.reply(option, REP_META_CONTEXT, &[&number_bytes[..], name.as_bytes()].concat())?;
            if set {
                self.agreed.contexts.push(number);
            }
        }
        self.reply(option, REP_ACK, &[])
    }
}

/// A text after its length.
pub(super) fn sized(text: &str) -> Vec<u8> {
    let mut out = u32::try_from(text.len()).unwrap_or(0).to_be_bytes().to_vec();
    out.extend(text.bytes());
    out
}
