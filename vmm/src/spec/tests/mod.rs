//! From text to specification and back.
mod devices;
mod errors;

use super::format::{Look, Sight};
use super::*;
use crate::spec::block::{Backing, DiscardMode, FaultErrno, FaultOp};
use crate::spec::props::{Kind, Mode, Table};
use serde_json::{Value, json};
use spindle_block::nodes::fault::{IoType, debug::Event};
use std::io;
use std::path::Path;

/// Files that are what their names say.
struct Names;

impl Look for Names {
    fn look(&self, path: &Path) -> io::Result<Sight> {
        let name = path.to_string_lossy();
        if name.contains("missing") {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let head = if name.contains("qcow2") { b"QFI\xfb".to_vec() } else { vec![] };
        Ok(Sight { block_device: name.starts_with("/dev/"), head })
    }
}

fn draft(disks: &[&str], blockdevs: &[&str], objects: &[&str], devices: &[&str]) -> Draft {
    let parse = |of: &str, texts: &[&str], implied: &str| {
        texts.iter().map(|t| keyval::parse(of, t, Some(implied), &[]).unwrap()).collect()
    };
    Draft {
        disks: parse("--disk", disks, "file"),
        blockdevs: parse("--blockdev", blockdevs, "driver"),
        objects: parse("--object", objects, "qom-type"),
        devices: parse("--device", devices, "driver"),
        ..Draft::default()
    }
}

fn lower(disks: &[&str], blockdevs: &[&str], objects: &[&str], devices: &[&str]) -> MachineSpec {
    draft(disks, blockdevs, objects, devices).lower(&Names).unwrap_or_else(|e| panic!("{e}"))
}

fn error(disks: &[&str], blockdevs: &[&str], objects: &[&str], devices: &[&str]) -> String {
    draft(disks, blockdevs, objects, devices).lower(&Names).unwrap_err().to_string()
}

fn again(spec: &MachineSpec) -> MachineSpec {
    let content: Value = serde_json::from_str(&spec.to_json().unwrap()).unwrap();
    Draft::from_config("vm.json", content).unwrap().lower(&Names).unwrap()
}

fn blk<'a>(spec: &'a MachineSpec, id: &str) -> &'a VirtioBlkSpec {
    match spec.device(id) {
        Some(DeviceSpec::VirtioBlkPci(disk)) => disk,
        other => panic!("{id}: {other:?}"),
    }
}

#[test]
fn the_short_form_is_the_long_form() {
    let short = lower(&["a.qcow2,queues=4,iothread=io,cache=none,serial=S1"], &[], &[], &[]);
    let long = lower(
        &[],
        &[
            "qcow2,node-name=disk0,discard=unmap,cache.direct=on,file.driver=file,file.filename=a.qcow2",
        ],
        &["iothread,id=io"],
        &["virtio-blk-pci,id=disk0,drive=disk0,num-queues=4,iothread=io,serial=S1"],
    );
    assert_eq!(short, long);
    let json = r#"{"driver":"qcow2","node-name":"disk0","cache":{"direct":true},
                   "file":{"driver":"file","filename":"a.qcow2"}}"#;
    let device = r#"{"driver":"virtio-blk-pci","id":"disk0","drive":"disk0","num-queues":4,
                     "iothread-vq-mapping":[],"iothread":"io","serial":"S1"}"#;
    assert_eq!(short, lower(&[], &[json], &["iothread,id=io"], &[device]));
}

#[test]
fn defaults_are_those_that_are_promised() {
    let spec = lower(&["a.qcow2", "/dev/sdb"], &[], &[], &[]);
    assert_eq!((spec.memory, spec.cpus, spec.iothreads_max), (1 << 30, 1, 8));
    assert_eq!(spec.serial, SerialSpec::Stdio);
    assert!(spec.sandbox);
    let names: Vec<&str> = spec.blockdevs.iter().map(|n| &*n.node_name).collect();
    assert_eq!(names, ["disk0.file", "disk0", "disk1.file", "disk1"]);
    let drivers: Vec<&str> = spec.blockdevs.iter().map(BlockdevSpec::driver_name).collect();
    assert_eq!(drivers, ["file", "qcow2", "host_device", "raw"]);
    for node in &spec.blockdevs {
        assert_eq!(node.discard, DiscardMode::Unmap);
        assert!(!node.cache.direct && !node.cache.no_flush && !node.read_only);
    }
    let disk = blk(&spec, "disk0");
    assert_eq!((disk.num_queues, disk.queue_size), (1, 256));
    assert_eq!((disk.werror, disk.rerror), (ErrorPolicy::Enospc, ErrorPolicy::Report));
    assert!(disk.write_cache && disk.config_wce && disk.discard && disk.write_zeroes);
    assert_eq!(disk.iothread.as_deref(), Some("iothread0"));
    assert_eq!(blk(&spec, "disk1").iothread.as_deref(), Some("iothread1"));
}

