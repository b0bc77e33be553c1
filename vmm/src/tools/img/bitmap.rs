//! `bitmap`: persistent dirty bitmaps are added, removed and changed.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{Image, OpenMode, driver_called, errno_text, warn_of_probing};
use crate::spec::format::Format;
use serde::Serialize;
use spindle_block::qcow2::{BitmapError, BitmapInfo, DirtyBits, Qcow2};
use spindle_block::{BlockError, Cx};
use std::fmt::Write;
use std::path::PathBuf;

/// One thing that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// `--add`.
    Add,
    /// `--remove`.
    Remove,
    /// `--clear`.
    Clear,
    /// `--enable`.
    Enable,
    /// `--disable`.
    Disable,
    /// `--merge SOURCE`.
    Merge(String),
}

impl Act {
    fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }
}

/// What the command line of `bitmap` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitmapRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// The bitmap.
    pub bitmap: String,
    /// What is to be done, in this order.
    pub acts: Vec<Act>,
    /// `-g`, in bytes.
    pub granularity: Option<u64>,
    /// `-b`: where sources are merged from.
    pub source: Option<PathBuf>,
    /// `-F`.
    pub source_format: Option<String>,
}

/// A bitmap, as `qemu-img info` shows it (qapi/block-core.json, Qcow2BitmapInfo).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BitmapReport {
    /// Its name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// `in-use`: it says nothing; `auto`: writes are recorded.
    pub flags: Vec<&'static str>,
}

impl From<BitmapInfo> for BitmapReport {
    fn from(one: BitmapInfo) -> Self {
        let flags = [("in-use", one.inconsistent), ("auto", one.enabled)];
        Self {
            name: one.name,
            granularity: one.granularity,
            flags: flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
        }
    }
}

/// The list for people; nothing where there is none.
#[must_use]
pub fn human(list: &[BitmapReport]) -> String {
    let mut out = String::new();
    if !list.is_empty() {
        out.push_str("    bitmaps:\n");
    }
    for (number, one) in list.iter().enumerate() {
        let _ = writeln!(out, "        [{number}]:\n            flags:");
        for (number, flag) in one.flags.iter().enumerate() {
            let _ = writeln!(out, "                [{number}]: {flag}");
        }
        let _ = writeln!(
            out,
            "            name: {}\n            granularity: {}",
            one.name, one.granularity
        );
    }
    out
}

/// Does it.
///
/// # Errors
///
/// Images that cannot be opened, and what a bitmap cannot be. What was done before stays done.
pub fn run(request: BitmapRequest) -> Result<(), ImgError> {
    let format = driver_called(&request.path, request.format.as_deref())?;
    on_block_layer(|cx| async move {
        let mut source = None;
        if let Some(path) = &request.source {
            let format = driver_called(path, request.source_format.as_deref())?;
            source = Some(Image::open(&cx, path, OpenMode::read(format, false)).await?);
        }
        let result = on_image(&cx, &request, format, source.as_ref()).await;
        if let Some(source) = source {
            // It was only read.
            let _ = source.close(&cx).await;
        }
        result
    })
}

async fn on_image(
    cx: &Cx,
    request: &BitmapRequest,
    format: Option<Format>,
    source: Option<&Image>,
) -> Result<(), ImgError> {
    let image = Image::open(cx, &request.path, OpenMode::write(format)).await?;
    warn_of_probing(&image, format);
    let result = change(cx, request, &image, source).await;
    let closed = image.close(cx).await;
    result?;
    closed.map_err(|error: BlockError| {
        ImgError::said(format!("Could not close image: {}", errno_text(error)))
    })
}

async fn change(
    cx: &Cx,
    request: &BitmapRequest,
    image: &Image,
    source: Option<&Image>,
) -> Result<(), ImgError> {
    let name = &request.bitmap;
    let disables = request.acts.contains(&Act::Disable);
    for act in &request.acts {
        let done = match &image.qcow2 {
            None => Err(foreign(act, name)),
            Some(qcow2) => one(cx, act, request, qcow2, source, !disables).await,
        };
        done.map_err(|why| {
            ImgError::said(format!("Operation {} on bitmap {name} failed: {why}", act.name()))
        })?;
    }
    Ok(())
}

/// What is said of an image that has no bitmaps. QEMU names its node, which has no name here.
fn foreign(act: &Act, name: &str) -> String {
    match act {
        Act::Add => "Can't store persistent bitmaps to #block: Operation not supported".to_owned(),
        _ => BitmapError::Missing(name.to_owned()).to_string(),
    }
}

async fn one(
    cx: &Cx,
    act: &Act,
    request: &BitmapRequest,
    image: &Qcow2,
    source: Option<&Image>,
    enabled: bool,
) -> Result<(), String> {
    let name = &request.bitmap;
    if *act == Act::Add && name.is_empty() {
        return Err("Bitmap name cannot be empty".to_owned());
    }
    let done = match act {
        Act::Add => image.add_bitmap(cx, name, request.granularity, enabled).await,
        Act::Remove => image.remove_bitmap(cx, name).await,
        Act::Clear => image.clear_bitmap(cx, name).await,
        Act::Enable => image.enable_bitmap(cx, name, true).await,
        Act::Disable => image.enable_bitmap(cx, name, false).await,
        Act::Merge(from) => match source_bits(cx, from, image, source).await {
            Ok(bits) => image.merge_bitmap(cx, name, &bits).await,
            Err(error) => Err(error),
        },
    };
    done.map_err(|error| match (act, error) {
        (Act::Add, error @ (BitmapError::Version | BitmapError::Name | BitmapError::TooMany)) => {
            format!("Can't make bitmap '{name}' persistent in '#block': {error}")
        }
        (_, BitmapError::Io(error)) => errno_text(error).to_owned(),
        (_, other) => spindle_block::error::with_causes(&other),
    })
}

async fn source_bits(
    cx: &Cx,
    name: &str,
    image: &Qcow2,
    source: Option<&Image>,
) -> Result<DirtyBits, BitmapError> {
    match source.map(|source| &source.qcow2) {
        None => image.bitmap_bits(cx, name).await,
        Some(Some(other)) => other.bitmap_bits(cx, name).await,
        Some(None) => Err(BitmapError::Missing(name.to_owned())),
    }
}
