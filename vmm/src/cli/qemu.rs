//! QEMU's spelling of options: one dash before long names, `-chardev` and `-mon`, and its name.
use crate::spec::keyval::{self, Options};
use crate::spec::{QmpSpec, SpecError};
use crate::tools::img::error;
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

/// A link to `spindle` whose name starts so runs machines: test programs name their QEMU.
const SYSTEM: &str = "qemu-system-";

/// The options of `run` that may be typed with one dash.
const LONG: &[&str] = &[
    "accel",
    "action",
    "append",
    "audio",
    "blockdev",
    "cdrom",
    "chardev",
    "cpu",
    "cpus",
    "debug-exit",
    "device",
    "disk",
    "display",
    "enable-kvm",
    "initrd",
    "kernel",
    "M",
    "machine",
    "memory",
    "mon",
    "no-reboot",
    "nodefaults",
    "nographic",
    "object",
    "qmp",
    "qtest",
    "qtest-log",
    "run-with",
    "sandbox",
    "serial",
    "smp",
];

/// Takes a command line as QEMU's users type it: started as `qemu-img` (`-io`, `-nbd`) or `qemu-system-…`, the program is
/// that tool; the size that `img resize` ends with may begin with a minus.
pub(super) fn accept(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().and_then(|arg| Path::new(arg).file_name()?.to_str());
    match name.map(str::to_owned).as_deref() {
        Some(name @ ("qemu-img" | "qemu-io" | "qemu-nbd")) => {
            let tool = name.trim_start_matches("qemu-");
            args.splice(..1, ["spindle".into(), tool.into()]);
        }
        Some(name) if name.starts_with(SYSTEM) => args.insert(1, "run".into()),
        _ => {}
    }
    let mut args = long_options(args);
    if args.get(1).is_some_and(|arg| arg == "img") {
        for pattern in take_traces(&mut args) {
            eprintln!("{}: warning: trace event '{pattern}' does not exist", error::prefix());
        }
    }
    let is_resize = args.get(1).is_some_and(|arg| arg == "img")
        && args.get(2).is_some_and(|arg| arg == "resize");
    let negative = |arg: &OsString| {
        let digits = arg.to_str().and_then(|text| text.strip_prefix('-'));
        digits.is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()))
    };
    if is_resize && args.last().is_some_and(negative) {
        args.insert(args.len() - 1, "--".into());
    }
    args
}

/// Takes `-T PATTERN` and `--trace PATTERN` from before the command: the options stay valid, but there are no
/// trace events. Returns the patterns that name one.
fn take_traces(args: &mut Vec<OsString>) -> Vec<String> {
    let mut patterns = Vec::new();
    while let Some(first) = args.get(2).and_then(|arg| arg.to_str()) {
        let joined = ["--trace=", "-T"].iter().find_map(|name| first.strip_prefix(name));
        let (taken, text) = match joined.filter(|text| !text.is_empty()) {
            Some(text) => (1, Some(text.to_owned())),
            None if matches!(first, "--trace" | "-T") => {
                (2, args.get(3).map(|arg| arg.to_string_lossy().into_owned()))
            }
            None => break,
        };
        // Without its argument it is the parser's to complain about.
        let Some(text) = text else { break };
        args.drain(2..2 + taken);
        let options = text.split(',').map(|part| part.strip_prefix("enable=").unwrap_or(part));
        patterns.extend(
            options
                .filter(|part| !part.contains(['=', '*']) && !part.is_empty())
                .map(str::to_owned),
        );
    }
    patterns
}

/// What `qemu-img --version` and its like print, where that is what was typed: the version of QEMU whose
/// command line it is, and ours. Scripts take the number from here.
pub(super) fn version(args: &[OsString]) -> Option<String> {
    const VERSION: &str = "10.0.2";
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let asked = args.get(1).is_some_and(|arg| arg == "--version" || arg == "-V");
    match Path::new(args.first()?).file_name()?.to_str()? {
        name @ ("qemu-img" | "qemu-io") if asked => {
            Some(format!("{name} version {VERSION} (spindle {OURS})\n"))
        }
        name @ "qemu-nbd" if asked => Some(format!("{name} {VERSION} (spindle {OURS})\n")),
        _ => None,
    }
}

/// Turns `-kernel` into `--kernel` (and so on) in the arguments of `spindle run`.
fn long_options(args: Vec<OsString>) -> Vec<OsString> {
    let is_run = args.get(1).is_some_and(|arg| arg == "run");
    let mut literal = !is_run;
    args.into_iter()
        .map(|arg| {
            literal |= arg == "--";
            match arg.to_str().and_then(|text| text.strip_prefix('-')) {
                Some(name) if !literal && LONG.contains(&name) => format!("--{name}").into(),
                _ => arg,
            }
        })
        .collect()
}

