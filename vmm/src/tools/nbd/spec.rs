//! The NBD protocol (doc/proto.md of the NetworkBlockDevice project, version of 2024): constants, and
//! what requests look like.

/// "Newstyle negotiation": the first bytes of a server.
pub const NBD_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// "Newstyle negotiation": the second.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// "Option haggling".
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// "Request message".
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// "Simple reply message".
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// "Structured reply chunk message".
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// "Extended request message".
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// "Extended reply chunk message".
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: no 124 zeros behind the answer to `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// "Option types".
pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_LIST_META_CONTEXT: u32 = 9;
pub const OPT_SET_META_CONTEXT: u32 = 10;
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// "Option reply types".
pub const REP_ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
pub const REP_ERR_POLICY: u32 = 1 << 31 | 2;
pub const REP_ERR_INVALID: u32 = 1 << 31 | 3;
pub const REP_ERR_TLS_REQD: u32 = 1 << 31 | 5;
pub const REP_ERR_UNKNOWN: u32 = 1 << 31 | 6;
pub const REP_ERR_TOO_BIG: u32 = 1 << 31 | 9;
pub const REP_ERR_EXT_HEADER_REQD: u32 = 1 << 31 | 10;

/// `NBD_INFO_EXPORT`.
pub const INFO_EXPORT: u16 = 0;
/// `NBD_INFO_NAME`.
pub const INFO_NAME: u16 = 1;
/// `NBD_INFO_DESCRIPTION`.
pub const INFO_DESCRIPTION: u16 = 2;
/// `NBD_INFO_BLOCK_SIZE`.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// "Transmission flags", with the names that `qemu-nbd --list` prints.
pub const TRANSMISSION_FLAGS: [(u16, &str); 12] = [
    (READ_ONLY, "readonly"),
    (SEND_FLUSH, "flush"),
    (SEND_FUA, "fua"),
    (1 << 4, "rotational"),
    (SEND_TRIM, "trim"),
    (SEND_WRITE_ZEROES, "zeroes"),
    (SEND_DF, "df"),
    (CAN_MULTI_CONN, "multi"),
    (1 << 9, "resize"),
    (SEND_CACHE, "cache"),
    (SEND_FAST_ZERO, "fast-zero"),
    (BLOCK_STAT_PAYLOAD, "block-status-payload"),
];
pub const HAS_FLAGS: u16 = 1;
pub const READ_ONLY: u16 = 1 << 1;
pub const SEND_FLUSH: u16 = 1 << 2;
pub const SEND_FUA: u16 = 1 << 3;
pub const SEND_TRIM: u16 = 1 << 5;
pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub const SEND_DF: u16 = 1 << 7;
pub const CAN_MULTI_CONN: u16 = 1 << 8;
pub const SEND_CACHE: u16 = 1 << 10;
pub const SEND_FAST_ZERO: u16 = 1 << 11;
pub const BLOCK_STAT_PAYLOAD: u16 = 1 << 12;

/// Request flag: force unit access.
pub const CMD_FLAG_FUA: u16 = 1;
/// Request flag: keep the space of what is zeroed.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Request flag: one chunk of data.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Request flag: one extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Request flag: fail instead of writing zeros.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Request flag: the length is that of the data behind an extended request.
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Reply flag: the last chunk.
pub const REPLY_FLAG_DONE: u16 = 1;
/// Chunk: nothing.
pub const REPLY_NONE: u16 = 0;
/// Chunk: an offset and data.
pub const REPLY_OFFSET_DATA: u16 = 1;
/// Chunk: an offset and a length of zeros.
pub const REPLY_OFFSET_HOLE: u16 = 2;
/// Chunk: a context and its extents.
pub const REPLY_BLOCK_STATUS: u16 = 5;
/// Chunk: a context and its extents, with wide lengths.
pub const REPLY_BLOCK_STATUS_EXT: u16 = 6;
/// Chunk: an error.
pub const REPLY_ERROR: u16 = 1 << 15 | 1;

/// `base:allocation`: no space is set aside.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: it reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;

/// "Error values".
pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const ENOMEM: u32 = 12;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ENOTSUP: u32 = 95;
pub const ESHUTDOWN: u32 = 108;

/// The longest data of a request, in bytes: what clients may rely on where nothing is said.
pub const DATA_MAX: u32 = 32 << 20;
/// The longest name of an export, in bytes.
pub const NAME_MAX: usize = 4096;
/// Bytes of a request without its data.
pub const REQUEST_LEN: usize = 28;
/// Bytes of an extended request without its data.
pub const EXTENDED_REQUEST_LEN: usize = 32;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send data.
    Read,
    /// Take data.
    Write,
    /// Say goodbye.
    Disconnect,
    /// Make everything durable.
    Flush,
    /// Nobody needs the range.
    Trim,
    /// The range will be read.
    Cache,
    /// Zeros, without data.
    WriteZeroes,
    /// What is there?
    BlockStatus,
}

impl Command {
    fn of(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Flags.
    pub flags: u16,
    /// `None`: one that is not known.
    pub command: Option<Command>,
    /// What the reply is marked with.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Request {
    /// Parses a request; `None` where it is none, and the connection therefore out of step.
    #[must_use]
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        Self::fields(bytes, REQUEST_MAGIC)
    }

    /// The same for a client that sends extended headers.
    #[must_use]
    pub fn parse_extended(bytes: &[u8; EXTENDED_REQUEST_LEN]) -> Option<Self> {
        Self::fields(bytes, EXTENDED_REQUEST_MAGIC)
    }

    /// The length is what follows the other fields.
    fn fields(bytes: &[u8], magic: u32) -> Option<Self> {
        let field = |from: usize, to: usize| {
            bytes[from..to].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        if field(0, 4) != u64::from(magic) {
            return None;
        }
        Some(Self {
            flags: field(4, 6) as u16,
            command: Command::of(field(6, 8) as u16),
            cookie: field(8, 16),
            offset: field(16, 24),
            len: field(24, bytes.len()),
        })
    }

    /// Bytes of data that follow the request. `extended`: the client sends extended headers.
    #[must_use]
    pub fn payload(&self, extended: bool) -> u64 {
        let says = extended && self.flags & CMD_FLAG_PAYLOAD_LEN != 0;
        if says || self.command == Some(Command::Write) { self.len } else { 0 }
    }
}
