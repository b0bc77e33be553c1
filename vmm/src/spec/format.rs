//! Which format an image file has: its name's ending decides, and its content must not disagree.
//!
//! A guest can write any header into a raw disk, so content never chooses a format; it can only
//! make an ending doubtful. Then, and for endings that say nothing, the user must say.
use super::error::SpecError;
use spindle_block::formats::{ImageFormat, probe};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A format that images can be opened in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Bytes as they are.
    Raw,
    /// qcow2.
    Qcow2,
    /// Another format of the block layer's.
    Image(ImageFormat),
}

impl Format {
    /// The formats' names, in the order of declaration.
    pub const NAMES: &[&str] = &[
        "raw",
        "qcow2",
        "vmdk",
        "vdi",
        "vpc",
        "vhdx",
        "parallels",
        "qed",
        "qcow",
        "dmg",
        "cloop",
        "bochs",
        "luks",
    ];

    /// The format of this name.
    #[must_use]
    pub fn called(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "qcow2" => Some(Self::Qcow2),
            other => ImageFormat::called(other).map(Self::Image),
        }
    }

    /// The driver's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Image(format) => format.name(),
        }
    }

    /// Whether images can have a backing file.
    #[must_use]
    pub fn has_backing(self) -> bool {
        match self {
            Self::Raw => false,
            Self::Qcow2 => true,
            Self::Image(format) => format.has_backing(),
        }
    }
}

/// What a file is, as far as the choice of a format needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether it is a block device.
    pub block_device: bool,
    /// Its first bytes, at most [`HEAD_LEN`].
    pub head: Vec<u8>,
}

/// How many bytes of a file are looked at.
pub const HEAD_LEN: usize = 512;

/// Looks at a file.
pub trait Look {
    /// What the file is and how it begins.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn look(&self, path: &Path) -> io::Result<Sight>;
}

/// [`Look`] at the files of this host.
#[derive(Clone, Copy, Debug)]
pub struct HostFiles;

impl Look for HostFiles {
    fn look(&self, path: &Path) -> io::Result<Sight> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        // A FIFO or a terminal would block the open; neither can be a disk.
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("it is neither a file nor a block device"));
        }
        let mut head = Vec::with_capacity(HEAD_LEN);
        File::open(path)?.take(HEAD_LEN as u64).read_to_end(&mut head)?;
        Ok(Sight { block_device: kind.is_block_device(), head })
    }
}

/// Signatures of image formats: name, offset, bytes (qcow2: docs/interop/qcow2.txt; VMDK: Virtual
/// Disk Format 5.0; VHDX: MS-VHDX 2.2.1; VHD dynamic disks begin with a copy of the footer).
const SIGNATURES: &[(&str, usize, &[u8])] = &[
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("qed", 0, b"QED\0"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
];

/// Endings of images of the other formats. A fixed VHD and a DMG have theirs at the
/// end, where opening looks for it.
const ENDINGS: &[(&str, ImageFormat)] = &[
    ("vmdk", ImageFormat::Vmdk),
    ("vhdx", ImageFormat::Vhdx),
    ("vhd", ImageFormat::Vpc),
    ("vpc", ImageFormat::Vpc),
    ("vdi", ImageFormat::Vdi),
    ("qed", ImageFormat::Qed),
    ("qcow", ImageFormat::Qcow),
    ("dmg", ImageFormat::Dmg),
    ("cloop", ImageFormat::Cloop),
    ("hdd", ImageFormat::Parallels),
    ("hds", ImageFormat::Parallels),
    ("luks", ImageFormat::Luks),
];

/// The format whose signature `head` carries, if any.
#[must_use]
pub fn signature(head: &[u8]) -> Option<&'static str> {
    // qcow has the magic of its successor.
    if probe(head) == Some(ImageFormat::Qcow) {
        return Some(ImageFormat::Qcow.name());
    }
    SIGNATURES
        .iter()
        .find(|(_, offset, magic)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(name, _, _)| *name)
        .or_else(|| probe(head).map(ImageFormat::name))
}

/// The format of `path` when the user gave none.
///
/// # Errors
///
/// A file that cannot be read, an ending that says nothing (`.img`), or content that disagrees
/// with the ending; the message says what was seen and what to type.
pub fn of_file(files: &dyn Look, path: &Path) -> Result<Format, SpecError> {
    let sight = look(files, path)?;
    if sight.block_device {
        return Ok(Format::Raw);
    }
    let seen = signature(&sight.head);
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let refuse = |reason: String| Err(SpecError::Content { path: path.to_owned(), reason });
    match (ending.as_deref(), seen) {
        (Some("qcow2"), Some("qcow2")) => Ok(Format::Qcow2),
        (Some("raw" | "iso"), None) => Ok(Format::Raw),
        (Some("qcow2"), None) => refuse(
            "its name says qcow2, but it does not begin as a qcow2 image does; type format=raw \
             if it holds plain bytes"
                .to_owned(),
        ),
        (Some(ending @ ("qcow2" | "raw" | "iso")), Some(seen)) => refuse(format!(
            "its name says {ending}, but it begins like a {seen} image; {}",
            advice(seen, true)
        )),
        (ending, seen) => {
            if let Some((_, format)) = ENDINGS.iter().find(|(e, _)| Some(*e) == ending) {
                let name = format.name();
                return match seen {
                    Some(seen) if seen == name => Ok(Format::Image(*format)),
                    None if matches!(format, ImageFormat::Vpc | ImageFormat::Dmg) => {
                        Ok(Format::Image(*format))
                    }
                    None => refuse(format!(
                        "its name says {name}, but it does not begin as a {name} image does; type \
                         format=raw if it holds plain bytes"
                    )),
                    Some(seen) => refuse(format!(
                        "its name says {name}, but it begins like a {seen} image; {}",
                        advice(seen, true)
                    )),
                };
            }
            let name = ending.map_or("its name has no ending".to_owned(), |e| {
                format!("the ending '.{e}' does not say which format it has")
            });
            refuse(match seen {
                None => format!(
                    "{name}, and it begins like no image format known; type format=raw if it \
                     holds plain bytes"
                ),
                Some(seen) => {
                    format!("{name}; it begins like a {seen} image: {}", advice(seen, true))
                }
            })
        }
    }
}

