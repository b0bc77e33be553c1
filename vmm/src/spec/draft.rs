//! A machine as it is being described, and how it becomes a [`MachineSpec`].
use super::block::{BlockdevSpec, DriverSpec};
use super::device::{CHIPSET, DeviceSpec, PciAddr, QueuesMut};
use super::disk;
use super::endpoint::{QmpSpec, QtestSpec, SerialSpec};
use super::error::SpecError;
use super::format::Look;
use super::keyval::Options;
use super::names::{did_you_mean, near};
use super::nodes::{device_from_options, node_from_options, object_from_options};
use super::object::ObjectSpec;
use super::props::{self, Kind, Mode, Prop, prop};
use super::{AccelSpec, Actions, MachineSpec, size};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// The most queues a disk gets without being asked.
const QUEUES_AUTO_MAX: u32 = 8;
/// How many disks, nodes, objects or devices one machine can be given.
const PARTS_MAX: usize = 4096;

/// A machine as it is being described: settings, and parts whose options are not yet checked.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The settings; its lists of objects, nodes and devices are ignored.
    pub settings: MachineSpec,
    /// Disks in short form.
    pub disks: Vec<Options>,
    /// Nodes.
    pub blockdevs: Vec<Options>,
    /// Objects.
    pub objects: Vec<Options>,
    /// Devices.
    pub devices: Vec<Options>,
}

const ACTIONS: &[Prop] = &[
    prop("reboot", Kind::Enum(&["reset", "shutdown"]), "when the guest reboots").or("reset"),
    prop("shutdown", Kind::Enum(&["poweroff", "pause"]), "when the guest powers off")
        .or("poweroff"),
    prop(
        "panic",
        Kind::Enum(&["pause", "shutdown", "exit-failure", "none"]),
        "when the guest panics",
    )
    .or("shutdown"),
];

/// The settings of a machine that are one value each.
pub const SETTINGS: &[Prop] = &[
    prop("accel", Kind::Enum(&["kvm", "qtest"]), "what drives the machine").or("kvm"),
    prop("qtest", Kind::Str { len_max: 4096 }, "socket that accel=qtest is driven from"),
    prop("qtest-log", Kind::Path, "file that shows what is said over it"),
    prop("kernel", Kind::Path, "kernel to start: bzImage or ELF"),
    prop("bios", Kind::Path, "firmware to start instead"),
    prop("firmware-log", Kind::Path, "file for the firmware's messages"),
    prop("initrd", Kind::Path, "initial RAM disk"),
    prop("append", Kind::Str { len_max: 2047 }, "the kernel's command line").or(""),
    prop("memory", Kind::Size { min: 16 << 20, max: 64 << 40 }, "guest memory").or("1G"),
    prop("cpus", Kind::Uint { min: 1, max: 4096 }, "virtual CPUs").or("1"),
    prop("serial", Kind::Str { len_max: 4096 }, "where the serial console goes").or("stdio"),
    prop("actions", Kind::Group(ACTIONS), "what ends or stops the machine"),
    prop("debug-exit", Kind::Uint { min: 1, max: 0xffff }, "debug-exit port"),
    prop("sandbox", Kind::Bool, "seccomp filters and io_uring restrictions").or("on"),
    prop("iothreads-max", Kind::Uint { min: 1, max: 1024 }, "iothreads made for disks").or("8"),
];

/// The lists of a configuration file.
const LISTS: &[&str] = &["qmp", "disks", "blockdevs", "objects", "devices"];

