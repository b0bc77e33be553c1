//! `spindle run`.
use super::{Outcome, Programs, Stop, qemu};
use crate::spec::props::Table;
use crate::spec::{
    AccelSpec, DISK, Draft, MachineSpec, QmpSpec, SpecError, block, device, format, help, keyval,
    names, object, size,
};
use clap::{ArgAction, Args};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest configuration file that is read, in bytes.
const CONFIG_LEN_MAX: u64 = 4 << 20;

const GUEST: &str = "Guest";
const DISKS: &str = "Disks and devices";
const CONSOLE: &str = "Console and monitor";
const ENDS: &str = "When the guest ends";
const HOST: &str = "Description and host";

const EXAMPLE: &str = "\
Example:
  spindle run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda1' \\
      -m 2G --cpus 2 --disk debian.qcow2,cache=none

--disk help, --blockdev help, --object help, --device help and --device NAME,help list what they
take. Options of QEMU may be typed with one dash, as there.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct RunArgs {
    /// Kernel to start: bzImage or ELF
    #[arg(long, short = 'k', value_name = "FILE", help_heading = GUEST)]
    kernel: Option<String>,
    /// Firmware to start instead, which boots from a disk: SeaBIOS's bios-256k.bin
    #[arg(long, value_name = "FILE", help_heading = GUEST)]
    bios: Option<String>,
    /// File for the firmware's messages
    #[arg(long, value_name = "FILE", help_heading = GUEST)]
    firmware_log: Option<String>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE", help_heading = GUEST)]
    initrd: Option<String>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", help_heading = GUEST, allow_hyphen_values = true)]
    append: Option<String>,
    /// Guest memory; MiB unless a suffix k, M, G or T says otherwise [default: 1G]
    #[arg(long, short = 'm', value_name = "SIZE", help_heading = GUEST)]
    memory: Option<String>,
    /// Virtual CPUs [default: 1]
    #[arg(long, alias = "smp", value_name = "N", help_heading = GUEST)]
    cpus: Option<String>,

    /// Disk from an image file, with its options
    #[arg(long, value_name = "FILE[,KEY=VALUE...]", help_heading = DISKS)]
    disk: Vec<String>,
    /// CD or DVD image, in a drive behind a virtio SCSI adapter
    #[arg(long, value_name = "FILE", help_heading = DISKS)]
    cdrom: Vec<String>,
    /// Node of the block graph, as key=value pairs or JSON
    #[arg(long, value_name = "DRIVER,node-name=NAME[,...]", help_heading = DISKS)]
    blockdev: Vec<String>,
    /// Device, as key=value pairs or JSON
    #[arg(long, value_name = "NAME[,PROPERTY=VALUE...]", help_heading = DISKS)]
    device: Vec<String>,
    /// Object that devices refer to, such as an iothread
    #[arg(long, value_name = "TYPE,id=ID[,...]", help_heading = DISKS)]
    object: Vec<String>,
    /// Iothreads made for disks that name none; further disks share them [default: 8]
    #[arg(long, value_name = "N", help_heading = DISKS)]
    iothreads_max: Option<String>,

    /// Serial console: stdio, null, file:PATH or unix:PATH[,server=on] [default: stdio]
    #[arg(long, value_name = "WHERE", help_heading = CONSOLE)]
    serial: Option<String>,
    /// QMP monitor: unix:PATH,server=on listens, unix:PATH connects
    #[arg(long, value_name = "unix:PATH[,server=on]", help_heading = CONSOLE)]
    qmp: Vec<String>,

    /// End instead of rebooting
    #[arg(long, help_heading = ENDS)]
    no_reboot: bool,
    /// reboot=reset|shutdown, shutdown=poweroff|pause, panic=pause|shutdown|exit-failure|none
    #[arg(long, value_name = "EVENT=ACTION[,...]", help_heading = ENDS)]
    action: Vec<String>,
    /// I/O port whose written value ends the process with that exit status [0x501]
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "0x501", help_heading = ENDS)]
    debug_exit: Option<String>,

    /// Start from this description, TOML or JSON; other options add to it
    #[arg(long, value_name = "FILE.toml|.json", help_heading = HOST)]
    config: Option<PathBuf>,
    /// Print the whole description as JSON, for --config, and end
    #[arg(long, help_heading = HOST)]
    print_spec: bool,
    /// What drives the machine: kvm, or qtest, a test that makes the accesses [default: kvm]
    #[arg(long, value_name = "kvm|qtest", help_heading = HOST)]
    accel: Option<String>,
    /// Socket that --accel qtest is driven from, by QEMU's qtest protocol
    #[arg(long, value_name = "unix:PATH[,server=on]", help_heading = HOST)]
    qtest: Option<String>,
    /// File that shows what is said over the qtest socket
    #[arg(long, value_name = "FILE", help_heading = HOST)]
    qtest_log: Option<String>,
    /// seccomp filters and io_uring restrictions: on or off [default: on]
    #[arg(long, value_name = "on|off", help_heading = HOST)]
    sandbox: Option<String>,

    #[command(flatten)]
    qemu: QemuArgs,
}

