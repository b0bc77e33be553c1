//! QEMU's spelling of options: one dash before long names.
use std::ffi::OsString;
use std::path::Path;

/// The options of `run` that may be typed with one dash.
const LONG: &[&str] = &[
    "accel",
    "action",
    "append",
    "blockdev",
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
    "no-reboot",
    "nodefaults",
    "nographic",
    "object",
    "qmp",
    "sandbox",
    "serial",
    "smp",
];

/// Takes a command line as QEMU's users type it: started as `qemu-img`, the program is that tool;
/// the size that `img resize` ends with may begin with a minus.
pub(super) fn accept(args: Vec<OsString>) -> Vec<OsString> {
    let started = args.first().map(Path::new).and_then(Path::file_name);
    let mut args = if started.is_some_and(|name| name == "qemu-img") {
        let mut args = args.into_iter();
        args.next();
        ["spindle", "img"].into_iter().map(OsString::from).chain(args).collect()
    } else {
        long_options(args)
    };
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
}
