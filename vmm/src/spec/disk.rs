//! The short form of a disk: `--disk FILE[,key=value…]` becomes a node, a device and, where it
//! names one, an iothread.
use super::MachineSpec;
use super::block::DRIVERS;
use super::device::{
    BLOCK_SIZE, DeviceSpec, QUEUE_SIZE, RERROR, WERROR, free_place, free_port, piix,
};
use super::error::SpecError;
use super::format::{self, Format, Look};
use super::keyval::Options;
use super::nodes::device_from_options;
use super::props::{Kind, Mode, Table, prop};
use serde_json::{Map, Value, json};
use spindle_block::formats::ImageFormat;
use std::collections::HashSet;
use std::path::Path;

/// The keys of `--disk`.
pub const DISK: Table = Table {
    what: "option",
    name: "--disk",
    help: "disk from an image file",
    props: &[
        prop("file", Kind::Path, "image file or block device").required(),
        prop("format", Kind::Enum(Format::NAMES), "image format; default: by the file's ending"),
        prop("id", Kind::Id, "name of node and device; default: disk0, disk1, …"),
        prop("controller", Kind::Enum(CONTROLLERS), "controller the guest sees").or("virtio-blk"),
        prop("queues", Kind::Uint { min: 1, max: 1024 }, "queues; default: vCPUs, up to 8")
            .alias(&["num-queues"]),
        prop("queue-size", QUEUE_SIZE, "entries per queue; default: the controller's"),
        prop("target", Kind::Uint { min: 0, max: 255 }, "SCSI target; default: the first free one"),
        prop("lun", Kind::Uint { min: 0, max: 16383 }, "SCSI unit; default: the first free one"),
        prop(
            "port",
            Kind::Uint { min: 0, max: 31 },
            "AHCI port or IDE channel; default: the first free one",
        ),
        prop("unit", Kind::Uint { min: 0, max: 1 }, "IDE drive of the channel that port= names"),
        prop("model", Kind::Enum(&["piix3", "piix4"]), "IDE controller; piix4 has Ultra DMA"),
        prop(
            "geometry",
            Kind::Str { len_max: 16 },
            "IDE cylinders/heads/sectors; default: by size",
        ),
        prop("media", Kind::Enum(&["disk", "cdrom"]), "a disk, or a CD/DVD drive with this in it"),
        prop(
            "state",
            Kind::Path,
            "file for reservations and the like, or none; default: FILE.state",
        ),
        prop("iothread", Kind::Id, "iothread that serves it, made if need be; default: its own"),
        prop("cache", Kind::Enum(&CACHE_MODES), "use of the host's page cache").or("writeback"),
        prop("aio", Kind::Enum(&["io_uring", "threads"]), "engine").or("io_uring"),
        prop("discard", Kind::Enum(&["unmap", "ignore"]), "what becomes of discards").or("unmap"),
        prop("detect-zeroes", Kind::Enum(&["off", "on", "unmap"]), "make zero writes sparse")
            .or("off"),
        prop("readonly", Kind::Bool, "refuse writes").alias(&["read-only"]).or("off"),
        prop("key-secret", Kind::Str { len_max: 127 }, "secret object that unlocks the image"),
        prop("serial", Kind::Str { len_max: 20 }, "serial number"),
        prop("logical-block-size", BLOCK_SIZE, "sector size; 0: the image's")
            .alias(&["logical_block_size"])
            .or("0"),
        prop("physical-block-size", BLOCK_SIZE, "physical sector size; 0: the image's")
            .alias(&["physical_block_size"])
            .or("0"),
        prop("bootindex", Kind::Uint { min: 0, max: i32::MAX as u64 }, "place in the boot order"),
        prop("werror", WERROR, "on a failed write").or("enospc"),
        prop("rerror", RERROR, "on a failed read").or("report"),
    ],
};

