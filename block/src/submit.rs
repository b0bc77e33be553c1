//! A request for a node from inside a task: the fast way where the node has one.

use std::sync::Arc;

use crate::{
    BlockError, Cx, Io, IoBuf, Map, Node, Op, Range,
    ring::{FileOp, Owner, Request},
};

/// The file operation that a leaf of this request needs, if there is one.
pub(crate) fn leaf_op(op: Op) -> Option<FileOp> {
    match op {
        Op::Read => Some(FileOp::Read),
        Op::Write { fua } => Some(FileOp::Write { fua }),
        Op::Flush => Some(FileOp::Sync),
        Op::Discard | Op::WriteZeroes { .. } => None,
    }
}

/// Does `io` on `node` and waits for it. A request that the node maps piece by piece is split.
///
/// # Errors
/// What the node or the file said; a part may have been done then.
pub async fn node_io(cx: &Cx, node: &Arc<dyn Node>, mut io: Io) -> (Io, Result<(), BlockError>) {
    let Some(op) = leaf_op(io.op) else {
        return Arc::clone(node).run(Cx::clone(cx), io).await;
    };
    let mut done = 0;
    loop {
        let rest = Range::new(io.range.offset + done, io.range.len - done);
        let step = match node.map(cx.lane(), io.op.kind(), rest) {
            Map::Leaf { file, offset, len, pin } if len == io.range.len => {
                let buf = std::mem::take(&mut io.buf);
                let (buf, result) = cx.file_op(op, file, (offset, len), buf, pin).await;
                io.buf = buf;
                return (io, result);
            }
            Map::Leaf { file, offset, len, pin } => {
                let part = io.buf.view(done, len);
                cx.file_op(op, file, (offset, len), part, pin).await.1.map(|()| len)
            }
            Map::Zero { len } => {
                io.buf.zero(done, len);
                Ok(len)
            }
            Map::Done { len } => Ok(len),
            Map::Slow if done == 0 => {
                return Arc::clone(node).run(Cx::clone(cx), io).await;
            }
            Map::Slow => {
                let part = Io { op: io.op, range: rest, buf: io.buf.view(done, rest.len) };
                Arc::clone(node).run(Cx::clone(cx), part).await.1.map(|()| rest.len)
            }
        };
        match step {
            Ok(n) => done += n,
            Err(error) => return (io, Err(error)),
        }
        if done >= io.range.len {
            return (io, Ok(()));
        }
    }
}

/// Reads `len` bytes at `offset` into a buffer of its own.
///
/// # Errors
/// As [`node_io`].
pub async fn read(
    cx: &Cx,
    node: &Arc<dyn Node>,
    offset: u64,
    len: usize,
) -> Result<IoBuf, BlockError> {
    let (io, result) = node_io(cx, node, Io::read(offset, IoBuf::zeroed(len))).await;
    result.map(|()| io.buf)
}

/// Writes `buf` at `offset`.
///
/// # Errors
/// As [`node_io`].
pub async fn write(
    cx: &Cx,
    node: &Arc<dyn Node>,
    offset: u64,
    buf: IoBuf,
) -> Result<(), BlockError> {
    node_io(cx, node, Io::write(offset, buf)).await.1
}

/// Flushes `node`.
///
/// # Errors
/// As [`node_io`].
pub async fn flush(cx: &Cx, node: &Arc<dyn Node>) -> Result<(), BlockError> {
    node_io(cx, node, Io::flush()).await.1
}

/// Hands `io` to the ring when it is one leaf, ends it when it reads as zeros or needs nothing, and
/// starts a task for everything else. `owner` hears of it.
pub(crate) fn submit_or_spawn(cx: &Cx, node: &Arc<dyn Node>, mut io: Io, owner: Owner) {
    match (node.map(cx.lane(), io.op.kind(), io.range), leaf_op(io.op)) {
        (Map::Leaf { file, offset, len, pin }, Some(op)) if len == io.range.len => {
            cx.submit(Request { op, file, offset, len, buf: io.buf, pin, owner });
            return;
        }
        (Map::Zero { len }, _) if len == io.range.len && io.op == Op::Read => {
            io.buf.zero(0, len);
            cx.end_locally(owner, io.buf, Ok(()));
            return;
        }
        (Map::Done { len }, _) if len == io.range.len => {
            cx.end_locally(owner, io.buf, Ok(()));
            return;
        }
        _ => {}
    }
    let (node, task_cx) = (Arc::clone(node), Cx::clone(cx));
    cx.spawn(async move {
        let (io, result) = node_io(&task_cx, &node, io).await;
        task_cx.end_locally(owner, io.buf, result);
    });
}
