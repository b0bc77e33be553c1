//! Opening, closing and reopening the image.
use super::breaks::Breaks;
use super::text::complain;
use super::{Failed, Session, options, table};
use crate::spec::keyval;
use crate::tools::img::image::{
    Cache, Image, OpenMode, driver_called, errno_text, warn_of_probing,
};
use crate::tools::img::source::options_path;
use serde_json::Value;
use spindle_block::root::Policy;
use spindle_block::{Cx, Root};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// How an image is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenRequest {
    /// The image: a name, or an option string.
    pub path: PathBuf,
    /// It is an option string, which has no name.
    pub by_options: bool,
    /// `-f`.
    pub format: Option<String>,
    /// `-r`.
    pub read_only: bool,
    /// `-s`.
    pub snapshot: bool,
    /// `-C`.
    pub copy_on_read: bool,
    /// `-U`.
    pub force_share: bool,
    /// `-n` and `-t`.
    pub cache: Cache,
    /// `-d ignore`.
    pub ignore_discard: bool,
}

/// An open image.
pub(super) struct Disk {
    pub image: Image,
    pub root: Arc<Root>,
    pub breaks: Breaks,
    pub copy_on_read: bool,
    /// As it was opened, to be opened again.
    request: OpenRequest,
}

impl Disk {
    async fn open(cx: &Cx, request: &OpenRequest) -> Result<Self, String> {
        let format = driver_called(&request.path, request.format.as_deref());
        let prefix =
            format!("Could not open '{}': ", crate::tools::img::image::shown(&request.path));
        let detail = |error: crate::tools::img::ImgError| {
            let text = spindle_block::error::with_causes(&error);
            text.strip_prefix(&prefix).map(str::to_owned).unwrap_or(text)
        };
        let format = format.map_err(detail)?;
        let writable = !request.read_only && !request.snapshot;
        if request.copy_on_read && request.read_only {
            return Err("Can't use copy-on-read on read-only device".to_owned());
        }
        let mode =
            OpenMode { format, writable, force_share: request.force_share, cache: request.cache };
        let mut image = Image::open(cx, &request.path, mode).await.map_err(detail)?;
        warn_of_probing(&image, format);
        if request.snapshot {
            image = image.with_scratch(cx).await.map_err(detail)?;
        }
        let policy = Policy {
            ignore_discard: request.ignore_discard || image.policy.ignore_discard,
            ..image.policy
        };
        let root = Root::new("io", Arc::clone(&image.node), policy);
        let breaks = Breaks::new(image.fault.clone());
        let copy_on_read = request.copy_on_read;
        Ok(Self { image, root, breaks, copy_on_read, request: request.clone() })
    }
}

impl Session {
    pub(super) async fn open(&self, request: OpenRequest) -> Result<(), Failed> {
        if self.disk.borrow().is_some() {
            return complain("file open already, try 'help close'");
        }
        match Disk::open(&self.cx, &request).await {
            Ok(disk) => {
                *self.disk.borrow_mut() = Some(Rc::new(disk));
                Ok(())
            }
            Err(error) if request.by_options => complain(&format!("can't open: {error}")),
            Err(error) => {
                complain(&format!("can't open device {}: {error}", request.path.display()))
            }
        }
    }

    /// Waits for all requests and closes what is open.
    pub(super) async fn close(&self) {
        self.aio.all_ended().await;
        let disk = self.disk.borrow_mut().take();
        let Some(disk) = disk.and_then(|disk| Rc::try_unwrap(disk).ok()) else { return };
        if let Err(error) = disk.image.close(&self.cx).await {
            let _: Result<(), Failed> = complain(&format!("close: {}", errno_text(error)));
        }
    }