/// The controllers a disk can be behind, and what puts it there.
const FORMS: [Form; 7] = [
    Form { name: "virtio-blk", own: &[], lower: virtio_blk },
    Form { name: "virtio-scsi", own: &["target", "lun", "media", "state"], lower: virtio_scsi },
    Form { name: "nvme", own: &["state"], lower: nvme },
    Form { name: "ide", own: &["port", "unit", "model", "geometry", "media", "state"], lower: ide },
    Form { name: "ahci", own: &["port", "media", "state"], lower: ahci },
    Form { name: "sd", own: &["state"], lower: sd_card },
    Form { name: "emmc", own: &["state"], lower: emmc },
];
const CONTROLLERS: &[&str] = &{
    let mut names = [""; FORMS.len()];
    let mut i = 0;
    while i < FORMS.len() {
        names[i] = FORMS[i].name;
        i += 1;
    }
    names
};

/// One controller.
struct Form {
    name: &'static str,
    /// Those of [`SOME`] that it takes.
    own: &'static [&'static str],
    /// Makes the devices of a disk whose node has the disk's name: those that others sit on first.
    lower: fn(&Checked<'_>, &MachineSpec) -> Result<Vec<Options>, SpecError>,
}

/// Keys that not every controller takes.
const SOME: [&str; 8] = ["target", "lun", "port", "unit", "model", "geometry", "media", "state"];

/// QEMU's cache modes.
const CACHE_MODES: [&str; 5] = ["writeback", "none", "writethrough", "directsync", "unsafe"];

/// What a disk in short form becomes.
pub(super) struct LongForm {
    pub(super) blockdev: Options,
    /// Devices, those that others sit on first.
    pub(super) devices: Vec<Options>,
    /// The iothread it names.
    pub(super) iothread: Option<String>,
}

/// A disk's options after they went through the table.
struct Checked<'a> {
    id: &'a str,
    options: &'a Options,
    write_cache: bool,
    /// Names that are taken, now or later.
    ids: &'a HashSet<String>,
}

impl Checked<'_> {
    fn get(&self, key: &str) -> Value {
        self.options.get(key).cloned().unwrap_or(Value::Null)
    }

    fn text(&self, key: &str) -> &str {
        self.options.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Adds to `device` those of the options that were given, under the names they have there.
    fn pass(&self, device: &mut Value, names: &[(&str, &str)]) {
        for (key, name) in names {
            if let Some(value) = self.options.get(*key) {
                device[name] = value.clone();
            }
        }
    }
}

/// The id that a disk gives itself, if any.
pub(super) fn own_id(options: &Options) -> Option<&str> {
    options.get("id").and_then(Value::as_str)
}

/// Lowers one disk; `id` is its name if it has none of its own.
/// `spec` is what there is before it.
pub(super) fn lower(
    options: Options,
    id: &str,
    spec: &MachineSpec,
    ids: &HashSet<String>,
    files: &dyn Look,
) -> Result<LongForm, SpecError> {
    let disk = DISK.apply(options, Mode::Lenient)?;
    let get = |key: &str| disk.get(key).cloned().unwrap_or(Value::Null);
    let text = |key: &str| disk.get(key).and_then(Value::as_str);
    let path = Path::new(text("file").unwrap_or_default());
    let format = match text("format") {
        Some(name) => Format::called(name).unwrap_or(Format::Raw),
        None => format::of_file(files, path)?,
    };
    let protocol = if format::look(files, path)?.block_device { "host_device" } else { "file" };
    debug_assert!(DRIVERS.iter().any(|t| t.name == protocol));
    let id = own_id(&disk).unwrap_or(id);
    let (write_cache, direct, no_flush) = cache(text("cache").unwrap_or_default());
    let read_only = if text("media") == Some("cdrom") { json!(true) } else { get("readonly") };
    let mut blockdev = json!({
        "driver": format.name(),
        "node-name": id,
        "read-only": read_only,
        "discard": get("discard"),
        "detect-zeroes": get("detect-zeroes"),
        "cache": {"direct": direct, "no-flush": no_flush},
        "file": {"driver": protocol, "filename": get("file"), "aio": get("aio")},
    });
    if let Some(id) = text("key-secret") {
        match format {
            Format::Image(ImageFormat::Luks) => blockdev["key-secret"] = id.into(),
            Format::Qcow2 => blockdev["encrypt"] = json!({ "key-secret": id }),
            other => {
                let reason = format!("a {} image is not encrypted", other.name());
                return Err(SpecError::bad("--disk", "key-secret", reason));
            }
        }
    }
    let controller = text("controller").unwrap_or_default();
    let form = FORMS.iter().find(|form| form.name == controller).unwrap_or(&FORMS[0]);
    if let Some(key) = SOME.iter().find(|key| disk.contains_key(**key) && !form.own.contains(key)) {
        let reason = format!("a disk with controller={controller} has none");
        return Err(SpecError::bad("--disk", key, reason));
    }
    let devices = (form.lower)(&Checked { id, options: &disk, write_cache, ids }, spec)?;
    let iothread = text("iothread").map(str::to_owned);
    Ok(LongForm { blockdev: object(blockdev), devices, iothread })
}

