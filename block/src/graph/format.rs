//! The format that has backing files: qcow2.

use std::sync::Arc;

use super::{
    Qcow2Options,
    chain::{Named, Overlay},
};
use crate::{Cx, LocalBoxFuture, Node, error::with_causes, qcow2};

/// qcow2 images.
pub(super) struct Qcow2Format;

impl Overlay for Qcow2Format {
    fn named(
        &self,
        cx: &Cx,
        file: &Arc<dyn Node>,
    ) -> LocalBoxFuture<'static, Result<Named, String>> {
        let (cx, file) = (Cx::clone(cx), Arc::clone(file));
        Box::pin(async move {
            let header = qcow2::read_header(&cx, &file).await.map_err(|e| with_causes(&e))?;
            let (format, data) = (header.backing_format(), header.data_file());
            Ok(Named { format, data, file: header.backing_file })
        })
    }

    fn open(
        &self,
        cx: &Cx,
        file: Arc<dyn Node>,
        data: Option<Arc<dyn Node>>,
        backing: Option<Arc<dyn Node>>,
        read_only: bool,
        options: Option<&Qcow2Options>,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Node>, String>> {
        let cx = Cx::clone(cx);
        let options = qcow2::Options {
            read_only,
            cache_bytes: options.and_then(|o| o.l2_cache_size),
            lazy_refcounts: options.and_then(|o| o.lazy_refcounts),
            secret: options.and_then(|o| o.secret.clone()),
            encrypt_format: options.and_then(|o| o.encrypt_format.clone()),
        };
        Box::pin(async move {
            let files = qcow2::Files { file, backing, data };
            let image = qcow2::open_files(&cx, files, options).await;
            image.map(|image| image as Arc<dyn Node>).map_err(|e| with_causes(&e))
        })
    }
}
