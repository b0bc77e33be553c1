//! `convert --bitmaps`: persistent bitmaps go along with the data.
use super::ImgError;
use super::error::prefix;
use super::image::{Image, errno_text};
use spindle_block::Cx;
use spindle_block::qcow2::{BitmapError, BitmapInfo, Qcow2};

/// The bitmaps of a source that are going to be copied.
pub(super) struct Bitmaps {
    list: Vec<BitmapInfo>,
}

impl Bitmaps {
    /// Looks at the sources. With `skip`, bitmaps that say nothing any more are left out.
    ///
    /// # Errors
    ///
    /// More than one source, one that cannot have bitmaps, or has one that says nothing.
    pub async fn of(cx: &Cx, sources: &[Image], skip: bool) -> Result<Self, ImgError> {
        let [source] = sources else {
            return said("Copying bitmaps only possible with single source");
        };
        let Some(image) = &source.qcow2 else {
            return said("Source lacks bitmap support");
        };
        let list = match image.bitmaps(cx).await {
            Ok(list) => list,
            Err(BitmapError::Version) => Vec::new(),
            Err(error) => return said(sentence(&error)),
        };
        if let Some(broken) = list.iter().find(|one| one.inconsistent && !skip) {
            return said(format!(
                "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img \
                 bitmap --remove' to delete it",
                broken.name
            ));
        }
        Ok(Self { list })
    }

    /// Whether the target can have them.
    ///
    /// # Errors
    ///
    /// Its format cannot.
    pub fn check(&self, target: &Image) -> Result<(), ImgError> {
        if target.qcow2.as_ref().is_some_and(|image| !image.is_version_2()) {
            return Ok(());
        }
        said(format!("Format driver '{}' does not support bitmaps", target.format.name()))
    }

    /// Copies them. The target's data is all there: what is written later belongs to no bitmap of
    /// the source's.
    ///
    /// # Errors
    ///
    /// A bitmap of the same name, no space.
    pub async fn copy(&self, cx: &Cx, sources: &[Image], target: &Image) -> Result<(), ImgError> {
        let (Some(Some(from)), Some(to)) =
            (sources.first().map(|source| source.qcow2.as_ref()), target.qcow2.as_ref())
        else {
            return Ok(());
        };
        for one in &self.list {
            if one.inconsistent {
                eprintln!("{}: warning: Skipping inconsistent bitmap '{}'", prefix(), one.name);
                continue;
            }
            copy(cx, one, from, to).await?;
        }
        Ok(())
    }
}

async fn copy(cx: &Cx, one: &BitmapInfo, from: &Qcow2, to: &Qcow2) -> Result<(), ImgError> {
    let name = &one.name;
    let failed = |doing: &str, error: &BitmapError| {
        ImgError::said(format!("Failed to {doing} bitmap {name}: {}", sentence(error)))
    };
    let made = to.add_bitmap(cx, name, Some(one.granularity), one.enabled).await;
    made.map_err(|error| failed("create", &error))?;
    let filled = match from.bitmap_bits(cx, name).await {
        Ok(bits) => to.merge_bitmap(cx, name, &bits).await,
        Err(error) => Err(error),
    };
    if let Err(error) = filled {
        // An empty one would say that nothing has changed.
        let _ = to.remove_bitmap(cx, name).await;
        return Err(failed("populate", &error));
    }
    Ok(())
}

fn sentence(error: &BitmapError) -> String {
    match error {
        BitmapError::Io(error) => errno_text(*error).to_owned(),
        other => spindle_block::error::with_causes(other),
    }
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}