/// Options that every disk's device has.
fn device(driver: &str, disk: &Checked<'_>) -> Value {
    let mut device = json!({
        "driver": driver,
        "id": disk.id,
        "drive": disk.id,
        "logical_block_size": disk.get("logical-block-size"),
        "werror": disk.get("werror"),
        "rerror": disk.get("rerror"),
        "write-cache": disk.write_cache,
    });
    disk.pass(&mut device, &["serial", "bootindex"].map(|name| (name, name)));
    device
}

fn virtio_blk(disk: &Checked<'_>, _spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    let mut device = device("virtio-blk-pci", disk);
    device["physical_block_size"] = disk.get("physical-block-size");
    let names = [("iothread", "iothread"), ("queue-size", "queue-size"), ("queues", "num-queues")];
    disk.pass(&mut device, &names);
    Ok(vec![object(device)])
}

/// A controller for each disk.
fn nvme(disk: &Checked<'_>, _spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    let mut device = device("nvme", disk);
    if disk.get("physical-block-size") != json!(0) {
        let reason = "a disk with controller=nvme has none";
        return Err(SpecError::bad("--disk", "physical-block-size", reason));
    }
    device["max_ioqpairs"] = json!(0);
    let names = [("iothread", "iothread"), ("queues", "max_ioqpairs"), ("state", "state")];
    disk.pass(&mut device, &names);
    if let Some(entries) = disk.options.get("queue-size").and_then(Value::as_u64) {
        device["mqes"] = json!(entries.saturating_sub(1));
    }
    Ok(vec![object(device)])
}

fn sd_card(disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    card("sd-card", disk, spec)
}

fn emmc(disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    card("emmc", disk, spec)
}

/// A controller for each card: it has one slot.
fn card(driver: &str, disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    let none = |key: &str| {
        let reason = format!("a disk with controller={} has none", disk.text("controller"));
        Err(SpecError::bad("--disk", key, reason))
    };
    for key in ["queues", "queue-size"] {
        if disk.options.contains_key(key) {
            return none(key);
        }
    }
    for key in ["logical-block-size", "physical-block-size"] {
        if disk.get(key) != json!(0) {
            return none(key);
        }
    }
    let taken = |id: &str| disk.ids.contains(id) || spec.device(id).is_some();
    let free = (0..).map(|n| format!("sdhci{n}")).find(|id| !taken(id)).unwrap_or_default();
    let mut controller = json!({"driver": "sdhci-pci", "id": free});
    disk.pass(&mut controller, &[("iothread", "iothread")]);
    let mut device = device(driver, disk);
    if let Value::Object(options) = &mut device {
        options.remove("logical_block_size");
    }
    device["bus"] = json!(format!("{free}.0"));
    disk.pass(&mut device, &[("state", "state")]);
    Ok(vec![object(controller), object(device)])
}