/// Looks at `path`, with its name in the error.
///
/// # Errors
///
/// [`SpecError::File`].
pub fn look(files: &dyn Look, path: &Path) -> Result<Sight, SpecError> {
    files.look(path).map_err(|source| SpecError::File { path: path.to_owned(), source })
}

fn advice(seen: &str, or_raw: bool) -> String {
    let raw = if or_raw { ", or format=raw for the plain bytes" } else { "" };
    if Format::NAMES.contains(&seen) {
        return format!("type format={seen} if that is what it is{raw}");
    }
    format!(
        "{seen} images cannot be opened; convert it first: qemu-img convert -O qcow2 FILE \
         FILE.qcow2{raw}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(Sight);
    impl Look for One {
        fn look(&self, _: &Path) -> io::Result<Sight> {
            Ok(self.0.clone())
        }
    }

    fn of(name: &str, head: &[u8]) -> Result<Format, String> {
        let files = One(Sight { block_device: false, head: head.to_vec() });
        of_file(&files, Path::new(name)).map_err(|e| e.to_string())
    }

    const QCOW2: &[u8] = b"QFI\xfb\0\0\0\x03";

    #[test]
    fn the_ending_decides_where_content_agrees() {
        assert_eq!(of("a.qcow2", QCOW2), Ok(Format::Qcow2));
        assert_eq!(of("a.QCOW2", QCOW2), Ok(Format::Qcow2));
        assert_eq!(of("a.raw", b"\xeb\x63"), Ok(Format::Raw));
        assert_eq!(of("a.raw", b""), Ok(Format::Raw));
        assert_eq!(of("a.iso", b"\0\0"), Ok(Format::Raw));
        assert_eq!(of("a.vmdk", b"KDMV"), Ok(Format::Image(ImageFormat::Vmdk)));
        assert_eq!(of("a.vhd", b"conectix"), Ok(Format::Image(ImageFormat::Vpc)));
        assert_eq!(of("a.vhd", b"\xeb\x63"), Ok(Format::Image(ImageFormat::Vpc)));
    }

    #[test]
    fn a_block_device_is_raw_whatever_is_on_it() {
        let files = One(Sight { block_device: true, head: QCOW2.to_vec() });
        assert_eq!(of_file(&files, Path::new("/dev/sdb")).unwrap(), Format::Raw);
    }

    #[test]
    fn disagreement_says_what_was_seen_and_what_to_type() {
        let cases: &[(&str, &[u8], &[&str])] = &[
            ("a.raw", QCOW2, &["name says raw", "begins like a qcow2", "format=qcow2"]),
            ("a.qcow2", b"", &["name says qcow2", "format=raw"]),
            ("a.qcow2", b"KDMV", &["begins like a vmdk", "format=vmdk"]),
            ("a.iso", QCOW2, &["name says iso", "begins like a qcow2"]),
            ("a.img", QCOW2, &["'.img'", "qcow2 image", "format=qcow2"]),
            ("a.img", b"\0\0", &["'.img'", "format=raw"]),
            ("disk", b"\0\0", &["no ending", "format=raw"]),
            ("a.vmdk", b"", &["name says vmdk", "does not begin as a vmdk"]),
            ("a.vdi", QCOW2, &["name says vdi", "begins like a qcow2", "format=qcow2"]),
            ("a.img", b"LUKS\xba\xbe", &["'.img'", "luks image", "format=luks"]),
        ];
        for (name, head, wanted) in cases {
            let message = of(name, head).unwrap_err();
            for part in *wanted {
                assert!(message.contains(part), "{name}: '{part}' not in: {message}");
            }
        }
    }

    #[test]
    fn host_files_are_looked_at_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        std::fs::write(&path, [7; 600]).unwrap();
        assert_eq!(HostFiles.look(&path).unwrap().head, [7; HEAD_LEN]);
        assert!(HostFiles.look(dir.path()).is_err());
        assert!(HostFiles.look(Path::new("/dev/zero")).is_err());
        let missing = look(&HostFiles, &dir.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"));
        assert!(!missing.is_usage());
    }
}