#[test]
fn a_printed_specification_comes_back_the_same() {
    let spec = lower(
        &["a.qcow2,cache=writethrough,readonly=on", "b.raw,werror=stop,bootindex=1,id=second"],
        &[
            "null-co,node-name=n,size=64M",
            "fault,node-name=f,file=n,rules.0.op=read,rules.0.errno=ENOSPC,rules.0.count=2",
            "qcow2,node-name=q,file.driver=file,file.filename=q.qcow2,backing=",
            "qcow2,node-name=r,file.driver=file,file.filename=r.qcow2,backing.driver=raw,\
             backing.file.driver=file,backing.file.filename=base.raw",
        ],
        &["iothread,id=io,poll-max-ns=0", "rng-random,id=rng0"],
        &[
            "virtio-blk-pci,drive=f,num-queues=2,iothread-vq-mapping.0.iothread=io,\
             iothread-vq-mapping.0.vqs.0=1,iothread-vq-mapping.0.vqs.1=0,addr=1f.7",
            "virtio-rng-pci,rng=rng0,max-bytes=1024,period=1000",
        ],
    );
    assert_eq!(again(&spec), spec);
    let plain: MachineSpec = serde_json::from_str(&spec.to_json().unwrap()).unwrap();
    assert_eq!(plain, spec, "plain serde agrees with the tables");
    let toml = toml::to_string(&{
        let mut s = spec.clone();
        s.blockdevs.retain(|n| n.node_name != "q"); // TOML has no null
        s.blockdevs.retain(|n| n.node_name != "q.file");
        s
    })
    .unwrap();
    let content: Value = toml::from_str(&toml).unwrap();
    assert!(Draft::from_config("vm.toml", content).unwrap().lower(&Names).is_ok());
}

