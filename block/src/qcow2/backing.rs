//! Changing the other files that an image names, while nobody has it open.

use std::sync::Arc;

use super::{
    header::{AUTOCLEAR_RAW_DATA, Header},
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

/// Makes the image in `file` name another data file, and take its data file for raw or not. What is not
/// given stays; without a data file nothing changes.
///
/// # Errors
/// As [`set_backing`].
pub async fn set_data_file(
    cx: &Cx,
    file: &Arc<dyn Node>,
    name: Option<&str>,
    raw: Option<bool>,
) -> Result<(), OpenError> {
    let old = read_header(cx, file).await?;
    old.supported()?;
    if !old.has_data_file() {
        return Ok(());
    }
    let mut header = old.clone();
    if name.is_some() {
        header.set_data_file(name);
    }
    match raw {
        Some(true) => header.autoclear |= AUTOCLEAR_RAW_DATA,
        Some(false) => header.autoclear &= !AUTOCLEAR_RAW_DATA,
        None => {}
    }
    if header == old {
        return Ok(());
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

    #[test]
    fn the_data_files_name_changes() {
        let temp = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let file: Arc<dyn Node> = FileNode::open(&FileOptions::new(&path)).expect("open");
            let data_file = Some("old.raw".to_owned());
            let options =
                CreateOptions { data_file, data_file_raw: true, ..CreateOptions::new(1 << 20) };
            create(&cx, &file, &options).await.expect("create");
            let header = async || read_header(&cx, &file).await.expect("a header");
            let before = header().await;
            assert_eq!(before.data_file().as_deref(), Some("old.raw"));
            assert!(before.has_raw_data_file());
            for (name, raw) in [(Some("a/new/name"), None), (None, Some(false)), (None, None)] {
                set_data_file(&cx, &file, name, raw).await.expect("change");
                let now = header().await;
                assert_eq!(now.data_file().as_deref(), Some("a/new/name"));
                assert_eq!(now.has_raw_data_file(), name.is_some());
            }
            // An image that has none keeps none.
            create(&cx, &file, &CreateOptions::new(1 << 20)).await.expect("create");
            set_data_file(&cx, &file, Some("x"), Some(true)).await.expect("nothing to do");
            assert_eq!((header().await.data_file(), header().await.autoclear), (None, 0));
            close(&cx, &file).await;
        });
    }
}
