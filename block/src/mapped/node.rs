//! [`Mapped`] as a node.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use super::Mapped;
use crate::{BlockError, Cx, Extent, Info, Io, Lane, LocalBoxFuture, Map, Node, Op, OpKind, Range};

impl Mapped {
    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(SeqCst)
    }

    async fn request(&self, cx: &Cx, io: &mut Io) -> Result<(), BlockError> {
        let range = io.range;
        if io.op.writes() && self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        let fua = match io.op {
            Op::Read => return self.read(cx, range, &mut io.buf).await,
            Op::Flush => return self.flush(cx).await,
            Op::Write { fua } => {
                self.write(cx, range, &io.buf).await?;
                fua
            }
            Op::WriteZeroes { unmap, fua } => {
                self.write_zeroes(cx, range, unmap).await?;
                fua
            }
            Op::Discard => {
                self.discard(cx, range).await?;
                false
            }
        };
        if fua { self.flush(cx).await } else { Ok(()) }
    }
}

impl Node for Mapped {
    fn driver(&self) -> &'static str {
        self.shape.driver
    }

    fn info(&self) -> Info {
        Info { size: self.size(), ..self.info }
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        self.translate(lane, op, range)
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            let result = self.request(&cx, &mut io).await;
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Box::pin(async move { self.first_extent(&cx, range).await })
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.set_size(&cx, size).await })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move { self.shut(&cx).await })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        let mut children = vec![("file", Arc::clone(self.host.node()))];
        if let Some(backing) = &self.backing {
            children.push(("backing", Arc::clone(backing)));
        }
        children
    }
}