impl Draft {
    /// Makes a draft of a configuration file's content (TOML and JSON have the same keys: those
    /// that `--print-spec` shows, and `disks`, a list of disks in short form).
    ///
    /// # Errors
    ///
    /// An unknown key or a value that does not fit; `of` names the file.
    pub fn from_config(of: &str, content: Value) -> Result<Self, SpecError> {
        let Value::Object(map) = content else {
            return Err(SpecError::syntax(of, "it is not a table of settings"));
        };
        let mut draft = Self::default();
        let mut settings = Map::new();
        for (key, value) in map {
            match key.as_str() {
                "qmp" => {
                    for item in list(of, &key, value)? {
                        let text = item.as_str().ok_or_else(|| {
                            SpecError::bad(
                                of,
                                "qmp",
                                "its elements are texts: 'unix:PATH,server=on'",
                            )
                        })?;
                        draft.settings.qmp.push(QmpSpec::parse(text)?);
                    }
                }
                "disks" => draft.disks = disks(of, value)?,
                "blockdevs" => draft.blockdevs = objects(of, &key, value)?,
                "objects" => draft.objects = objects(of, &key, value)?,
                "devices" => draft.devices = objects(of, &key, value)?,
                _ => {
                    settings.insert(key, value);
                }
            }
        }
        if let Some(key) = settings.keys().find(|k| !SETTINGS.iter().any(|p| p.answers_to(k))) {
            let known = SETTINGS.iter().map(|p| p.name).chain(LISTS.iter().copied());
            return Err(SpecError::Unknown {
                of: of.to_owned(),
                what: "key",
                near: near(key, known),
                name: key.clone(),
            });
        }
        draft.set(of, settings)?;
        Ok(draft)
    }

    /// Sets the settings given in `options` and leaves the others as they are.
    ///
    /// # Errors
    ///
    /// An unknown name or a value that does not fit.
    pub fn set(&mut self, of: &str, options: Options) -> Result<(), SpecError> {
        let given: Vec<String> = options.keys().cloned().collect();
        let checked = props::apply(of, SETTINGS, options, Mode::Lenient)?;
        for name in given {
            self.set_one(of, &name, checked.get(&name).cloned().unwrap_or_default())?;
        }
        Ok(())
    }

    fn set_one(&mut self, of: &str, name: &str, value: Value) -> Result<(), SpecError> {
        let to = &mut self.settings;
        let number = || value.as_u64().unwrap_or_default();
        let text = || value.as_str().unwrap_or_default().to_owned();
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match name {
            "accel" if value == "qtest" => to.accel = AccelSpec::Qtest,
            "accel" => to.accel = AccelSpec::Kvm,
            "qtest" => to.qtest = Some(QtestSpec::parse(&text())?),
            "qtest-log" => to.qtest_log = Some(text().into()),
            "kernel" => to.kernel = Some(text().into()),
            "bios" => to.bios = Some(text().into()),
            "firmware-log" => to.firmware_log = Some(text().into()),
            "initrd" => to.initrd = Some(text().into()),
            "append" => to.append = text(),
            "memory" => to.memory = memory(of, number())?,
            "cpus" => to.cpus = narrow(number()),
            "serial" => to.serial = SerialSpec::parse(&text())?,
            "actions" => {
                to.actions = serde_json::from_value::<Actions>(value)
                    .map_err(|e| SpecError::bad(of, name, e.to_string()))?;
            }
            "debug-exit" => to.debug_exit = u16::try_from(number()).ok(),
            "sandbox" => to.sandbox = value.as_bool().unwrap_or(true),
            "iothreads-max" => to.iothreads_max = narrow(number()),
            _ => {}
        }
        Ok(())
    }

    /// Sets the actions named in the text of `--action`, and leaves the others as they are.
    ///
    /// # Errors
    ///
    /// An unknown event or action.
    pub fn set_actions(&mut self, options: Options) -> Result<(), SpecError> {
        let of = "--action";
        let current = serde_json::to_value(self.settings.actions)
            .map_err(|e| SpecError::syntax(of, e.to_string()))?;
        let Value::Object(mut merged) = current else { return Ok(()) };
        for (key, value) in options {
            merged.insert(key, value);
        }
        let checked = props::apply(of, ACTIONS, merged, Mode::Lenient)?;
        self.set_one(of, "actions", Value::Object(checked))
    }

