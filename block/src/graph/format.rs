//! The format that has backing files: qcow2.

use std::sync::Arc;

use super::{
    Qcow2Options,
    chain::{Named, Overlay},
};
use crate::{Cx, LocalBoxFuture, Node};

/// qcow2 images.
pub(super) struct Qcow2Format;

impl Overlay for Qcow2Format {
    fn named(
        &self,
        _cx: &Cx,
        _file: &Arc<dyn Node>,
    ) -> LocalBoxFuture<'static, Result<Named, String>> {
        Box::pin(async { Err("qcow2 is not part of this build".to_owned()) })
    }

    fn open(
        &self,
        _cx: &Cx,
        _file: Arc<dyn Node>,
        _backing: Option<Arc<dyn Node>>,
        _read_only: bool,
        _options: Option<&Qcow2Options>,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Node>, String>> {
        Box::pin(async { Err("qcow2 is not part of this build".to_owned()) })
    }
}
