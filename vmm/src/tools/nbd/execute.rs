//! Doing a request, on an iothread.
use super::export::{Context, Export};
use super::negotiate::Agreed;
use super::spec::*;
use crate::tools::img::status::Status;
use spindle_block::{BlockError, Cx, Io, IoBuf, Op, Range};

/// Most extents of one answer.
const EXTENTS_MAX: usize = 16 << 10;
/// What is to be read soon is read in pieces of so many bytes.
const CACHE_PIECE: u64 = 1 << 20;
/// Most of it, in bytes.
const CACHE_MAX: u64 = 4 << 30;

/// A part of a reply: bytes of its own, and data.
pub(super) struct Part {
    pub head: Vec<u8>,
    pub data: IoBuf,
}

/// The error number of the protocol.
pub(super) fn number(error: BlockError) -> u32 {
    match error {
        BlockError::ReadOnly | BlockError::Permission => EPERM,
        BlockError::Medium | BlockError::Corrupt | BlockError::TimedOut | BlockError::Gone => EIO,
        BlockError::NoMemory => ENOMEM,
        BlockError::OutOfRange | BlockError::Misaligned => EINVAL,
        BlockError::NoSpace => ENOSPC,
        BlockError::Unsupported => ENOTSUP,
        BlockError::Aborted => ESHUTDOWN,
    }
}

/// Encodes the parts of a reply.
pub(super) struct Replies {
    structured: bool,
    extended: bool,
    cookie: u64,
    /// Where the request begins; extended replies repeat it.
    offset: u64,
    parts: Vec<Part>,
}

impl Replies {
    pub fn new(agreed: &Agreed, request: &Request) -> Self {
        Self {
            structured: agreed.structured,
            extended: agreed.extended,
            cookie: request.cookie,
            offset: request.offset,
            parts: Vec::new(),
        }
    }