    /// Makes the machine: checks every part, lowers disks in short form, fills in names, queues
    /// and iothreads, and checks that the parts fit together.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with a part, or between parts. `files` is asked about the images of
    /// disks in short form only.
    pub fn lower(self, files: &dyn Look) -> Result<MachineSpec, SpecError> {
        let Self { settings, disks, blockdevs, objects, devices } = self;
        let mut spec =
            MachineSpec { objects: vec![], blockdevs: vec![], devices: vec![], ..settings };
        if disks.len().max(blockdevs.len()).max(objects.len()).max(devices.len()) > PARTS_MAX {
            let reason = format!("more than {PARTS_MAX} disks, nodes, objects or devices");
            return Err(SpecError::Conflict(reason));
        }
        for options in objects {
            spec.objects.push(object_from_options(options, Mode::Lenient)?);
        }
        for options in blockdevs {
            spec.blockdevs.extend(node_from_options(options, Mode::Lenient)?);
        }
        let mut ids: HashSet<String> = [&devices, &disks]
            .into_iter()
            .flatten()
            .filter_map(|options| options.get("id")?.as_str().map(str::to_owned))
            .chain(spec.blockdevs.iter().map(|node| node.node_name.clone()))
            .collect();
        for options in disks {
            add_disk(&mut spec, options, &mut ids, files)?;
        }
        for options in devices {
            let driver = options.get("driver").and_then(Value::as_str).unwrap_or("device");
            let fallback = free_id(driver, &mut ids);
            spec.devices.push(device_from_options(options, &fallback, Mode::Lenient)?);
        }
        settle(&mut spec)?;
        place_chipset(&mut spec);
        fill_queues(&mut spec);
        fill_iothreads(&mut spec);
        check(&spec)?;
        Ok(spec)
    }
}

fn memory(of: &str, bytes: u64) -> Result<u64, SpecError> {
    if bytes.is_multiple_of(4096) {
        return Ok(bytes);
    }
    Err(SpecError::bad(of, "memory", format!("{} is not a multiple of 4k", size::format(bytes))))
}

fn list(of: &str, key: &str, value: Value) -> Result<Vec<Value>, SpecError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(SpecError::bad(of, key, "it is not a list")),
    }
}

fn objects(of: &str, key: &str, value: Value) -> Result<Vec<Options>, SpecError> {
    list(of, key, value)?
        .into_iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::Object(map) => Ok(map),
            _ => Err(SpecError::bad(of, key, format!("element {i} is not a table"))),
        })
        .collect()
}

/// Disks in a configuration file are tables, or texts as after `--disk`.
fn disks(of: &str, value: Value) -> Result<Vec<Options>, SpecError> {
    list(of, "disks", value)?
        .into_iter()
        .map(|item| match item {
            Value::Object(map) => Ok(map),
            Value::String(text) => super::keyval::parse("--disk", &text, Some("file"), &[]),
            _ => Err(SpecError::bad(of, "disks", "its elements are tables or texts")),
        })
        .collect()
}

fn add_disk(
    spec: &mut MachineSpec,
    options: Options,
    ids: &mut HashSet<String>,
    files: &dyn Look,
) -> Result<(), SpecError> {
    let fallback = match disk::own_id(&options) {
        Some(id) => id.to_owned(),
        None => free_id("disk", ids),
    };
    let long = disk::lower(options, &fallback, spec, ids, files)?;
    if let Some(id) = long.iothread.filter(|id| spec.object(id).is_none()) {
        spec.objects.push(iothread(id)?);
    }
    spec.blockdevs.extend(node_from_options(long.blockdev, Mode::Lenient)?);
    for device in long.devices {
        spec.devices.push(device_from_options(device, &fallback, Mode::Lenient)?);
    }
    Ok(())
}

fn iothread(id: String) -> Result<ObjectSpec, SpecError> {
    let options = Map::from_iter([
        ("qom-type".to_owned(), Value::from("iothread")),
        ("id".to_owned(), Value::from(id)),
    ]);
    object_from_options(options, Mode::Lenient)
}

/// `prefix0`, `prefix1`, …: the first that is not taken; it is then.
pub(super) fn free_id(prefix: &str, ids: &mut HashSet<String>) -> String {
    let mut n = 0_u64;
    loop {
        let id = format!("{prefix}{n}");
        if ids.insert(id.clone()) {
            return id;
        }
        n += 1;
    }
}

/// Gives every device its place on the bus of one that comes before it.
fn settle(spec: &mut MachineSpec) -> Result<(), SpecError> {
    for mut device in std::mem::take(&mut spec.devices) {
        device.kind_mut().settle(spec)?;
        spec.devices.push(device);
    }
    Ok(())
}