/// Disks share an adapter unless they want it otherwise.
fn virtio_scsi(disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    let mut adapter = json!({"driver": "virtio-scsi-pci"});
    let names =
        [("iothread", "iothread"), ("queue-size", "virtqueue_size"), ("queues", "num_queues")];
    disk.pass(&mut adapter, &names);
    let adapter = object(adapter);
    let mut devices = Vec::new();
    let mut bus = None;
    for there in &spec.devices {
        if device_from_options(adapter.clone(), there.id(), Mode::Lenient)? == *there {
            bus = Some(there.id().to_owned());
        }
    }
    let bus = bus.unwrap_or_else(|| {
        let taken = |id: &str| disk.ids.contains(id) || spec.device(id).is_some();
        let free = (0..).map(|n| format!("scsi{n}")).find(|id| !taken(id)).unwrap_or_default();
        let mut adapter = adapter;
        adapter.insert("id".to_owned(), Value::from(&*free));
        devices.push(adapter);
        free
    });
    let mut device = if disk.get("media") == "cdrom" {
        let mut drive = json!({
            "driver": "scsi-cd", "id": disk.id, "drive": disk.id, "rerror": disk.get("rerror"),
        });
        disk.pass(&mut drive, &["serial", "bootindex"].map(|name| (name, name)));
        drive
    } else {
        let mut device = device("scsi-hd", disk);
        device["physical_block_size"] = disk.get("physical-block-size");
        disk.pass(&mut device, &[("state", "state")]);
        device
    };
    device["bus"] = json!(format!("{bus}.0"));
    disk.pass(&mut device, &[("target", "scsi-id"), ("lun", "lun")]);
    devices.push(object(device));
    Ok(devices)
}

/// All share the one controller at the legacy ports.
fn ide(disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    for key in ["queues", "queue-size"] {
        if disk.options.contains_key(key) {
            let reason = "a disk with controller=ide has none";
            return Err(SpecError::bad("--disk", key, reason));
        }
    }
    let mut devices = Vec::new();
    let there = spec.devices.iter().find(|device| piix(device).is_some());
    let number = |key: &str| disk.options.get(key).and_then(Value::as_u64);
    let (port, unit) = (number("port"), number("unit").and_then(|unit| u8::try_from(unit).ok()));
    let (controller, free) = match there {
        Some(device) => {
            let wanted = disk.options.get("model").and_then(Value::as_str);
            if wanted.is_some_and(|model| !device.driver().starts_with(model)) {
                let reason = format!("there is one controller, '{}'", device.driver());
                return Err(SpecError::bad("--disk", "model", reason));
            }
            (device.id().to_owned(), free_place(spec, device, unit))
        }
        None => {
            let taken = |id: &str| disk.ids.contains(id) || spec.device(id).is_some();
            let names = std::iter::once("ide".to_owned()).chain((0..).map(|n| format!("ide{n}")));
            let id = names.into_iter().find(|id| !taken(id)).unwrap_or_default();
            let model = disk.options.get("model").and_then(Value::as_str).unwrap_or("piix3");
            let mut controller = json!({"driver": format!("{model}-ide"), "id": id});
            disk.pass(&mut controller, &[("iothread", "iothread")]);
            devices.push(object(controller));
            (id, Some((0, unit.unwrap_or(0))))
        }
    };
    let place = match (port, free) {
        (Some(port), _) => Some((port, unit.unwrap_or(0))),
        (None, Some((port, unit))) => Some((port.into(), unit)),
        (None, None) => None,
    };
    let Some((port, unit)) = place else {
        let reason =
            format!("all places of '{controller}' are taken: two channels, two drives each");
        return Err(SpecError::bad("--disk", "controller", reason));
    };
    let mut device = if disk.get("media") == "cdrom" {
        let mut drive = json!({
            "driver": "ide-cd", "id": disk.id, "drive": disk.id, "rerror": disk.get("rerror"),
        });
        disk.pass(&mut drive, &["serial", "bootindex"].map(|name| (name, name)));
        drive
    } else {
        let mut device = device("ide-hd", disk);
        device["physical_block_size"] = disk.get("physical-block-size");
        disk.pass(&mut device, &[("state", "state")]);
        if let Some(text) = disk.options.get("geometry").and_then(Value::as_str) {
            let numbers: Vec<u64> = text.split('/').filter_map(|n| n.parse().ok()).collect();
            let [cylinders, heads, sectors] = numbers[..] else {
                let reason = format!("'{text}' is not CYLINDERS/HEADS/SECTORS");
                return Err(SpecError::bad("--disk", "geometry", reason));
            };
            (device["cyls"], device["heads"], device["secs"]) =
                (json!(cylinders), json!(heads), json!(sectors));
        }
        device
    };
    device["bus"] = json!(format!("{controller}.{port}"));
    device["unit"] = json!(unit);
    devices.push(object(device));
    Ok(devices)
}

