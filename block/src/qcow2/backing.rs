//! Changing the backing file that an image names, while nobody has it open.

use std::sync::Arc;

use super::{
    header::Header,
    host::Host,
    open::{OpenError, read_header},
    replace::replace_header,
};
use crate::{Cx, Node};

/// Makes the image in `file` name another backing file: its name and format, or none. What the
/// image reads as changes with it, unless the caller has seen to that.
///
/// The new names take effect at one moment; they are durable when this returns.
///
/// # Errors
/// When there is no image that can be written, or the names do not fit into its first cluster;
/// nothing is changed then.
pub async fn set_backing(
    cx: &Cx,
    file: &Arc<dyn Node>,
    backing: Option<(&str, &str)>,
) -> Result<(), OpenError> {
    let mut header: Header = read_header(cx, file).await?;
    header.supported()?;
    header.clear_backing_format();
    header.backing_file = None;
    if let Some((name, format)) = backing {
        header.backing_file = Some(name.to_owned());
        header.set_backing_format(format);
    }
    replace_header(cx, &Host::new(Arc::clone(file)), &header).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nodes::{
            file::{FileNode, FileOptions},
            testing::{close, on_ring},
        },
        qcow2::{
            HeaderError,
            check::{Repair, check},
            create::{CreateOptions, create},
        },
    };

    #[test]
    fn the_names_change_and_nothing_else() {
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
            let backing = Some(("old.qcow2".to_owned(), "qcow2".to_owned()));
            let options = CreateOptions { backing, ..CreateOptions::new(1 << 20) };
            create(&cx, &file, &options).await.expect("create");
            let before = read_header(&cx, &file).await.expect("a header");
            for backing in [Some(("a/longer/name.raw", "raw")), None, Some(("x", "qcow2"))] {
                set_backing(&cx, &file, backing).await.expect("change");
                let now = read_header(&cx, &file).await.expect("a header");
                assert_eq!(now.backing_file.as_deref(), backing.map(|(name, _)| name));
                assert_eq!(now.backing_format().as_deref(), backing.map(|(_, format)| format));
                let tables = |h: &Header| (h.size, h.l1_offset, h.reftable_offset, h.incompatible);
                assert_eq!(tables(&now), tables(&before));
                assert_eq!(now.extensions.len(), 1 + usize::from(backing.is_some()));
            }
            let long = "n".repeat(1024);
            let refused = set_backing(&cx, &file, Some((&long, "raw"))).await;
            assert!(matches!(refused, Err(OpenError::Header(HeaderError::Field(_)))));
            let found = check(&cx, &file, Repair::None).await.expect("check");
            assert_eq!((found.corruptions, found.leaks), (0, 0), "{:?}", found.messages);
            close(&cx, &file).await;
        });
    }
}