    pub(super) async fn open_command(
        &self,
        command: &'static table::Command,
        args: &[String],
    ) -> Result<(), Failed> {
        let (found, rest) = options(command, args, "snCro:ki:t:d:U")?;
        let mut request = OpenRequest::default();
        let mut driver_options = Vec::new();
        for (letter, value) in found {
            match letter {
                's' => request.snapshot = true,
                'n' => request.cache = Cache { direct: true, ..request.cache },
                'C' => request.copy_on_read = true,
                'r' => request.read_only = true,
                'U' => request.force_share = true,
                'o' => driver_options.push(value),
                't' => match Cache::parse(&value) {
                    Some(cache) => request.cache = cache,
                    None => return complain(&format!("Invalid cache option: {value}")),
                },
                'd' => match value.as_str() {
                    "ignore" | "off" => request.ignore_discard = true,
                    "unmap" | "on" => request.ignore_discard = false,
                    _ => return complain(&format!("Invalid discard option: {value}")),
                },
                'i' if !matches!(value.as_str(), "threads" | "native" | "io_uring") => {
                    return complain(&format!("Invalid aio option: {value}"));
                }
                _ => {}
            }
        }
        match (rest.as_slice(), driver_options.is_empty()) {
            ([path], true) => request.path = PathBuf::from(path),
            ([], false) => {
                request.path = options_path(&driver_options.join(","));
                request.by_options = true;
            }
            ([path], false) => {
                let text = driver_options.join(",");
                let name = if text.contains("driver=") { "file.filename" } else { "filename" };
                request.path = options_path(&format!("{text},{name}={}", keyval::escape(path)));
                request.by_options = true;
            }
            _ => {
                command.usage();
                return Err(Failed);
            }
        }
        self.open(request).await
    }

    /// Closes the image and opens it with other options; where that fails, as it was.
    pub(super) async fn reopen(
        &self,
        command: &'static table::Command,
        args: &[String],
    ) -> Result<(), Failed> {
        let (found, rest) = options(command, args, "c:o:rw")?;
        let Some(mut request) = self.disk.borrow().as_ref().map(|disk| disk.request.clone()) else {
            return Err(Failed);
        };
        let before = request.clone();
        let mut chosen = false;
        let mut lazy = None;
        for (letter, value) in found {
            match letter {
                'c' => match Cache::parse(&value) {
                    Some(cache) => request.cache = cache,
                    None => return complain(&format!("Invalid cache option: {value}")),
                },
                'o' => {
                    let parsed = match keyval::parse("reopen", &value, None, &[]) {
                        Ok(parsed) => parsed,
                        Err(error) => return complain(&error.to_string()),
                    };
                    for (key, value) in parsed {
                        let on = value.as_str() == Some("on");
                        match (key.as_str(), value) {
                            ("read-only", Value::String(_)) => request.read_only = on,
                            ("discard", Value::String(mode)) => {
                                request.ignore_discard = mode == "ignore" || mode == "off";
                            }
                            ("lazy-refcounts", Value::String(mode)) => lazy = Some(mode),
                            (key, _) => {
                                return complain(&format!("Cannot change the option '{key}'"));
                            }
                        }
                    }
                }
                _ if chosen => return complain("Only one -r/-w option may be given"),
                'r' => (request.read_only, chosen) = (true, true),
                _ => (request.read_only, chosen) = (false, true),
            }
        }
        if !rest.is_empty() {
            command.usage();
            return Err(Failed);
        }
        if let Some(mode) = lazy {
            let path = request.path.to_string_lossy().into_owned();
            let text = format!(
                "driver=qcow2,file.filename={},lazy-refcounts={mode}",
                keyval::escape(&path)
            );
            let named = !request.by_options && !path.contains(':');
            if !named || request.snapshot {
                return complain("Cannot change the option 'lazy-refcounts'");
            }
            (request.path, request.by_options, request.format) = (options_path(&text), true, None);
        }
        self.close().await;
        match Disk::open(&self.cx, &request).await {
            Ok(disk) => {
                *self.disk.borrow_mut() = Some(Rc::new(disk));
                Ok(())
            }
            Err(error) => {
                // If it cannot be had as before either, nothing is open.
                if let Ok(disk) = Disk::open(&self.cx, &before).await {
                    *self.disk.borrow_mut() = Some(Rc::new(disk));
                }
                complain(&error)
            }
        }
    }
}
