//! What `-o help` lists for each format: the options that qemu-img has, in its order and with its
//! words, because scripts look for them. Those that are refused are listed too.
use crate::spec::format::Format;
use spindle_block::formats::ImageFormat;
use std::fmt::Write;

/// An option: its name, the kind of its value, and what it is.
type Row = (&'static str, &'static str, &'static str);

const STR: &str = "str";
const BOOL: &str = "bool (on/off)";
const NUM: &str = "num";
const BYTES: &str = "size";
const AES: &str =
    "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)";

const DISK: Row = ("size", BYTES, "Virtual disk size");
const BACKING_FILE: Row = ("backing_file", STR, "File name of a base image");
const BACKING_FMT: Row = ("backing_fmt", STR, "Image format of the base image");

const QCOW2: &[Row] = &[
    BACKING_FILE,
    BACKING_FMT,
    ("cluster_size", BYTES, "qcow2 cluster size"),
    ("compat", STR, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    ("compression_type", STR, "Compression method used for image cluster compression"),
    ("data_file", STR, "File name of an external data file"),
    ("data_file_raw", BOOL, "The external data file must stay valid as a raw image"),
    ("encrypt.cipher-alg", STR, "Name of encryption cipher algorithm"),
    ("encrypt.cipher-mode", STR, "Name of encryption cipher mode"),
    ("encrypt.format", STR, "Encrypt the image, format choices: 'aes', 'luks'"),
    ("encrypt.hash-alg", STR, "Name of encryption hash algorithm"),
    ("encrypt.iter-time", NUM, "Time to spend in PBKDF in milliseconds"),
    ("encrypt.ivgen-alg", STR, "Name of IV generator algorithm"),
    ("encrypt.ivgen-hash-alg", STR, "Name of IV generator hash algorithm"),
    ("encrypt.key-secret", STR, "ID of secret providing qcow AES key or LUKS passphrase"),
    ("encryption", BOOL, AES),
    ("extended_l2", BOOL, "Extended L2 tables"),
    ("lazy_refcounts", BOOL, "Postpone refcount updates"),
    ("preallocation", STR, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    ("refcount_bits", NUM, "Width of a reference count entry in bits"),
    DISK,
];

const VMDK: &[Row] = &[
    (
        "adapter_type",
        STR,
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
    ),
    BACKING_FILE,
    ("backing_fmt", STR, "Must be 'vmdk' if present"),
    ("compat6", BOOL, "VMDK version 6 image"),
    ("hwversion", STR, "VMDK hardware version"),
    DISK,
    (
        "subformat",
        STR,
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | \
         twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
    ),
    ("toolsversion", STR, "VMware guest tools version"),
    ("zeroed_grain", BOOL, "Enable efficient zero writes using the zeroed-grain GTE feature"),
];

const VDI: &[Row] = &[DISK, ("static", BOOL, "VDI static (pre-allocated) image")];

const VPC: &[Row] = &[
    (
        "force_size",
        BOOL,
        "Force disk size calculation to use the actual size specified, rather than using the \
         nearest CHS-based calculation",
    ),
    DISK,
    (
        "subformat",
        STR,
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
    ),
];

const VHDX: &[Row] = &[
    (
        "block_size",
        BYTES,
        "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
    ),
    (
        "block_state_zero",
        BOOL,
        "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to \
         'off' when using 'qemu-img convert' with subformat=dynamic.",
    ),
    ("log_size", BYTES, "Log size; min 1MB."),
    ("size", BYTES, "Virtual disk size; max of 64TB."),
    (
        "subformat",
        STR,
        "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
    ),
];

const PARALLELS: &[Row] = &[("cluster_size", BYTES, "Parallels image cluster size"), DISK];

const QED: &[Row] = &[
    BACKING_FILE,
    BACKING_FMT,
    ("cluster_size", BYTES, "Cluster size (in bytes)"),
    DISK,
    ("table_size", BYTES, "L1/L2 table size (in clusters)"),
];

const LUKS: &[Row] = &[
    ("cipher-alg", STR, "Name of encryption cipher algorithm"),
    ("cipher-mode", STR, "Name of encryption cipher mode"),
    ("detached-header", BOOL, "Create a detached LUKS header"),
    ("hash-alg", STR, "Name of encryption hash algorithm"),
    ("iter-time", NUM, "Time to spend in PBKDF in milliseconds"),
    ("ivgen-alg", STR, "Name of IV generator algorithm"),
    ("ivgen-hash-alg", STR, "Name of IV generator hash algorithm"),
    ("key-secret", STR, "ID of the secret that provides the keyslot passphrase"),
    DISK,
];

/// What the file has below any format.
const FILE: &[Row] = &[
    ("extent_size_hint", BYTES, "Extent size hint for the image file, 0 to disable"),
    ("nocow", BOOL, "Turn off copy-on-write (valid only on btrfs)"),
    ("preallocation", STR, "Preallocation mode (allowed values: off, falloc, full)"),
    DISK,
];

fn rows(format: Format) -> Option<&'static [Row]> {
    Some(match format {
        Format::Raw => &[DISK],
        Format::Qcow2 => QCOW2,
        Format::Image(format) => match format {
            ImageFormat::Vmdk => VMDK,
            ImageFormat::Vdi => VDI,
            ImageFormat::Vpc => VPC,
            ImageFormat::Vhdx => VHDX,
            ImageFormat::Parallels => PARALLELS,
            ImageFormat::Qed => QED,
            ImageFormat::Luks => LUKS,
            ImageFormat::Qcow | ImageFormat::Dmg | ImageFormat::Cloop | ImageFormat::Bochs => {
                return None;
            }
        },
    })
}

/// The lines of a list of options.
pub(super) fn lines(rows: &[(&str, &str, &str)], out: &mut String) {
    for (name, kind, help) in rows {
        let left = format!("{name}=<{kind}>");
        let _ = writeln!(out, "  {left:<22} - {help}");
    }
}

/// What is printed for a format, with a file's name given or without.
///
/// # Errors
///
/// qemu-img's sentence about a format in which nothing is created.
pub fn text(format: Format, with_file: bool) -> Result<String, String> {
    let name = format.name();
    let rows = rows(format)
        .ok_or_else(|| format!("Format driver '{name}' does not support image creation"))?;
    if with_file {
        let mut all: Vec<Row> = rows.to_vec();
        all.extend(FILE.iter().filter(|(name, ..)| rows.iter().all(|(known, ..)| known != name)));
        all.sort_unstable_by_key(|(name, ..)| *name);
        let mut out = String::from("Supported options:\n");
        lines(&all, &mut out);
        return Ok(out);
    }
    let mut out = format!("Supported {name} options:\n");
    lines(rows, &mut out);
    out.push_str(
        "\nThe protocol level may support further options.\nSpecify the target filename to \
         include those options.\n",
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_names_and_say_what_they_are_for() {
        for name in Format::NAMES.iter().chain(&["luks"]) {
            let Some(rows) = Format::called(name).and_then(rows) else { continue };
            assert!(rows.is_sorted_by_key(|(name, ..)| *name), "{name}");
        }
        let text = text(Format::Raw, false).unwrap();
        assert!(text.starts_with("Supported raw options:\n  size=<size>            - Virtual"));
        assert!(super::text(Format::Image(ImageFormat::Dmg), false).is_err());
        let with_file = super::text(Format::Qcow2, true).unwrap();
        assert_eq!(with_file.matches("preallocation=").count(), 1);
        assert!(with_file.contains("nocow=<bool (on/off)>  - Turn"));
    }
}