    fn simple(&mut self, error: u32, data: IoBuf) {
        let mut head = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        head.extend(error.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        self.parts.push(Part { head, data });
    }

    fn chunk(&mut self, kind: u16, last: bool, payload: &[u8], data: IoBuf) {
        let flags = if last { REPLY_FLAG_DONE } else { 0 };
        let len = payload.len() as u64 + data.len();
        let magic = if self.extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        let mut head = magic.to_be_bytes().to_vec();
        head.extend(flags.to_be_bytes());
        head.extend(kind.to_be_bytes());
        head.extend(self.cookie.to_be_bytes());
        if self.extended {
            head.extend(self.offset.to_be_bytes());
            head.extend(len.to_be_bytes());
        } else {
            head.extend(u32::try_from(len).unwrap_or(0).to_be_bytes());
        }
        head.extend(payload);
        self.parts.push(Part { head, data });
    }

    /// The request has failed.
    pub fn error(mut self, error: u32) -> Vec<Part> {
        if self.structured {
            let payload = [&error.to_be_bytes()[..], &0_u16.to_be_bytes()].concat();
            self.chunk(REPLY_ERROR, true, &payload, IoBuf::empty());
        } else {
            self.simple(error, IoBuf::empty());
        }
        self.parts
    }

    /// The request is done, and there is nothing to say.
    pub fn done(mut self) -> Vec<Part> {
        if self.structured {
            self.chunk(REPLY_NONE, true, &[], IoBuf::empty());
        } else {
            self.simple(0, IoBuf::empty());
        }
        self.parts
    }

    fn data(&mut self, offset: u64, data: IoBuf, last: bool) {
        if self.structured {
            self.chunk(REPLY_OFFSET_DATA, last, &offset.to_be_bytes(), data);
        } else {
            self.simple(0, data);
        }
    }
}

/// What keeps a request from being done, before anything is.
pub(super) fn refusal(export: &Export, agreed: &Agreed, request: &Request) -> Option<u32> {
    let Some(command) = request.command else { return Some(EINVAL) };
    let allowed = match command {
        Command::Read if agreed.structured => CMD_FLAG_FUA | CMD_FLAG_DF,
        Command::WriteZeroes => CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
        Command::BlockStatus => CMD_FLAG_FUA | CMD_FLAG_REQ_ONE,
        _ => CMD_FLAG_FUA,
    };
    let has_payload = matches!(command, Command::Write | Command::BlockStatus);
    let allowed = allowed | if agreed.extended && has_payload { CMD_FLAG_PAYLOAD_LEN } else { 0 };
    let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
    let moves_data = matches!(command, Command::Read | Command::Write);
    let end = request.offset.checked_add(request.len);
    if request.flags & !allowed != 0 {
        Some(EINVAL)
    } else if writes && export.read_only {
        Some(EPERM)
    } else if command != Command::Flush && end.is_none_or(|end| end > export.size) {
        let takes_space = matches!(command, Command::Write | Command::WriteZeroes);
        Some(if takes_space { ENOSPC } else { EINVAL })
    } else {
        let too_long = moves_data && request.len > u64::from(DATA_MAX);
        let no_status = agreed.contexts.is_empty() || request.len == 0;
        (too_long || (command == Command::BlockStatus && no_status)).then_some(EINVAL)
    }
}

/// Does a request that was not refused. `data` is what a write brought.
pub(super) async fn execute(
    cx: &Cx,
    export: &Export,
    agreed: &Agreed,
    request: Request,
    data: IoBuf,
) -> Vec<Part> {
    let replies = Replies::new(agreed, &request);
    let range = Range::new(request.offset, request.len);
    let flag = |flag| request.flags & flag != 0;
    let fua = flag(CMD_FLAG_FUA);
    let done = match request.command {
        Some(Command::Read) => return read(cx, export, replies, request).await,
        Some(Command::BlockStatus) => {
            return block_status(cx, export, agreed, replies, request).await;
        }
        Some(Command::Write) => {
            export.io(cx, Io { op: Op::Write { fua }, range, buf: data }).await.1
        }
        Some(Command::Flush) => export.io(cx, Io::flush()).await.1,
        Some(Command::Trim) => {
            let mut done = export.io(cx, Io::bare(Op::Discard, range)).await.1;
            if fua && done.is_ok() {
                done = export.io(cx, Io::flush()).await.1;
            }
            done
        }
        Some(Command::WriteZeroes) => {
            let unmap = !flag(CMD_FLAG_NO_HOLE);
            if flag(CMD_FLAG_FAST_ZERO) && !export.zeroes_fast(range, unmap) {
                Err(BlockError::Unsupported)
            } else {
                export.io(cx, Io::bare(Op::WriteZeroes { unmap, fua }, range)).await.1
            }
        }
        Some(Command::Cache) => cache(cx, export, range).await,
        Some(Command::Disconnect) | None => Err(BlockError::Misaligned),
    };
    match done {
        Ok(()) => replies.done(),
        Err(error) => replies.error(number(error)),
    }
}

async fn cache(cx: &Cx, export: &Export, range: Range) -> Result<(), BlockError> {
    // More than that is in no cache for long, and nobody waits for it.
    let range = Range::new(range.offset, range.len.min(CACHE_MAX));
    let mut at = range.offset;
    let mut buf = IoBuf::empty();
    while at < range.end() {
        let len = CACHE_PIECE.min(range.end() - at);
        if buf.len() != len {
            buf = memory(len)?;
        }
        let (back, result) = export.io(cx, Io::read(at, buf)).await;
        result?;
        buf = back;
        at += len;
    }
    Ok(())
}

fn memory(len: u64) -> Result<IoBuf, BlockError> {
    Ok(IoBuf::zeroed(usize::try_from(len).map_err(|_| BlockError::NoMemory)?))
}

/// Reads; where replies are structured, zeros that are known to be such are not sent.
async fn read(cx: &Cx, export: &Export, mut replies: Replies, request: Request) -> Vec<Part> {
    let range = Range::new(request.offset, request.len);
    let sparse = replies.structured && request.flags & CMD_FLAG_DF == 0;
    if range.len == 0 {
        return if sparse || replies.structured {
            replies.done()
        } else {
            replies.simple(0, IoBuf::empty());
            replies.parts
        };
    }
    let mut at = range.offset;
    while at < range.end() {
        let mut piece = Range::new(at, range.end() - at);
        let mut zero = false;
        if sparse && let Ok(status) = export.status(cx, piece).await {
            piece.len = status.len.clamp(1, piece.len);
            zero = status.zero;
        }
        let last = piece.end() == range.end();
        if zero {
            let len = u32::try_from(piece.len).unwrap_or(0);
            let hole = [&piece.offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
            replies.chunk(REPLY_OFFSET_HOLE, last, &hole, IoBuf::empty());
        } else {
            let buf = match memory(piece.len) {
                Ok(buf) => buf,
                Err(error) => return replies.error(number(error)),
            };
            let (buf, result) = export.io(cx, Io::read(piece.offset, buf)).await;
            if let Err(error) = result {
                return replies.error(number(error));
            }
            replies.data(piece.offset, buf, last);
        }
        at = piece.end();
    }
    replies.parts
}

/// What a context says of a stretch.
fn state(context: &Context, status: &Status, dirty: bool) -> u32 {
    match context {
        Context::Allocation => {
            let hole = if status.data { 0 } else { STATE_HOLE };
            hole | if status.zero { STATE_ZERO } else { 0 }
        }
        // How many images down, from 1; 0: nowhere.
        Context::Depth if status.present => u32::try_from(status.depth + 1).unwrap_or(u32::MAX),
        Context::Depth => 0,
        Context::Dirty(..) => u32::from(dirty),
    }
}

async fn block_status(
    cx: &Cx,
    export: &Export,
    agreed: &Agreed,
    mut replies: Replies,
    request: Request,
) -> Vec<Part> {
    let range = Range::new(request.offset, request.len);
    let most = if request.flags & CMD_FLAG_REQ_ONE != 0 { 1 } else { EXTENTS_MAX };
    let mut extents: Vec<Vec<(u64, u32)>> = vec![Vec::new(); agreed.contexts.len()];
    let mut at = range.offset;
    let mut full = false;
    while at < range.end() && !full {
        let status = match export.status(cx, Range::new(at, range.end() - at)).await {
            Ok(status) => status,
            Err(error) => return replies.error(number(error)),
        };
        let mut len = status.len.clamp(1, range.end() - at);
        let mut dirty = vec![false; agreed.contexts.len()];
        for (dirty, context) in dirty.iter_mut().zip(&agreed.contexts) {
            match export.dirty(cx, &export.contexts[*context], Range::new(at, len)).await {
                Ok((now, same)) => (*dirty, len) = (now, same.max(1)),
                Err(error) => return replies.error(number(error)),
            }
        }
        for ((list, context), dirty) in extents.iter_mut().zip(&agreed.contexts).zip(dirty) {
            let now = state(&export.contexts[*context], &status, dirty);
            let room = list.len() < most;
            match list.last_mut() {
                Some((before, state)) if *state == now => *before += len,
                _ if room => list.push((len, now)),
                _ => full = true,
            }
        }
        at += len;
    }
    for (place, (list, context)) in extents.iter().zip(&agreed.contexts).enumerate() {
        let kind = if agreed.extended { REPLY_BLOCK_STATUS_EXT } else { REPLY_BLOCK_STATUS };
        let mut payload = u32::try_from(*context).unwrap_or(0).to_be_bytes().to_vec();
        if agreed.extended {
            payload.extend(u32::try_from(list.len()).unwrap_or(0).to_be_bytes());
        }
        for (len, state) in list {
            if agreed.extended {
                payload.extend(len.to_be_bytes());
                payload.extend(u64::from(*state).to_be_bytes());
            } else {
                payload.extend(u32::try_from(*len).unwrap_or(u32::MAX).to_be_bytes());
                payload.extend(state.to_be_bytes());
            }
        }
        let last = place + 1 == agreed.contexts.len();
        replies.chunk(kind, last, &payload, IoBuf::empty());
    }
    replies.parts
}