/// Options of QEMU that change nothing here, taken so that its command lines work.
#[derive(Args, Debug)]
struct QemuArgs {
    #[arg(long, hide = true)]
    nodefaults: bool,
    #[arg(long, hide = true)]
    nographic: bool,
    #[arg(long, hide = true)]
    enable_kvm: bool,
    #[arg(long, hide = true, value_parser = ["none"])]
    display: Option<String>,
    #[arg(long, hide = true, value_parser = ["none"])]
    audio: Option<String>,
    #[arg(long, hide = true)]
    run_with: Vec<String>,
    #[arg(long, hide = true)]
    chardev: Vec<String>,
    #[arg(long, hide = true)]
    mon: Vec<String>,
    #[arg(long, hide = true, value_parser = ["host", "max"])]
    cpu: Option<String>,
    #[arg(long, alias = "M", hide = true, value_parser = ["q35"])]
    machine: Vec<String>,
    #[arg(long, hide = true, action = ArgAction::Append, value_parser = ["none"])]
    monitor: Vec<String>,
}

/// Does what the arguments of `spindle run` say.
pub(super) fn run(args: RunArgs, programs: &Programs) -> Result<Outcome, Stop> {
    if let Some(text) = wanted_help(&args)? {
        return Ok(Outcome::Print { text, status: 0 });
    }
    let print_spec = args.print_spec;
    let spec = describe(args)?.lower(&format::HostFiles)?;
    if print_spec {
        let text = spec.to_json().map_err(Stop::input)?;
        return Ok(Outcome::Print { text: text + "\n", status: 0 });
    }
    startable(&spec)?;
    (programs.run)(spec).map(Outcome::Exit).map_err(Stop::input)
}

/// What a machine needs before it can start, beyond being well described.
fn startable(spec: &MachineSpec) -> Result<(), SpecError> {
    if spec.kernel.is_some() || spec.bios.is_some() || spec.accel == AccelSpec::Qtest {
        return Ok(());
    }
    let reason = "there is nothing to start: give --kernel FILE, or --bios bios-256k.bin (of the \
                  package 'seabios') to boot from a disk";
    Err(SpecError::Conflict(reason.to_owned()))
}

/// The draft that the arguments describe.
fn describe(args: RunArgs) -> Result<Draft, SpecError> {
    let mut draft = match &args.config {
        Some(path) => read_config(path)?,
        None => Draft::default(),
    };
    let named = [
        ("accel", args.accel),
        ("qtest", args.qtest),
        ("qtest-log", args.qtest_log),
        ("kernel", args.kernel),
        ("bios", args.bios),
        ("firmware-log", args.firmware_log),
        ("initrd", args.initrd),
        ("append", args.append),
        ("memory", args.memory.map(|text| memory(&text)).transpose()?),
        ("cpus", args.cpus.map(|text| cpus(&text)).transpose()?),
        ("serial", args.serial),
        ("iothreads-max", args.iothreads_max),
        ("debug-exit", args.debug_exit),
        ("sandbox", args.sandbox),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            let of = format!("--{name}");
            draft.set(&of, Map::from_iter([(name.to_owned(), Value::String(value))]))?;
        }
    }
    for text in &args.qmp {
        draft.settings.qmp.push(QmpSpec::parse(text)?);
    }
    draft.settings.qmp.extend(qemu::monitors(&args.qemu.chardev, &args.qemu.mon)?);
    if args.no_reboot {
        draft.set_actions(keyval::parse("--no-reboot", "reboot=shutdown", None, &[])?)?;
    }
    for text in &args.action {
        draft.set_actions(keyval::parse("--action", text, None, &[])?)?;
    }
    for file in &args.cdrom {
        let keys = [("file", &**file), ("controller", "virtio-scsi"), ("media", "cdrom")];
        let options = keys.map(|(key, value)| (key.to_owned(), Value::from(value)));
        draft.disks.push(options.into_iter().collect());
    }
    for (of, texts, implied, to) in [
        ("--object", &args.object, "qom-type", &mut draft.objects),
        ("--blockdev", &args.blockdev, "driver", &mut draft.blockdevs),
        ("--disk", &args.disk, "file", &mut draft.disks),
        ("--device", &args.device, "driver", &mut draft.devices),
    ] {
        for text in texts {
            to.push(keyval::parse(of, text, Some(implied), &[])?);
        }
    }
    Ok(draft)
}

