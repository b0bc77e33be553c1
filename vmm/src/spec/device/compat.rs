//! Properties of QEMU's devices that have but one meaning here: they are accepted with it, or whatever
//! they say where it cannot be told from outside, and refused with a reason otherwise. No device has
//! them in its table, so `help` does not show them.
use super::super::SpecError;
use super::super::keyval::Options;
use super::super::props::{Kind, Mode, Prop, Table, apply, prop};
use super::common::U32;
use serde_json::{Map, Value};

const ANY: Kind = Kind::Uint { min: 0, max: u64::MAX };
const ZERO: Kind = Kind::Uint { min: 0, max: 0 };
const ANY_U32: Kind = Kind::Uint { min: 0, max: U32 };
const OFF: Kind = Kind::Only(false);
const ON: Kind = Kind::Only(true);

const fn off(name: &'static str) -> Prop {
    prop(name, OFF, "never")
}

const fn on(name: &'static str) -> Prop {
    prop(name, ON, "always")
}

/// Of every PCI function.
const PCI: &[Prop] = &[
    prop("acpi-index", ZERO, "none"),
    prop("failover_pair_id", Kind::Enum(&[""]), "none"),
    off("multifunction"),
    prop("rombar", Kind::Uint { min: 0, max: 1 }, "there is no ROM"),
    prop("romfile", Kind::Enum(&[""]), "there is no ROM"),
    prop("romsize", ANY_U32, "there is no ROM"),
    on("x-pcie-extcap-init"),
    on("x-pcie-lnksta-dllla"),
];

/// Of every virtio function. What concerns legacy drivers or migration may be said either way.
const VIRTIO: &[Prop] = &[
    off("aer"),
    on("any_layout"),
    off("ats"),
    prop("disable-legacy", Kind::Enum(&["on", "auto"]), "modern only"),
    off("disable-modern"),
    on("ioeventfd"),
    off("iommu_platform"),
    prop("migrate-extra", Kind::Bool, "there is no migration"),
    off("modern-pio-notify"),
    prop("notify_on_empty", Kind::Bool, "for legacy drivers"),
    off("packed"),
    off("page-per-vq"),
    prop("use-disabled-flag", Kind::Bool, "for migration"),
    prop("use-started", Kind::Bool, "for migration"),
    prop("virtio-pci-bus-master-bug-migration", Kind::Bool, "for migration"),
    prop("x-ats-page-aligned", Kind::Bool, "there is no ATS"),
    prop("x-disable-legacy-check", Kind::Bool, "modern only"),
    off("x-disable-pcie"),
    off("x-ignore-backend-features"),
    on("x-pcie-deverr-init"),
    on("x-pcie-flr-init"),
    on("x-pcie-lnkctl-init"),
    on("x-pcie-pm-init"),
];

/// Of everything with a drive.
const DRIVE: &[Prop] = &[
    prop("account-failed", Kind::Enum(&["auto", "on"]), "always"),
    prop("account-invalid", Kind::Enum(&["auto", "on"]), "always"),
    prop("backend_defaults", Kind::Enum(&["auto"]), "by device"),
];

/// The geometry that a BIOS makes up; there is none to read it.
const BIOS: &[Prop] = &[
    prop("lcyls", ANY_U32, "no BIOS asks"),
    prop("lheads", ANY_U32, "no BIOS asks"),
    prop("lsecs", ANY_U32, "no BIOS asks"),
];

const VIRTIO_BLK: &[Prop] = &[
    prop("class", Kind::Enum(&["0", "0x0100", "0x100", "256"]), "SCSI storage controller"),
    prop("request-merging", Kind::Bool, "requests are not merged"),
    off("scsi"),
    on("x-enable-wce-if-config-wce"),
];

const SCSI: &[Prop] = &[
    prop("channel", ZERO, "there is one"),
    off("quirk_mode_page_apple_vendor"),
    off("quirk_mode_page_truncated"),
    off("quirk_mode_page_vendor_specific_apple"),
    off("quirk_mode_sense_rom_use_dbd"),
];

/// Of a disk. FUA is always offered, which costs a guest nothing that it does not ask for; the mode pages
/// that had the geometry are obsolete since SBC-3.
const SCSI_HD: &[Prop] = &[
    prop("cyls", ANY_U32, "no page tells"),
    prop("heads", ANY_U32, "no page tells"),
    prop("secs", ANY_U32, "no page tells"),
    prop("dpofua", Kind::Bool, "always"),
];

/// Of a drive that only reads, and whose sectors are those of its medium.
const CD: &[Prop] = &[
    prop("discard_granularity", ANY, "nothing is discarded"),
    prop("logical_block_size", Kind::Enum(&["0", "2048"]), "the medium's"),
    prop("physical_block_size", Kind::Enum(&["0", "2048"]), "the medium's"),
    prop("min_io_size", ANY, "not told"),
    prop("opt_io_size", ANY, "not told"),
    prop("share-rw", Kind::Bool, "it only reads"),
    prop("werror", super::WERROR, "nothing is written"),
    prop("write-cache", Kind::OnOffAuto, "nothing is written"),
];

/// ATA has no words for these.
const IDE_HD: &[Prop] = &[
    prop("bios-chs-trans", Kind::Enum(&["auto", "none", "lba", "large", "rechs"]), "no BIOS asks"),
    prop("discard_granularity", ANY, "not told"),
    prop("min_io_size", ANY, "not told"),
    prop("opt_io_size", ANY, "not told"),
];

