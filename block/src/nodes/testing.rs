//! What the tests of nodes share.

use std::{future::Future, sync::Arc};

use crate::{
    BlockError, Cx, Io, IoBuf, Iothread, Node, Op, Range,
    iothread::Clock,
    ring::uring::{Options, UringEngine},
    submit::node_io,
};

/// Runs `task` on an io_uring ring of this thread.
pub(crate) fn on_ring<T: 'static, F: Future<Output = T> + 'static>(
    task: impl FnOnce(Cx) -> F,
) -> T {
    let ring = UringEngine::new(Options::default()).expect("io_uring");
    let cx = Iothread::new("test", Box::new(ring), Clock::Real).expect("an iothread");
    cx.block_on(task(Cx::clone(&cx)))
}

pub(crate) async fn write(
    cx: &Cx,
    node: &Arc<dyn Node>,
    at: u64,
    bytes: &[u8],
) -> Result<(), BlockError> {
    node_io(cx, node, Io::write(at, IoBuf::from_slice(bytes))).await.1
}

pub(crate) async fn read(
    cx: &Cx,
    node: &Arc<dyn Node>,
    at: u64,
    len: usize,
) -> Result<Vec<u8>, BlockError> {
    // Dirty memory, so that what is not filled is seen.
    let (io, result) = node_io(cx, node, Io::read(at, IoBuf::from_slice(&vec![0xee; len]))).await;
    result.map(|()| io.buf.to_vec())
}

pub(crate) async fn bare(
    cx: &Cx,
    node: &Arc<dyn Node>,
    op: Op,
    at: u64,
    len: u64,
) -> Result<(), BlockError> {
    node_io(cx, node, Io::bare(op, Range::new(at, len))).await.1
}

pub(crate) async fn close(cx: &Cx, node: &Arc<dyn Node>) {
    Arc::clone(node).close(Cx::clone(cx)).await.expect("close");
}