/// Disks share a controller unless they want it otherwise, or its ports are taken.
fn ahci(disk: &Checked<'_>, spec: &MachineSpec) -> Result<Vec<Options>, SpecError> {
    for key in ["queues", "queue-size"] {
        if disk.options.contains_key(key) {
            let reason = "a disk with controller=ahci has none";
            return Err(SpecError::bad("--disk", key, reason));
        }
    }
    let mut controller = json!({"driver": "ich9-ahci"});
    disk.pass(&mut controller, &[("iothread", "iothread")]);
    let controller = object(controller);
    let wanted = disk.options.get("port").and_then(Value::as_u64);
    let mut devices = Vec::new();
    let mut bus = None;
    for there in &spec.devices {
        let DeviceSpec::Ich9Ahci(ahci) = there else { continue };
        let same = device_from_options(controller.clone(), &ahci.id, Mode::Lenient)? == *there;
        let port = match wanted {
            Some(port) => u16::try_from(port).ok(),
            None => free_port(spec, &ahci.id, ahci.ports),
        };
        if let Some(port) = port.filter(|_| same) {
            bus = Some(format!("{}.{port}", ahci.id));
            break;
        }
    }
    let bus = bus.unwrap_or_else(|| {
        let taken = |id: &str| disk.ids.contains(id) || spec.device(id).is_some();
        let free = (0..).map(|n| format!("ahci{n}")).find(|id| !taken(id)).unwrap_or_default();
        let mut controller = controller;
        controller.insert("id".to_owned(), Value::from(&*free));
        devices.push(controller);
        format!("{free}.{}", wanted.unwrap_or(0))
    });
    let mut device = if disk.get("media") == "cdrom" {
        let mut drive = json!({
            "driver": "ide-cd", "id": disk.id, "drive": disk.id, "rerror": disk.get("rerror"),
        });
        disk.pass(&mut drive, &["serial", "bootindex"].map(|name| (name, name)));
        drive
    } else {
        let mut device = device("ide-hd", disk);
        device["physical_block_size"] = disk.get("physical-block-size");
        disk.pass(&mut device, &[("state", "state")]);
        device
    };
    device["bus"] = json!(bus);
    devices.push(object(device));
    Ok(devices)
}

/// `write-cache`, `cache.direct` and `cache.no-flush` of a cache mode (QEMU's `-drive cache=`).
fn cache(mode: &str) -> (bool, bool, bool) {
    match mode {
        "none" => (true, true, false),
        "writethrough" => (false, false, false),
        "directsync" => (false, true, false),
        "unsafe" => (true, false, true),
        _ => (true, false, false),
    }
}

fn object(value: Value) -> Options {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