#[test]
fn inline_children_get_names_and_inherit() {
    let spec = lower(
        &[],
        &["qcow2,node-name=d,read-only=on,cache.direct=on,file.driver=file,file.filename=x.qcow2"],
        &[],
        &[],
    );
    let file = spec.node("d.file").unwrap();
    assert!(file.read_only && file.cache.direct);
    match &spec.node("d").unwrap().driver {
        DriverSpec::Qcow2(q) => {
            assert_eq!((&*q.file, &q.backing), ("d.file", &Backing::FromHeader));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_disks_than_iothreads_share_them() {
    let mut draft = draft(&["a.raw", "b.raw", "c.raw"], &[], &[], &[]);
    draft.settings.iothreads_max = 2;
    draft.settings.cpus = 12;
    let spec = draft.lower(&Names).unwrap();
    let of = |id: &str| blk(&spec, id).iothread.clone().unwrap();
    assert_eq!([of("disk0"), of("disk1"), of("disk2")], ["iothread0", "iothread1", "iothread0"]);
    assert_eq!(spec.objects.len(), 2);
    assert_eq!(blk(&spec, "disk0").num_queues, 8);
    assert_eq!(again(&spec), spec);
}

#[test]
fn fault_rules_are_typed() {
    let options = json!({"op": "write", "offset": 4096, "length": 512, "errno": "ENOSPC"});
    let Value::Object(options) = options else { unreachable!() };
    let checked = props::apply("x-fault-add", block::FAULT_RULE, options, Mode::Strict).unwrap();
    let rule: FaultRule = serde_json::from_value(Value::Object(checked)).unwrap();
    assert_eq!((rule.op, rule.errno, rule.length), (FaultOp::Write, FaultErrno::Enospc, Some(512)));
    assert_eq!((rule.count, rule.chance_ppm, rule.silent), (None, 1_000_000, false));
}

#[test]
fn every_event_and_iotype_of_blkdebug_has_its_counterpart() {
    let words = |group: &str, name: &str| {
        let group = blkdebug::BLKDEBUG.props.iter().find(|row| row.name == group).unwrap();
        let Kind::Groups(rows) = group.kind else { panic!("no list") };
        match rows.iter().find(|row| row.name == name).unwrap().kind {
            Kind::Enum(words) => words,
            _ => panic!("no enumeration"),
        }
    };
    assert_eq!(words("inject-error", "event"), Event::ALL.map(|(name, _)| name));
    assert_eq!(words("set-state", "event"), Event::ALL.map(|(name, _)| name));
    assert_eq!(words("inject-error", "iotype"), IoType::ALL.map(|(name, _)| name));
    let l2 = error(&[], &["blkdebug,node-name=a,image=b,set-state.0.event=l2_load"], &[], &[]);
    assert!(l2.contains("'l2_load' is none of none, read_aio"), "{l2}");
}

#[test]
fn configuration_files_take_short_disks_and_friendly_values() {
    let text = r#"
        kernel = "vmlinuz"
        memory = "512M"
        cpus = 2
        qmp = ["unix:/tmp/q,server=on"]
        disks = ["a.qcow2,readonly=on", { file = "b.raw", queues = 3 }]
        [actions]
        reboot = "shutdown"
    "#;
    let content: Value = toml::from_str(text).unwrap();
    let spec = Draft::from_config("vm.toml", content).unwrap().lower(&Names).unwrap();
    assert_eq!((spec.memory, spec.cpus), (512 << 20, 2));
    assert_eq!(spec.actions.reboot, RebootAction::Shutdown);
    assert_eq!(blk(&spec, "disk1").num_queues, 3);
    assert!(spec.node("disk0").unwrap().read_only);
    let error = |text: &str| {
        let content = toml::from_str(text).unwrap();
        Draft::from_config("vm.toml", content).unwrap_err().to_string()
    };
    assert!(error("memroy = 1").contains("vm.toml: unknown key 'memroy'; did you mean 'memory'?"));
    assert!(error("memory = '1000000001'").contains("multiple of 4k"));
    assert!(error("memory = '1M'").contains("not within 16M"));
    assert!(error("disk = 1").contains("did you mean 'disks'"));
    assert!(error("cpus = 'two'").contains("cpus: 'two' is not a number"));
    assert!(error("[actions]\nrebot = 'reset'").contains("did you mean 'reboot'"));
}

#[test]
fn strict_mode_takes_json_types_only() {
    let parse = |value: Value, mode| match value {
        Value::Object(map) => node_from_options(map, mode).map_err(|e| e.to_string()),
        _ => unreachable!(),
    };
    let text_size = json!({"driver": "null-co", "node-name": "n", "size": "1G"});
    assert!(parse(text_size.clone(), Mode::Lenient).is_ok());
    assert!(parse(text_size, Mode::Strict).unwrap_err().contains("size"));
    let text_switch = json!({"driver": "null-co", "node-name": "n", "read-only": "on"});
    assert!(parse(text_switch, Mode::Strict).unwrap_err().contains("read-only"));
}

/// Every row of a table is a field of the type it is for and the other way round.
#[test]
fn tables_and_types_agree() {
    let fill = |table: &Table| -> Value {
        let mut map = keyval::Options::new();
        for row in table.props {
            let value = match row.name {
                "id" | "drive" | "iothread" | "rng" | "file" | "image" | "backing" | "bus"
                | "subsys"
                    if !matches!(row.kind, props::Kind::Enum(_)) =>
                {
                    json!("x")
                }
                "addr" => json!("03.0"),
                "pool-size" => json!(1 << 20),
                "serial" | "filename" | "config" | "state" | "model" | "pci-id" | "vendor"
                | "pool" | "product" | "ver" | "device_id" | "nqn" => json!("s"),
                "iothread-vq-mapping" => json!([{"iothread": "x", "vqs": [0]}]),
                "rules" => json!([{"length": 1, "count": 1, "torn-bytes": 1, "id": "r"}]),
                "inject-error" => json!([{"event": "none", "iotype": "read", "sector": 1}]),
                "set-state" => json!([{"event": "none", "new_state": 1}]),
                "align" | "max-transfer" | "max-write-zero" | "opt-discard" | "max-discard" => {
                    json!(512)
                }
                "discard_granularity" | "size" | "l2-cache-size" => json!(512),
                "bootindex" | "vectors" | "msix_qsize" | "scsi-id" | "lun" => json!(1),
                "num_queues" => json!(2),
                "lazy-refcounts" => json!(true),
                _ => continue,
            };
            map.insert(row.name.to_owned(), value);
        }
        let mut all = Value::Object(table.apply(map, Mode::Strict).unwrap());
        if let Some(slot) = all.get_mut("write-cache") {
            *slot = json!(true);
        }
        all
    };
    let same = |mut typed: Value, mut given: Value, key: &str| {
        for value in [&mut typed, &mut given] {
            value.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(typed, given);
    };
    for table in device::DEVICES {
        let mut given = fill(table);
        given["driver"] = json!(table.name);
        let typed: DeviceSpec = serde_json::from_value(given.clone()).unwrap();
        same(serde_json::to_value(typed).unwrap(), given, "driver");
    }
    for table in object::OBJECTS {
        let mut given = fill(table);
        given["qom-type"] = json!(table.name);
        let typed: ObjectSpec = serde_json::from_value(given.clone()).unwrap();
        same(serde_json::to_value(typed).unwrap(), given, "qom-type");
    }
    for table in block::DRIVERS {
        let mut given = fill(table);
        given["driver"] = json!(table.name);
        let typed: DriverSpec = serde_json::from_value(given.clone()).unwrap();
        same(serde_json::to_value(typed).unwrap(), given, "driver");
    }
}

#[test]
fn help_shows_every_property_with_its_default() {
    let text = help::properties(&device::VIRTIO_BLK_PCI);
    for row in device::VIRTIO_BLK_PCI.props.iter().filter(|row| !row.ignored) {
        assert!(text.contains(row.name), "{}", row.name);
    }
    assert!(text.contains("queue-size=<size>") && text.contains("(default: 256)"));
    assert!(help::list(device::DEVICES).contains("virtio-rng-pci"));
}

#[test]
fn the_reference_page_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/options.md");
    if std::env::var_os("SPINDLE_BLESS").is_some() {
        std::fs::write(&path, help::reference()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page == help::reference(), "docs/options.md is out of date: run with SPINDLE_BLESS=1");
}

#[test]
fn properties_of_qemu_with_one_meaning_here_are_taken_and_forgotten() {
    let plain = lower(&[], &["null,node-name=n"], &[], &["virtio-blk-pci,drive=n"]);
    let more = "virtio-blk-pci,drive=n,disable-legacy=on,disable-modern=off,packed=off,romfile=,\
                ioeventfd=on,scsi=off,request-merging=off";
    assert_eq!(lower(&[], &["null,node-name=n"], &[], &[more]), plain);
    let json = r#"{"driver":"virtio-blk-pci","drive":"n","disable-legacy":true}"#;
    assert_eq!(lower(&[], &["null,node-name=n"], &[], &[json]), plain);
    assert!(error(&[], &[], &[], &["virtio-blk-pci,drive=n,packed=on"]).contains("packed"));
}

/// QEMU's own list of a device's properties: name and default. Empty for a device it does not have.
fn qemu_properties(device: &str) -> Vec<(String, Option<String>)> {
    let output = std::process::Command::new("qemu-system-x86_64")
        .args(["-device", &format!("{device},help")])
        .output()
        .expect("qemu-system-x86_64, which images/packages.sh installs");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().skip(1).filter_map(|line| {
        let (name, rest) = line.trim().split_once('=')?;
        // Parts of the device itself, and memory that it could be given.
        if rest.starts_with("<child<") || rest.starts_with("<link<memory-backend") {
            return None;
        }
        let default = rest.split_once("(default: ").and_then(|(_, d)| d.strip_suffix(')'));
        Some((name.to_owned(), default.map(|d| d.trim_matches('"').to_owned())))
    });
    rows.collect()
}

#[test]
fn properties_and_defaults_are_qemus() {
    // Ours by purpose, or younger than the QEMU of Debian 12.
    const OWN: &[&str] = &["id", "bus", "iothread-vq-mapping", "state"];
    const OWN_OF: &[(&str, &[&str])] = &[
        (
            "nvme",
            &[
                "model",
                "pci-id",
                "subsys",
                "pool",
                "pool-size",
                "mqes",
                "dbcs",
                "iothread",
                "werror",
                "rerror",
            ],
        ),
        ("nvme-ns", &["nguid"]),
        ("ich9-ahci", &["ports", "iothread", "x-msi", "x-staggered-spin-up", "x-port-multiplier"]),
        ("piix3-ide", &["iothread"]),
        ("piix4-ide", &["iothread"]),
        ("sdhci-pci", &["iothread"]),
        ("sd-card", &["serial", "bootindex", "werror", "rerror", "share-rw", "write-cache"]),
        // Younger than the QEMU of Debian 12.
        (
            "emmc",
            &[
                "drive",
                "boot-partition-size",
                "rpmb-partition-size",
                "serial",
                "bootindex",
                "werror",
                "rerror",
                "share-rw",
                "write-cache",
            ],
        ),
    ];
    // Devices that the QEMU of Debian 12 does not have.
    const YOUNGER: &[&str] = &["emmc"];
    const OTHER_DEFAULT: &[&str] = &[
        "aerl",
        "scsi_version",
        "secs",
        "addr",
        "num-queues",
        "werror",
        "rerror",
        "discard_granularity",
        "vectors",
        "num_queues",
        "msix_qsize",
        "ioeventfd",
        "scsi-id",
        "lun",
        "uuid",
        "dpofua",
        "unit",
        "sd-spec-version",
        "uhs",
        "capareg",
        "spec_version",
    ];
    for table in device::DEVICES {
        let theirs = qemu_properties(table.name);
        if theirs.is_empty() {
            // This QEMU has no such device.
            assert!(YOUNGER.contains(&table.name), "QEMU has no {}", table.name);
            continue;
        }
        let own = OWN_OF.iter().find(|(name, _)| *name == table.name).map_or(&[][..], |own| own.1);
        let ours = |name| OWN.contains(name) || own.contains(name);
        for row in table.props.iter().filter(|row| !ours(&row.name)) {
            let found = theirs.iter().find(|(name, _)| name == row.name);
            let (_, default) = found.unwrap_or_else(|| panic!("QEMU has no {}", row.name));
            if OTHER_DEFAULT.contains(&row.name) {
                continue;
            }
            let ours = row.default.map(|text| match text {
                "on" => "true",
                "off" => "false",
                other => other,
            });
            assert_eq!(ours, default.as_deref(), "{}", row.name);
        }
        // Whatever QEMU takes is known here, if only to be refused with a reason.
        for (name, _) in &theirs {
            let known = table.props.iter().any(|row| row.answers_to(name))
                || device::compat::row(table.name, name).is_some();
            assert!(known, "{}: QEMU has {name}", table.name);
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_options_panic(
        what in 0_usize..4,
        head in "[a-z.-]{0,12}|virtio-blk-pci|virtio-rng-pci|qcow2|fault|iothread|a.raw|nvme\
                 |nvme-ns|virtio-scsi-pci|scsi-hd|scsi-cd|ich9-ahci|ide-hd|ide-cd|piix3-ide\
                 |sdhci-pci|sd-card|emmc",
        pairs in proptest::collection::vec(
            "(driver|node-name|file|backing|id|drive|num-queues|vqs|iothread-vq-mapping|rules|size\
             |serial|cache|aio|addr|bus|ports|nsid|lun|scsi-id|uuid|state|controller|target)(\\.[0-9a-z]{1,4})?=[a-z0-9.,{}\\[\\]:\"-]{0,9}", 0..5),
    ) {
        let text = format!("{head},{}", pairs.join(","));
        let implied = ["file", "driver", "qom-type", "driver"][what];
        if let Ok(options) = keyval::parse("option", &text, Some(implied), &[]) {
            let mut draft = Draft::default();
            match what {
                0 => draft.disks.push(options),
                1 => draft.blockdevs.push(options),
                2 => draft.objects.push(options),
                _ => draft.devices.push(options),
            }
            if let Ok(spec) = draft.lower(&Names) {
                proptest::prop_assert_eq!(again(&spec), spec);
            }
        }
    }
}
