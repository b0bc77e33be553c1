//! A file that is written from front to back, as a node: formats that only append can be written
//! through a pipe with it.
use spindle_block::{
    BlockError, Cx, Extent, ExtentKind, Info, Io, IoBuf, Lane, LocalBoxFuture, Map, Node, Op,
    OpKind, Range,
};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Until it is let go, everything stays in memory and can be changed; from then on it is sent as it
/// is written, and nothing that was sent can be changed or read.
pub(super) struct FrontNode(Mutex<State>);

struct State {
    out: File,
    /// Bytes that were sent.
    sent: u64,
    kept: Vec<u8>,
    let_go: bool,
}

impl FrontNode {
    pub fn new(out: File) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { out, sent: 0, kept: Vec::new(), let_go: false })))
    }

    /// Sends what there is, and all that comes.
    pub fn let_go(&self) -> Result<(), BlockError> {
        let mut state = self.lock();
        state.let_go = true;
        state.send()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&mut self) -> Result<(), BlockError> {
        if self.let_go {
            self.out.write_all(&self.kept)?;
            self.sent += self.kept.len() as u64;
            self.kept.clear();
        }
        Ok(())
    }

    fn place(&mut self, range: Range) -> Result<&mut [u8], BlockError> {
        let at = range.offset.checked_sub(self.sent).ok_or(BlockError::Unsupported)?;
        let too_long = |_| BlockError::NoMemory;
        let start = usize::try_from(at).map_err(too_long)?;
        let end = usize::try_from(at + range.len).map_err(too_long)?;
        if self.kept.len() < end {
            self.kept.resize(end, 0);
        }
        Ok(&mut self.kept[start..end])
    }

    fn write(&mut self, range: Range, buf: Option<&IoBuf>) -> Result<(), BlockError> {
        let place = self.place(range)?;
        match buf {
            Some(buf) => buf.read_at(0, place),
            None => place.fill(0),
        }
        self.send()
    }

    fn read(&mut self, range: Range, buf: &mut IoBuf) -> Result<(), BlockError> {
        let at = range.offset.checked_sub(self.sent).ok_or(BlockError::Unsupported)?;
        buf.zero(0, range.len);
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(self.kept.len());
        let len = usize::try_from(range.len).unwrap_or(usize::MAX).min(self.kept.len() - start);
        buf.write_at(0, &self.kept[start..start + len]);
        Ok(())
    }
}

impl Node for FrontNode {
    fn driver(&self) -> &'static str {
        "pipe"
    }

    fn info(&self) -> Info {
        let state = self.lock();
        Info {
            size: state.sent + state.kept.len() as u64,
            request_alignment: 1,
            memory_alignment: 1,
            preferred_write: 4096,
            max_transfer: 1 << 30,
            max_segments: 1024,
            discard_granularity: 0,
            read_only: false,
        }
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
            let mut state = self.lock();
            let result = match io.op {
                Op::Read => state.read(io.range, &mut io.buf),
                Op::Write { .. } => state.write(io.range, Some(&io.buf)),
                Op::WriteZeroes { .. } => state.write(io.range, None),
                Op::Discard | Op::Flush => Ok(()),
            };
            drop(state);
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        _cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(
            async move { Ok(Extent { len: range.len, kind: ExtentKind::Data, host_offset: None }) },
        )
    }

    fn resize(
        self: Arc<Self>,
        _cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            let mut state = self.lock();
            let kept = size.checked_sub(state.sent).ok_or(BlockError::Unsupported)?;
            state.kept.resize(usize::try_from(kept).map_err(|_| BlockError::NoMemory)?, 0);
            state.send()
        })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        Vec::new()
    }
}
