//! Command lines and what they come to.
use super::*;
use std::path::Path;

fn never(_: MachineSpec) -> Result<u8, Failure> {
    panic!("nothing should run")
}

/// What `spindle ARGS` prints, or its exit status and message.
fn spindle(args: &[&str]) -> Result<String, (u8, String)> {
    spindle_with(args, &Programs { run: never })
}

fn spindle_with(args: &[&str], programs: &Programs) -> Result<String, (u8, String)> {
    let args = std::iter::once("spindle").chain(args.iter().copied()).map(OsString::from);
    let cli = parse(args.collect())
        .map_err(|e| (u8::try_from(e.exit_code()).unwrap(), e.render().to_string()))?;
    match dispatch(cli, programs) {
        Ok(Outcome::Print { text, status: 0 }) => Ok(text),
        Ok(Outcome::Print { text, status }) => Err((status, text)),
        Ok(Outcome::Exit(status)) => Err((status, String::new())),
        Err(stop) => Err((stop.status, with_causes(&*stop.failure))),
    }
}

fn spec(args: &[&str]) -> MachineSpec {
    let text = spindle(&[&["run", "--print-spec"], args].concat()).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_printed_specification_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let disk = file(dir.path(), "a,b.qcow2", b"QFI\xfb\0\0\0\x03");
    let args = [
        "-kernel",
        "vmlinuz",
        "-append",
        "-x console=ttyS0",
        "-m",
        "512",
        "-smp",
        "3",
        "--qmp",
        "unix:/tmp/q,server=on",
        "--action",
        "panic=pause,shutdown=pause",
        "--no-reboot",
        "--debug-exit",
        "--sandbox",
        "off",
        "--serial",
        "null",
        "--disk",
        &format!("{},queues=2,werror=stop", disk.replace(',', ",,")),
        "--device",
        "virtio-rng-pci",
        "-nographic",
        "-machine",
        "q35",
    ];
    let first = spec(&args);
    assert_eq!((first.memory, first.cpus, first.debug_exit), (512 << 20, 3, Some(0x501)));
    assert_eq!(first.append, "-x console=ttyS0");
    assert!(!first.sandbox);
    let config = file(dir.path(), "vm.json", first.to_json().unwrap().as_bytes());
    assert_eq!(spec(&["--config", &config]), first);
    let more = spec(&["--config", &config, "--cpus", "cpus=1", "-m", "2G"]);
    assert_eq!((more.cpus, more.memory), (1, 2 << 30));
    assert_eq!(more.devices, first.devices);
    let driven = spec(&["-accel", "qtest", "-qtest", "unix:/tmp/q,server=on", "-qtest-log", "l"]);
    assert_eq!((driven.accel, driven.kernel.is_some()), (crate::spec::AccelSpec::Qtest, false));
    let config = file(dir.path(), "qtest.json", driven.to_json().unwrap().as_bytes());
    assert_eq!(spec(&["--config", &config]), driven);
}

#[test]
fn wrong_command_lines_end_with_2_and_bad_input_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let image = file(dir.path(), "a.img", b"");
    let broken = file(dir.path(), "vm.toml", b"kernel = ");
    let unknown = file(dir.path(), "vm2.toml", b"kernal = 'x'");
    let missing = dir.path().join("none.raw").to_str().unwrap().to_owned();
    let cases: &[(&[&str], u8, &str)] = &[
        (&["run", "--kernle", "x"], 2, "--kernel"),
        (&["rum"], 2, "run"),
        (&["run"], 2, "--kernel FILE"),
        (&["run"], 2, "--bios bios-256k.bin"),
        (&["run", "--initrd", "i"], 2, "no kernel"),
        (&["run", "--bios", "b", "--initrd", "i"], 2, "no kernel"),
        (&["run", "--bios", "b", "--kernel", "k"], 2, "either --kernel or --bios"),
        (&["run", "--bios", "b", "--append", "quiet"], 2, "--append"),
        (&["run", "--bios", "b", "--accel", "qtest", "--qtest", "unix:q"], 2, "no CPU"),
        (&["run", "--firmware-log", "f", "--kernel", "k"], 2, "give --bios"),
        (&["run", "-m", "lots"], 2, "'lots' is not a size"),
        (&["run", "-m", "512,maxmem=1G"], 2, "maxmem"),
        (&["run", "-smp", "0"], 2, "not within 1"),
        (&["run", "--device", "virtio-blk-pci,quue-size=1"], 2, "did you mean 'queue-size'"),
        (&["run", "--action", "rebot=reset"], 2, "did you mean 'reboot'"),
        (&["run", "--sandbox", "maybe"], 2, "neither 'on' nor 'off'"),
        (&["run", "--device", "virtio-rng,help"], 2, "did you mean 'virtio-rng-pci'"),
        (&["run", "--accel", "tcg"], 2, "kvm"),
        (&["run", "--accel", "qtest"], 2, "--qtest unix:PATH"),
        (&["run", "-qtest", "unix:/tmp/q"], 2, "--accel qtest"),
        (&["run", "-accel", "qtest", "-qtest", "tcp:1"], 2, "unix:PATH"),
        (&["run", "--disk", &image], 1, "format=raw"),
        (&["run", "--disk", &missing], 1, "No such file"),
        (&["run", "--config", &broken], 1, "vm.toml"),
        (&["run", "--config", &unknown], 1, "did you mean 'kernel'"),
        (&["run", "--config", &image], 1, ".toml or .json"),
    ];
    for (args, status, part) in cases {
        let (got, message) = spindle(args).unwrap_err();
        assert!(got == *status && message.contains(part), "{args:?}: {got}: {message}");
    }
}

