//! QEMU's spelling of options: one dash before long names.
use std::ffi::OsString;

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

/// Turns `-kernel` into `--kernel` (and so on) in the arguments of `spindle run`.
pub(super) fn accept(args: Vec<OsString>) -> Vec<OsString> {
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
        assert_eq!(accepted(&["spindle", "img", "-object"]), ["spindle", "img", "-object"]);
    }
}