/// Puts the first Serial ATA controller that has no place of its own where the chipset has it.
fn place_chipset(spec: &mut MachineSpec) {
    if spec.devices.iter().any(|device| device.addr() == Some(CHIPSET)) {
        return;
    }
    let first = spec.devices.iter_mut().find_map(|device| match device {
        DeviceSpec::Ich9Ahci(ahci) if ahci.addr.is_none() => Some(ahci),
        _ => None,
    });
    if let Some(ahci) = first {
        ahci.addr = Some(CHIPSET);
    }
}

/// All names that devices and nodes of a machine have.
pub(super) fn ids_of(spec: &MachineSpec) -> HashSet<String> {
    let devices = spec.devices.iter().map(|device| device.id().to_owned());
    devices.chain(spec.blockdevs.iter().map(|node| node.node_name.clone())).collect()
}

/// Fills in a number of queues that was left open: as many as CPUs, up to [`QUEUES_AUTO_MAX`].
pub(super) fn fill_count(spec: &MachineSpec, count: &mut u16) {
    if *count == 0 {
        *count = u16::try_from(spec.cpus.min(QUEUES_AUTO_MAX)).unwrap_or(1);
    }
}

fn queues_of(spec: &mut MachineSpec) -> impl Iterator<Item = QueuesMut<'_>> {
    spec.devices.iter_mut().filter_map(|device| device.kind_mut().queues_mut())
}

fn fill_queues(spec: &mut MachineSpec) {
    let mut devices = std::mem::take(&mut spec.devices);
    for queues in devices.iter_mut().filter_map(|device| device.kind_mut().queues_mut()) {
        fill_count(spec, queues.count);
    }
    spec.devices = devices;
}

/// Gives every device whose queues have no iothread one of its own, or one shared round-robin when
/// there are more such devices than `iothreads-max`.
fn fill_iothreads(spec: &mut MachineSpec) {
    let limit = spec.iothreads_max.max(1) as usize;
    let mut ids: HashSet<String> = spec.objects.iter().map(|o| o.id().to_owned()).collect();
    let mut made: Vec<String> = Vec::new();
    let mut served = 0;
    for queues in queues_of(spec) {
        if queues.iothread.is_some() || queues.is_mapped {
            continue;
        }
        if made.len() < limit {
            made.push(free_id("iothread", &mut ids));
        }
        *queues.iothread = made.get(served % limit).cloned();
        served += 1;
    }
    // The table's own defaults, which cannot fail for a well-formed id.
    spec.objects.extend(made.into_iter().filter_map(|id| iothread(id).ok()));
}

/// Checks what no part can check alone: names are unique, references lead somewhere, no two
/// writers share a node.
fn check(spec: &MachineSpec) -> Result<(), SpecError> {
    unique("object", spec.objects.iter().map(ObjectSpec::id))?;
    unique("device", spec.devices.iter().map(DeviceSpec::id))?;
    unique("node", spec.blockdevs.iter().map(|node| &*node.node_name))?;
    let mut seen: Vec<&str> = Vec::new();
    for node in &spec.blockdevs {
        for child in node.children() {
            if !seen.contains(&child) {
                let later = if spec.node(child).is_some() {
                    "; it is described later: children come first".to_owned()
                } else {
                    did_you_mean(&near(child, seen.iter().copied()))
                };
                return conflict(format!("node '{}': no node '{child}'{later}", node.node_name));
            }
        }
        seen.push(&node.node_name);
    }
    for device in &spec.devices {
        check_device(spec, device)?;
    }
    sole_places(spec)?;
    match (spec.accel, &spec.qtest) {
        (AccelSpec::Kvm, Some(_)) => {
            return conflict(
                "--qtest drives a machine without CPUs: give --accel qtest".to_owned(),
            );
        }
        (AccelSpec::Qtest, None) => {
            return conflict("--accel qtest: give the socket, --qtest unix:PATH".to_owned());
        }
        _ => {}
    }
    if spec.initrd.is_some() && spec.kernel.is_none() {
        return conflict("an initrd is given, but no kernel".to_owned());
    }
    firmware(spec)?;
    sole_writers(spec)
}

