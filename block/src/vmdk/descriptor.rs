//! The descriptor: lines of text (Virtual Disk Format 5.0, "The Descriptor File").

use crate::formats::{FormatError, refuse};

/// The longest text that is read, in bytes.
pub(super) const TEXT_MAX: u64 = 64 << 10;
/// `parentCID` of an image without parent.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;
/// Most extents: those of 2 GiB of the largest disk that VMware makes of them.
const EXTENTS_MAX: usize = 4096;

/// The kinds of images that are opened.
const KINDS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

/// What an extent is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// Bytes as they are.
    Flat,
    /// Grains.
    Sparse,
    /// Nothing: it reads as zeros.
    Zero,
}

impl ExtentKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
        }
    }
}

/// A line that describes an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub kind: ExtentKind,
    /// Bytes of the disk.
    pub len: u64,
    pub file: String,
    /// Where its bytes begin in the file.
    pub offset: u64,
}

/// What a descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub cid: u32,
    pub parent_cid: u32,
    pub kind: String,
    pub parent_file: Option<String>,
    pub extents: Vec<ExtentLine>,
    /// Where the digits of the content id are in the text, if they are there.
    pub cid_at: Option<(usize, usize)>,
}

/// Whether a file that begins with `head` is a descriptor (as QEMU's vmdk_probe).
pub(crate) fn is_descriptor(head: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(&head[..head.len().min(400)])
        .or_else(|e| std::str::from_utf8(head.get(..e.valid_up_to()).unwrap_or_default()))
    else {
        return false;
    };
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| matches!(line, "version=1" | "version=2" | "version=3"))
}

impl Descriptor {
    /// Takes a text apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]);
        let text = text.map_err(|_| refuse("descriptor", "is not UTF-8"))?;
        let mut descriptor = Self {
            cid: 0,
            parent_cid: NO_PARENT,
            kind: String::new(),
            parent_file: None,
            extents: Vec::new(),
            cid_at: None,
        };
        for line in text.lines() {
            let line = line.trim();
            if let Some(extent) = extent_line(line)? {
                if descriptor.extents.len() == EXTENTS_MAX {
                    return Err(refuse("descriptor", "has more than 4096 extents"));
                }
                descriptor.extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            let number = || {
                u32::from_str_radix(value, 16)
                    .map_err(|_| refuse("descriptor", format!("has no number in its {key}")))
            };
            match key {
                "CID" => {
                    descriptor.cid = number()?;
                    let at = value.as_ptr().addr() - text.as_ptr().addr();
                    descriptor.cid_at = Some((at, value.len()));
                }
                "parentCID" => descriptor.parent_cid = number()?,
                "createType" => descriptor.kind = value.trim_matches('"').to_owned(),
                "parentFileNameHint" => {
                    descriptor.parent_file = Some(value.trim_matches('"').to_owned());
                }
                _ => {}
            }
        }
        if !KINDS.contains(&&*descriptor.kind) {
            return Err(FormatError::Unsupported(format!(
                "VMDK images of the type '{}' are not supported",
                descriptor.kind.escape_debug()
            )));
        }
        if descriptor.extents.is_empty() {
            return Err(refuse("descriptor", "lists no extents"));
        }
        Ok(descriptor)
    }
}

/// `RW 63 FLAT "name" 0`; `None` where the line is no extent's.
fn extent_line(line: &str) -> Result<Option<ExtentLine>, FormatError> {
    let mut words = line.splitn(4, ' ');
    let access = words.next().unwrap_or_default();
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return Ok(None);
    }
    let bad = || refuse("extent description", format!("is '{}'", line.escape_debug()));
    let sectors: u64 = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
    let len = sectors.checked_mul(512).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(bad)?;
    let kind = words.next().ok_or_else(bad)?;
    let rest = words.next().unwrap_or_default().trim();
    if access != "RW" {
        return Err(FormatError::Unsupported(format!(
            "VMDK extents that are not RW ('{}') are not supported",
            line.escape_debug()
        )));
    }
    let kind = match kind {
        "FLAT" => ExtentKind::Flat,
        "SPARSE" => ExtentKind::Sparse,
        "ZERO" => {
            return Ok(Some(ExtentLine {
                kind: ExtentKind::Zero,
                len,
                file: String::new(),
                offset: 0,
            }));
        }
        other => {
            return Err(FormatError::Unsupported(format!(
                "VMDK extents of the type {} are not supported",
                other.escape_debug()
            )));
        }
    };
    let (file, after) = rest.strip_prefix('"').and_then(|r| r.split_once('"')).ok_or_else(bad)?;
    let offset: u64 = match (kind, after.trim()) {
        (ExtentKind::Flat, "") => return Err(bad()),
        (ExtentKind::Flat, word) => word.parse().map_err(|_| bad())?,
        _ => 0,
    };
    let offset = offset.checked_mul(512).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(bad)?;
    Ok(Some(ExtentLine { kind, len, file: file.to_owned(), offset }))
}