/// What QEMU's controller has beside the specification that this one follows.
const NVME: &[Prop] = &[
    prop("aer_max_queued", ANY_U32, "events of one kind are told once"),
    prop("cmb_size_mb", ZERO, "none"),
    off("msix-exclusive-bar"),
    prop("smart_critical_warning", ZERO, "as the device is"),
    prop("sriov_max_vfs", ZERO, "none"),
    prop("sriov_max_vi_per_vf", ZERO, "none"),
    prop("sriov_max_vq_per_vf", ZERO, "none"),
    prop("sriov_vi_flexible", ZERO, "none"),
    prop("sriov_vq_flexible", ZERO, "none"),
    prop("vsl", ANY, "as for mdts"),
    prop("zoned.auto_transition", Kind::Bool, "no zones"),
    prop("zoned.zasl", ANY, "no zones"),
];

const NVME_NS: &[Prop] = &[
    prop("eui64-default", Kind::Bool, "it always has one"),
    prop("mcl", ANY, "as large as they come"),
    prop("ms", ZERO, "no metadata"),
    prop("mset", ZERO, "no metadata"),
    prop("msrc", ANY, "as many as they come"),
    prop("mssrl", ANY, "as large as they come"),
    prop("pi", ZERO, "no protection information"),
    prop("pif", ZERO, "no protection information"),
    prop("pil", ZERO, "no protection information"),
    off("zoned"),
    prop("zoned.cross_read", Kind::Bool, "no zones"),
    prop("zoned.descr_ext_size", ANY, "no zones"),
    prop("zoned.max_active", ANY, "no zones"),
    prop("zoned.max_open", ANY, "no zones"),
    prop("zoned.numzrwa", ANY, "no zones"),
    prop("zoned.zone_capacity", Kind::Size { min: 0, max: u64::MAX }, "no zones"),
    prop("zoned.zone_size", Kind::Size { min: 0, max: u64::MAX }, "no zones"),
    prop("zoned.zrwafg", Kind::Size { min: 0, max: u64::MAX }, "no zones"),
    prop("zoned.zrwas", Kind::Size { min: 0, max: u64::MAX }, "no zones"),
];

const SDHCI: &[Prop] = &[prop("vendor", ZERO, "none has quirks")];
const SD: &[Prop] = &[off("spi")];

/// The rows that a device takes beside those of its table.
fn rows(driver: &str) -> &'static [&'static [Prop]] {
    match driver {
        "virtio-blk-pci" => &[PCI, VIRTIO, DRIVE, BIOS, VIRTIO_BLK],
        "virtio-scsi-pci" | "virtio-rng-pci" => &[PCI, VIRTIO],
        "scsi-hd" => &[DRIVE, BIOS, SCSI, SCSI_HD],
        "scsi-cd" => &[DRIVE, SCSI, CD],
        "ide-hd" => &[DRIVE, BIOS, IDE_HD],
        "ide-cd" => &[DRIVE, CD],
        "nvme" => &[PCI, DRIVE, NVME],
        "nvme-ns" => &[DRIVE, NVME_NS],
        "sdhci-pci" => &[PCI, SDHCI],
        "sd-card" => &[SD],
        "ich9-ahci" | "piix3-ide" | "piix4-ide" => &[PCI],
        _ => &[],
    }
}

/// The row of `driver` for `name`, if it is one of these.
pub(in crate::spec) fn row(driver: &str, name: &str) -> Option<&'static Prop> {
    rows(driver).iter().copied().flatten().find(|row| row.answers_to(name))
}

/// Checks those of `options` that are such properties and takes them out.
///
/// # Errors
///
/// One has a value that is not supported.
pub(in crate::spec) fn take(
    table: &Table,
    options: Options,
    mode: Mode,
) -> Result<Options, SpecError> {
    let of = format!("{} '{}'", table.what, table.name);
    let mut rest = Map::new();
    for (name, value) in flatten(table.name, options) {
        match row(table.name, &name) {
            Some(row) if !table.props.iter().any(|own| own.answers_to(&name)) => {
                apply(&of, std::slice::from_ref(row), Map::from_iter([(name, value)]), mode)?;
            }
            _ => {
                rest.insert(name, value);
            }
        }
    }
    Ok(rest)
}

/// `zoned.zone_size=…` arrives as an object within `zoned`: QEMU's name has the dot.
fn flatten(driver: &str, options: Options) -> Vec<(String, Value)> {
    let mut flat = Vec::with_capacity(options.len());
    for (name, value) in options {
        match value {
            Value::Object(inner) if row(driver, &name).is_some() || name == "zoned" => {
                flat.extend(inner.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => flat.push((name, value)),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(name: &str, value: Value) -> Result<Options, SpecError> {
        let options = Map::from_iter([(name.to_owned(), value)]);
        take(&super::super::VIRTIO_BLK_PCI, options, Mode::Lenient)
    }

    #[test]
    fn the_one_meaning_is_taken_and_another_refused() {
        assert!(given("packed", json!("off")).unwrap().is_empty());
        assert!(given("packed", json!(false)).unwrap().is_empty());
        let text = given("packed", json!("on")).unwrap_err().to_string();
        assert!(text.contains("packed") && text.contains("'on' is not supported"), "{text}");
        assert!(given("x-disable-pcie", json!("maybe")).is_err());
    }

    #[test]
    fn others_are_left_to_the_table() {
        let rest = given("serial", json!("a")).unwrap();
        assert_eq!(rest.get("serial"), Some(&json!("a")));
    }
}
