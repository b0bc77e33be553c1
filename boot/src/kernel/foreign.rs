//! Names for what people hand over in place of a kernel.

/// Offset of the magic number in an arm64 `Image` (Documentation/arch/arm64/booting.rst).
const ARM64_MAGIC_OFFSET: usize = 0x38;

const KNOWN: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "is gzip-compressed: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed: unpack it first"),
    (b"\xfd7zXZ\0", "is xz-compressed: unpack it first"),
    (b"BZh", "is bzip2-compressed: unpack it first"),
    (b"\x04\x22\x4d\x18", "is lz4-compressed: unpack it first"),
    (b"070701", "is a cpio archive: an initrd?"),
    (b"070702", "is a cpio archive: an initrd?"),
    (b"QFI\xfb", "is a qcow2 disk image: that goes to --disk"),
    (b"!<arch>\n", "is an ar archive or Debian package"),
    (b"#!", "is a script"),
];

/// What a file that begins with `head` and is no bootable kernel looks like, as the end of a sentence
/// that begins with "it".
pub(super) fn describe(head: &[u8]) -> String {
    if head.get(ARM64_MAGIC_OFFSET..ARM64_MAGIC_OFFSET + 4) == Some(b"ARM\x64") {
        return "is a kernel for arm64".into();
    }
    if let Some((_, what)) = KNOWN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*what).into();
    }
    if head.starts_with(b"MZ") {
        return "is an EFI program without a Linux setup header".into();
    }
    if head.len() < 4 {
        return format!("has {} bytes", head.len());
    }
    if head.iter().all(|&b| b == 0) {
        return "begins with zeros".into();
    }
    let magic: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("begins with the bytes {}", magic.join(" "))
}