/// The monitors that `-mon chardev=ID,mode=control` puts on sockets of `-chardev socket,id=ID,…`.
pub(super) fn monitors(chardevs: &[String], mons: &[String]) -> Result<Vec<QmpSpec>, SpecError> {
    const CHARDEV: &str = "--chardev";
    const MON: &str = "--mon";
    let text = |options: &Options, key: &str| {
        options.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut sockets = Vec::new();
    for given in chardevs {
        let mut options = keyval::parse(CHARDEV, given, Some("backend"), &["server", "wait"])?;
        if text(&options, "backend") != "socket" {
            return Err(SpecError::bad(CHARDEV, "backend", "only 'socket' is offered"));
        }
        options.remove("backend");
        let id = text(&options, "id");
        options.remove("id");
        let rest = options.iter().map(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            format!("{key}={}", keyval::escape(value))
        });
        let spec = format!("unix:{}", rest.collect::<Vec<_>>().join(","));
        sockets.push((id, QmpSpec::parse(&spec)?));
    }
    let mut monitors = Vec::new();
    for given in mons {
        let options = keyval::parse(MON, given, Some("chardev"), &[])?;
        if text(&options, "mode") != "control" {
            return Err(SpecError::bad(MON, "mode", "only 'control' (QMP) is offered"));
        }
        let id = text(&options, "chardev");
        let socket = sockets.iter().find(|(known, _)| *known == id);
        let (_, socket) = socket
            .ok_or_else(|| SpecError::bad(MON, "chardev", format!("there is no chardev '{id}'")))?;
        monitors.push(socket.clone());
    }
    Ok(monitors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(args: &[&str]) -> Vec<String> {
        let args = args.iter().map(OsString::from).collect();
        accept(args).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn one_dash_becomes_two_for_run_only() {
        assert_eq!(
            accepted(&["spindle", "run", "-kernel", "k", "-m", "512", "--", "-smp"]),
            ["spindle", "run", "--kernel", "k", "-m", "512", "--", "-smp"]
        );
        assert_eq!(
            accepted(&["/usr/bin/qemu-img", "resize", "a", "-1M"]),
            ["spindle", "img", "resize", "a", "--", "-1M"]
        );
        assert_eq!(accepted(&["spindle", "img", "-object"]), ["spindle", "img", "-object"]);
    }

    #[test]
    fn trace_options_are_taken_from_before_the_command() {
        let mut args: Vec<OsString> = [
            "spindle",
            "img",
            "-T",
            "enable=bdrv_x,file=log",
            "--trace=qcow2*",
            "info",
            "-T",
            "none",
        ]
        .iter()
        .map(OsString::from)
        .collect();
        assert_eq!(take_traces(&mut args), ["bdrv_x"]);
        assert_eq!(args, ["spindle", "img", "info", "-T", "none"]);
        let mut short: Vec<OsString> =
            ["spindle", "img", "--trace"].iter().map(OsString::from).collect();
        assert!(take_traces(&mut short).is_empty());
        assert_eq!(short.len(), 3);
    }

    #[test]
    fn versions_begin_as_scripts_expect() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let said = version(&args(&["/usr/bin/qemu-img", "--version"])).expect("a version");
        assert!(said.starts_with("qemu-img version 10.0.2 (spindle "), "{said}");
        assert!(
            version(&args(&["qemu-nbd", "-V"])).expect("a version").starts_with("qemu-nbd 10.")
        );
        assert_eq!(version(&args(&["spindle", "--version"])), None);
        assert_eq!(version(&args(&["qemu-img", "info", "-V"])), None);
    }

    #[test]
    fn under_qemus_name_it_runs_machines() {
        let name = "/opt/qemu-system-x86_64";
        assert_eq!(accepted(&[name, "-accel", "qtest"]), [name, "run", "--accel", "qtest"]);
    }

    #[test]
    fn control_monitors_are_qmp() {
        let texts = |given: &[&str]| given.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let chardevs = texts(&["socket,path=/tmp/q,,1,id=char0", "socket,id=b,path=/b,server=on"]);
        let of = |mons: &[&str]| monitors(&chardevs, &texts(mons));
        let found = of(&["chardev=char0,mode=control", "b,mode=control"]).unwrap();
        let shown: Vec<String> = found.into_iter().map(String::from).collect();
        assert_eq!(shown, ["unix:/tmp/q,,1", "unix:/b,server=on"]);
        for (mon, part) in [("chardev=c,mode=control", "no chardev 'c'"), ("b", "control")] {
            let error = of(&[mon]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(monitors(&texts(&["pty,id=x"]), &[]).is_err());
    }
}