/// Firmware starts instead of a kernel, on CPUs.
fn firmware(spec: &MachineSpec) -> Result<(), SpecError> {
    let reason = match (&spec.bios, &spec.firmware_log) {
        (Some(_), _) if spec.kernel.is_some() => {
            "a kernel is started without firmware: give either --kernel or --bios"
        }
        (Some(_), _) if spec.accel == AccelSpec::Qtest => {
            "--accel qtest has no CPU that firmware could run on: leave out --bios"
        }
        (Some(_), _) if !spec.append.is_empty() => {
            "a kernel command line is given (--append), but firmware is started (--bios)"
        }
        (None, Some(_)) => "--firmware-log needs firmware: give --bios",
        _ => return Ok(()),
    };
    conflict(reason.to_owned())
}

fn conflict(reason: String) -> Result<(), SpecError> {
    Err(SpecError::Conflict(reason))
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return conflict(format!("two {what}s are called '{name}'"));
        }
    }
    Ok(())
}

fn check_device(spec: &MachineSpec, device: &DeviceSpec) -> Result<(), SpecError> {
    let id = device.id();
    if let Some(drive) = device.drive().filter(|drive| spec.node(drive).is_none()) {
        let names = spec.blockdevs.iter().map(|node| &*node.node_name);
        let hint = did_you_mean(&near(drive, names));
        return conflict(format!("device '{id}': drive: no node '{drive}'{hint}"));
    }
    device.kind().check(spec)
}

/// No two devices ask for the same place on the PCI bus.
fn sole_places(spec: &MachineSpec) -> Result<(), SpecError> {
    let mut places: HashMap<PciAddr, &str> = HashMap::new();
    for device in &spec.devices {
        let Some(addr) = device.addr() else { continue };
        if let Some(other) = places.insert(addr, device.id()) {
            let (at, id) = (String::from(addr), device.id());
            return conflict(format!(
                "device '{id}': addr: PCI address {at} is taken by '{other}'"
            ));
        }
    }
    Ok(())
}

/// No node is written by two users: a device counts as a writer unless `share-rw=on` or the node
/// is read-only, a parent always, a parent that only reads its backing never.
fn sole_writers(spec: &MachineSpec) -> Result<(), SpecError> {
    let mut users: HashMap<&str, String> = HashMap::new();
    let mut claim = |node: &'_ str, user: String| -> Result<(), SpecError> {
        let Some(node) = spec.node(node) else { return Ok(()) };
        match users.get(&*node.node_name) {
            Some(other) => conflict(format!(
                "node '{}' is used by {other} and by {user}; a disk has one user",
                node.node_name
            )),
            None => {
                users.insert(&node.node_name, user);
                Ok(())
            }
        }
    };
    for node in &spec.blockdevs {
        let user = || format!("node '{}'", node.node_name);
        match &node.driver {
            DriverSpec::Raw(raw) => claim(&raw.file, user())?,
            DriverSpec::Fault(fault) => claim(&fault.file, user())?,
            DriverSpec::Blkdebug(blkdebug) => claim(&blkdebug.image, user())?,
            DriverSpec::Qcow2(qcow2) => claim(&qcow2.file, user())?,
            DriverSpec::Luks(luks) => claim(&luks.file, user())?,
            DriverSpec::Vmdk(image)
            | DriverSpec::Vdi(image)
            | DriverSpec::Vpc(image)
            | DriverSpec::Vhdx(image)
            | DriverSpec::Parallels(image)
            | DriverSpec::Qed(image)
            | DriverSpec::Qcow(image)
            | DriverSpec::Dmg(image)
            | DriverSpec::Cloop(image)
            | DriverSpec::Bochs(image) => claim(&image.file, user())?,
            DriverSpec::File(_) | DriverSpec::HostDevice(_) | DriverSpec::Null(_) => {}
        }
    }
    for device in &spec.devices {
        let Some(drive) = device.kind().drive() else { continue };
        let read_only = spec.node(drive.node).is_some_and(|node: &BlockdevSpec| node.read_only);
        if !drive.share_rw && !read_only {
            claim(drive.node, format!("device '{}'", device.id()))?;
        }
    }
    Ok(())
}
