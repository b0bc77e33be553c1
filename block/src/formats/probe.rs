//! Which format a file begins like.

use super::ImageFormat;

/// How many bytes of a file are looked at.
pub const PROBE_LEN: usize = 512;

/// Signatures: format, offset, bytes (VMDK: Virtual Disk Format 5.0; VHDX: MS-VHDX 2.2.1; VHD:
/// dynamic disks begin with a copy of the footer).
const SIGNATURES: &[(ImageFormat, usize, &[u8])] = &[
    (ImageFormat::Vmdk, 0, b"KDMV"),
    (ImageFormat::Vmdk, 0, b"COWD"),
    (ImageFormat::Vhdx, 0, b"vhdxfile"),
    (ImageFormat::Vpc, 0, b"conectix"),
    (ImageFormat::Vdi, 0x40, b"\x7f\x10\xda\xbe"),
    (ImageFormat::Qed, 0, b"QED\0"),
    (ImageFormat::Qcow, 0, b"QFI\xfb\0\0\0\x01"),
    (ImageFormat::Luks, 0, crate::luks::MAGIC),
    (ImageFormat::Cloop, 0, crate::cloop::MAGIC),
    (ImageFormat::Bochs, 0, b"Bochs Virtual HD Image\0"),
    (ImageFormat::Parallels, 0, b"WithoutFreeSpace"),
    (ImageFormat::Parallels, 0, b"WithouFreSpacExt"),
];

/// The format that a file with these first bytes has by its looks. Raw files may look like anything:
/// only for callers to whom that is no danger.
#[must_use]
pub fn probe(head: &[u8]) -> Option<ImageFormat> {
    let found = SIGNATURES
        .iter()
        .find(|(_, at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(format, _, _)| *format);
    found.or_else(|| crate::vmdk::is_descriptor(head).then_some(ImageFormat::Vmdk))
}