/// QEMU's `-m`: a size in MiB, or `size=…`.
fn memory(text: &str) -> Result<String, SpecError> {
    const OF: &str = "--memory";
    let text = sole_value(OF, text, "size")?;
    size::parse(&text, 1 << 20)
        .map(|bytes| bytes.to_string())
        .map_err(|reason| SpecError::bad(OF, "size", reason))
}

/// QEMU's `-smp`: a number, or `cpus=…`.
fn cpus(text: &str) -> Result<String, SpecError> {
    sole_value("--cpus", text, "cpus")
}

fn sole_value(of: &str, text: &str, key: &'static str) -> Result<String, SpecError> {
    let mut options = keyval::parse(of, text, Some(key), &[])?;
    let value = options.remove(key);
    if let Some(name) = options.keys().next() {
        return Err(SpecError::Unknown {
            of: of.to_owned(),
            what: "option",
            near: names::near(name, [key]),
            name: name.clone(),
        });
    }
    match value {
        Some(Value::String(value)) => Ok(value),
        _ => Err(SpecError::syntax(of, "it takes one value")),
    }
}

fn read_config(path: &Path) -> Result<Draft, SpecError> {
    let file_error = |source| SpecError::File { path: path.to_owned(), source };
    let content_error = |reason| SpecError::Content { path: path.to_owned(), reason };
    let mut text = String::new();
    let file = File::open(path).map_err(file_error)?;
    file.take(CONFIG_LEN_MAX + 1).read_to_string(&mut text).map_err(file_error)?;
    if text.len() as u64 > CONFIG_LEN_MAX {
        return Err(content_error(format!("it is longer than {}", size::format(CONFIG_LEN_MAX))));
    }
    let content: Value = match path.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => toml::from_str(&text).map_err(|e| content_error(e.to_string()))?,
        Some("json") => serde_json::from_str(&text).map_err(|e| content_error(e.to_string()))?,
        _ => {
            let reason = "the name of a description ends in .toml or .json".to_owned();
            return Err(content_error(reason));
        }
    };
    Draft::from_config(&path.display().to_string(), content)
        .map_err(|error| content_error(error.to_string()))
}

/// The text that `--device help` and its like ask for.
fn wanted_help(args: &RunArgs) -> Result<Option<String>, SpecError> {
    let wants = |text: &str| {
        let parts = keyval::split(text);
        parts.iter().any(|part| part == "help" || part == "?").then_some(parts)
    };
    if args.disk.iter().any(|text| wants(text).is_some()) {
        return Ok(Some(help::properties(&DISK)));
    }
    for (of, texts, tables, common) in [
        ("--device", &args.device, device::DEVICES, None),
        ("--object", &args.object, object::OBJECTS, None),
        ("--blockdev", &args.blockdev, block::DRIVERS, Some(block::COMMON)),
    ] {
        for text in texts {
            let Some(parts) = wants(text) else { continue };
            return help_of(of, parts.first().map_or("help", |name| name), tables, common)
                .map(Some);
        }
    }
    Ok(None)
}

fn help_of(
    of: &str,
    name: &str,
    tables: &[&'static Table],
    common: Option<&'static [crate::spec::props::Prop]>,
) -> Result<String, SpecError> {
    if name == "help" || name == "?" {
        return Ok(format!("{of} takes one of:\n{}", help::list(tables)));
    }
    let known = || tables.iter().map(|table| table.name);
    let table =
        tables.iter().find(|table| table.name == name).ok_or_else(|| SpecError::Unknown {
            of: of.to_owned(),
            what: "name",
            name: name.to_owned(),
            near: names::near(name, known()),
        })?;
    let mut text = help::properties(table);
    if let Some(props) = common {
        let all = Table { what: "", name: "common", help: "", props };
        text.push_str(&help::properties(&all));
    }
    Ok(text)
}
