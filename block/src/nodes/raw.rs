//! Format `raw`: bytes as they are, or a window of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    BlockError, Cx, Extent, Info, Io, Lane, LocalBoxFuture, Map, Node, OpKind, Range,
    submit::node_io,
};

/// Why a window does not fit its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The window starts or ends beyond the end of the file.
    #[error("the window of {size} bytes at offset {offset} does not lie within the file's {file}")]
    Beyond {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        size: u64,
        /// The file's size in bytes.
        file: u64,
    },
    /// The window does not start at a block, or is not made of sectors.
    #[error("'{option}' ({value}) is not a multiple of {align}")]
    Misaligned {
        /// `offset` or `size`.
        option: &'static str,
        /// Its value in bytes.
        value: u64,
        /// What it has to be a multiple of, in bytes.
        align: u64,
    },
}

/// A window on another node.
pub struct RawNode {
    file: Arc<dyn Node>,
    offset: u64,
    /// The window's size was given: it is not resized.
    fixed: bool,
    size: AtomicU64,
    read_only: bool,
}

impl RawNode {
    /// The bytes of `file` from `offset`, `size` of them or all.
    ///
    /// # Errors
    /// When the window does not fit.
    pub fn new(
        file: Arc<dyn Node>,
        offset: u64,
        size: Option<u64>,
        read_only: bool,
    ) -> Result<Arc<Self>, WindowError> {
        let info = file.info();
        let align = u64::from(info.request_alignment).max(512);
        let misaligned = |option, value: u64, align| {
            let error = WindowError::Misaligned { option, value, align };
            if value.is_multiple_of(align) { Ok(()) } else { Err(error) }
        };
        misaligned("offset", offset, align)?;
        misaligned("size", size.unwrap_or(0), 512)?;
        let beyond = WindowError::Beyond { offset, size: size.unwrap_or(0), file: info.size };
        let rest = info.size.checked_sub(offset).ok_or(beyond)?;
        let fixed = size.is_some();
        let size = size.unwrap_or(rest);
        if size > rest {
            return Err(beyond);
        }
        Ok(Arc::new(Self { file, offset, fixed, size: AtomicU64::new(size), read_only }))
    }

    /// The range below. It cannot overflow: the root has checked the range against the window, and
    /// the window was checked against the file.
    fn below(&self, range: Range) -> Range {
        Range::new(range.offset.saturating_add(self.offset), range.len)
    }
}

impl Node for RawNode {
    fn driver(&self) -> &'static str {
        "raw"
    }

    fn info(&self) -> Info {
        let info = self.file.info();
        Info { size: self.size.load(Relaxed), read_only: info.read_only || self.read_only, ..info }
    }

    fn map(&self, lane: Lane, op: OpKind, range: Range) -> Map {
        self.file.map(lane, op, self.below(range))
    }

    fn run(
        self: Arc<Self>,
        cx: Cx,
        mut io: Io,
    ) -> LocalBoxFuture<'static, (Io, Result<(), BlockError>)> {
        Box::pin(async move {
            if io.op.writes() && self.read_only {
                return (io, Err(BlockError::ReadOnly));
            }
            let range = io.range;
            io.range = self.below(range);
            let (mut io, result) = node_io(&cx, &self.file, io).await;
            io.range = range;
            (io, result)
        })
    }

    fn extent(
        self: Arc<Self>,
        cx: Cx,
        range: Range,
    ) -> LocalBoxFuture<'static, Result<Extent, BlockError>> {
        Arc::clone(&self.file).extent(cx, self.below(range))
    }

    fn resize(
        self: Arc<Self>,
        cx: Cx,
        size: u64,
    ) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async move {
            if self.fixed {
                return Err(BlockError::Unsupported);
            }
            if self.read_only {
                return Err(BlockError::ReadOnly);
            }
            let end = size.checked_add(self.offset).ok_or(BlockError::NoSpace)?;
            Arc::clone(&self.file).resize(cx, end).await?;
            self.size.store(self.file.info().size.saturating_sub(self.offset), Relaxed);
            Ok(())
        })
    }

    fn drain(&self, _on: bool) {}

    fn close(self: Arc<Self>, _cx: Cx) -> LocalBoxFuture<'static, Result<(), BlockError>> {
        Box::pin(async { Ok(()) })
    }

    fn children(&self) -> Vec<(&'static str, Arc<dyn Node>)> {
        vec![("file", Arc::clone(&self.file))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::{
        file::{FileNode, FileOptions},
        null::{NullNode, NullOptions},
        testing::{close, on_ring, read, write},
    };

    #[test]
    fn a_window_reaches_its_own_bytes_only() {
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(temp.path(), vec![1u8; 8192]).expect("write");
        let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(temp.path())).expect("open");
        let raw = RawNode::new(Arc::clone(&file), 1024, Some(2048), false).expect("fits");
        assert_eq!((raw.info().size, raw.driver()), (2048, "raw"));
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let node: Arc<dyn Node> = raw;
            match node.map(cx.lane(), OpKind::Read, Range::new(512, 512)) {
                Map::Leaf { offset: 1536, len: 512, .. } => {}
                other => panic!("{other:?}"),
            }
            write(&cx, &node, 0, &[2; 2048]).await.expect("write");
            let (io, result) = Arc::clone(&node)
                .run(Cx::clone(&cx), Io::write(100, crate::IoBuf::from_slice(&[3; 10])))
                .await;
            assert_eq!((result, io.range), (Ok(()), Range::new(100, 10)));
            assert_eq!(read(&cx, &node, 99, 12).await.expect("read")[..2], [2, 3]);
            let extent = Arc::clone(&node).extent(Cx::clone(&cx), Range::new(0, 512)).await;
            assert_eq!(extent.expect("extent").host_offset, Some(1024));
            let resized = Arc::clone(&node).resize(Cx::clone(&cx), 4096).await;
            assert_eq!(resized, Err(BlockError::Unsupported));
            close(&cx, &node).await;
            close(&cx, &file).await;
            let bytes = std::fs::read(path).expect("read");
            assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|b| *b == 1));
            assert!(bytes[1024..1124].iter().chain(&bytes[1134..3072]).all(|b| *b == 2));
        });
    }

    #[test]
    fn a_window_to_the_end_grows_with_its_file() {
        let null = NullNode::new(NullOptions { size: 8192, ..NullOptions::default() });
        let raw = RawNode::new(null, 4096, None, false).expect("fits");
        on_ring(async move |cx| {
            let node: Arc<dyn Node> = raw;
            assert_eq!(node.info().size, 4096);
            Arc::clone(&node).resize(Cx::clone(&cx), 1 << 20).await.expect("resize");
            assert_eq!(node.info().size, 1 << 20);
            let huge = Arc::clone(&node).resize(Cx::clone(&cx), u64::MAX).await;
            assert_eq!(huge, Err(BlockError::NoSpace));
        });
    }

    #[test]
    fn windows_that_do_not_fit_are_refused_in_a_sentence() {
        let null = || NullNode::new(NullOptions { size: 8192, ..NullOptions::default() });
        let refused = |offset, size| {
            RawNode::new(null(), offset, size, false).map(|_| ()).expect_err("refused").to_string()
        };
        assert_eq!(refused(100, None), "'offset' (100) is not a multiple of 512");
        assert_eq!(refused(0, Some(100)), "'size' (100) is not a multiple of 512");
        assert!(refused(16384, None).contains("does not lie within the file's 8192"));
        assert!(refused(4096, Some(8192)).contains("8192 bytes at offset 4096"));
        assert!(refused(u64::MAX - 511, Some(1024)).contains("does not lie"));
    }
}