#[test]
fn help_comes_from_the_tables() {
    let text = spindle(&["run", "--device", "help"]).unwrap();
    assert!(text.contains("virtio-blk-pci"));
    let text = spindle(&["run", "--device", "virtio-blk-pci,help"]).unwrap();
    assert!(text.contains("num-queues=<number>"));
    assert!(spindle(&["run", "--disk", "help"]).unwrap().contains("detect-zeroes"));
    let text = spindle(&["run", "--blockdev", "qcow2,help"]).unwrap();
    assert!(text.contains("lazy-refcounts") && text.contains("cache.direct"));
    assert!(spindle(&["run", "--object", "?"]).unwrap().contains("iothread"));
    let (status, text) = spindle(&["run", "--help"]).unwrap_err();
    assert_eq!(status, 0);
    for heading in ["Guest:", "Disks and devices:", "Example:"] {
        assert!(text.contains(heading), "{text}");
    }
    assert!(!text.contains("nodefaults"));
}

#[test]
fn the_machines_exit_status_is_the_programs() {
    fn seven(spec: MachineSpec) -> Result<u8, Failure> {
        assert_eq!(spec.kernel.as_deref(), Some(Path::new("k")));
        Ok(7)
    }
    let (status, _) = spindle_with(&["run", "-k", "k"], &Programs { run: seven }).unwrap_err();
    assert_eq!(status, 7);
}

#[test]
fn img_takes_the_command_lines_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (base, top, raw) = (at("base.qcow2"), at("top.qcow2"), at("a.raw"));
    let text = spindle(&["img", "create", "-f", "qcow2", &base, "64M"]).unwrap();
    assert!(text.starts_with(&format!("Formatting '{base}', fmt=qcow2")), "{text}");
    let quiet = ["img", "create", "-q", "-b", "base.qcow2", "-F", "qcow2", "-o", "cluster_size=4k"];
    assert_eq!(spindle(&[&quiet[..], &[&top]].concat()).unwrap(), "");
    let text = spindle(&["img", "info", "--backing-chain", "--output=json", &top]).unwrap();
    let chain: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(chain[0]["cluster-size"], 4096);
    assert_eq!(chain[1]["filename"], base.as_str());
    let text = spindle(&["img", "info", "--output", "json", &base]).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["format"], "qcow2");
    assert!(spindle(&["img", "check", &top]).unwrap().contains("No errors were found"));
    assert_eq!(spindle(&["img", "check", "-q", "-r", "all", &top]).unwrap(), "");
    spindle(&["img", "create", &raw, "1M"]).unwrap();
    assert_eq!(spindle(&["img", "check", &raw]).unwrap_err().0, 63);
    assert!(spindle(&["img", "create", "-f", "qcow2", "-o", "help"]).unwrap().contains("compat"));
    let cases: &[(&[&str], u8, &str)] = &[
        (&["img", "create", "-f", "qcow2", &at("n")], 1, "needs a size"),
        (&["img", "create", "-f", "qcow3", &at("n"), "1M"], 1, "file format 'qcow3'"),
        (&["img", "create", "-b", &base, &at("n.qcow2")], 1, "Detected format of qcow2"),
        (&["img", "create", "-u", "-b", "x", "-F", "raw", &at("n.qcow2")], 1, "needs a size"),
        (&["img", "info", &at("none")], 1, "none"),
        (&["img", "check", &at("none")], 1, "none"),
        (&["img", "check", "-r", "leaks", "-U", &top], 1, "force-share=on can only"),
        (&["img", "chek", &top], 2, "check"),
    ];
    for (args, status, part) in cases {
        let (got, message) = spindle(args).unwrap_err();
        assert!(got == *status && message.contains(part), "{args:?}: {got}: {message}");
    }
}
