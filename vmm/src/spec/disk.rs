//! The short form of a disk: `--disk FILE[,key=value…]` becomes a node, a device and, where it
//! names one, an iothread.
use super::block::DRIVERS;
use super::device::{BLOCK_SIZE, QUEUE_SIZE, RERROR, WERROR};
use super::error::SpecError;
use super::format::{self, Format, Look};
use super::keyval::Options;
use super::props::{Kind, Mode, Table, prop};
use serde_json::{Map, Value, json};
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
        prop("queue-size", QUEUE_SIZE, "entries per queue").or("256"),
        prop("iothread", Kind::Id, "iothread that serves it, made if need be; default: its own"),
        prop("cache", Kind::Enum(&CACHE_MODES), "use of the host's page cache").or("writeback"),
        prop("aio", Kind::Enum(&["io_uring", "threads"]), "engine").or("io_uring"),
        prop("discard", Kind::Enum(&["unmap", "ignore"]), "what becomes of discards").or("unmap"),
        prop("detect-zeroes", Kind::Enum(&["off", "on", "unmap"]), "make zero writes sparse")
            .or("off"),
        prop("readonly", Kind::Bool, "refuse writes").alias(&["read-only"]).or("off"),
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
const FORMS: [(&str, Form); 1] = [("virtio-blk", virtio_blk)];
const CONTROLLERS: &[&str] = &{
    let mut names = [""; FORMS.len()];
    let mut i = 0;
    while i < FORMS.len() {
        names[i] = FORMS[i].0;
        i += 1;
    }
    names
};

/// Makes the devices of a disk called `id`, whose node is called so too.
type Form = fn(&Checked<'_>) -> Vec<Options>;

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
}

impl Checked<'_> {
    fn get(&self, key: &str) -> Value {
        self.options.get(key).cloned().unwrap_or(Value::Null)
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
pub(super) fn lower(options: Options, id: &str, files: &dyn Look) -> Result<LongForm, SpecError> {
    let disk = DISK.apply(options, Mode::Lenient)?;
    let get = |key: &str| disk.get(key).cloned().unwrap_or(Value::Null);
    let text = |key: &str| disk.get(key).and_then(Value::as_str);
    let path = Path::new(text("file").unwrap_or_default());
    let format = match text("format") {
        Some("qcow2") => Format::Qcow2,
        Some(_) => Format::Raw,
        None => format::of_file(files, path)?,
    };
    let protocol = if format::look(files, path)?.block_device { "host_device" } else { "file" };
    debug_assert!(DRIVERS.iter().any(|t| t.name == protocol));
    let id = own_id(&disk).unwrap_or(id);
    let (write_cache, direct, no_flush) = cache(text("cache").unwrap_or_default());
    let blockdev = json!({
        "driver": format.name(),
        "node-name": id,
        "read-only": get("readonly"),
        "discard": get("discard"),
        "detect-zeroes": get("detect-zeroes"),
        "cache": {"direct": direct, "no-flush": no_flush},
        "file": {"driver": protocol, "filename": get("file"), "aio": get("aio")},
    });
    let form = FORMS.iter().find(|(name, _)| Some(*name) == text("controller"));
    let checked = Checked { id, options: &disk, write_cache };
    let devices = form.map(|(_, form)| form(&checked)).unwrap_or_default();
    let iothread = text("iothread").map(str::to_owned);
    Ok(LongForm { blockdev: object(blockdev), devices, iothread })
}

fn virtio_blk(disk: &Checked<'_>) -> Vec<Options> {
    let mut device = json!({
        "driver": "virtio-blk-pci",
        "id": disk.id,
        "drive": disk.id,
        "queue-size": disk.get("queue-size"),
        "logical_block_size": disk.get("logical-block-size"),
        "physical_block_size": disk.get("physical-block-size"),
        "werror": disk.get("werror"),
        "rerror": disk.get("rerror"),
        "write-cache": disk.write_cache,
    });
    let same = ["iothread", "serial", "bootindex"].map(|name| (name, name));
    disk.pass(&mut device, &same);
    disk.pass(&mut device, &[("queues", "num-queues")]);
    vec![object(device)]
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
