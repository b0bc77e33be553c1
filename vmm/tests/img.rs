//! The image tool, started as `qemu-img`, against qemu-img: what one says, the other says; what one
//! makes, the other takes. Without qemu-img there is nothing to compare with, and nothing is tested.

mod alike;

use alike::{Said, alike};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Two directories with the same images, one for each tool.
struct Pair {
    dir: tempfile::TempDir,
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

impl Pair {
    /// `None` where qemu-img is not installed.
    fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("qemu-img is not installed: nothing to compare with");
            return None;
        }
        let pair = Self { dir: tempfile::tempdir().expect("a directory") };
        for name in ["bin", "ours", "theirs"] {
            fs::create_dir(pair.at(name)).expect("a directory");
        }
        symlink(env!("CARGO_BIN_EXE_spindle"), pair.at("bin/qemu-img")).expect("a link");
        Some(pair)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ours(&self, args: &[&str]) -> Said {
        self.ours_in("ours", args)
    }

    fn ours_in(&self, dir: &str, args: &[&str]) -> Said {
        let mut command = Command::new(self.at("bin/qemu-img"));
        said(&command.args(args).current_dir(self.at(dir)).output().expect("our tool"))
    }

    fn theirs(&self, args: &[&str]) -> Said {
        self.theirs_in("theirs", args)
    }

    fn theirs_in(&self, dir: &str, args: &[&str]) -> Said {
        let mut command = Command::new("qemu-img");
        said(&command.args(args).current_dir(self.at(dir)).output().expect("qemu-img"))
    }

    fn must(&self, dir: &str, args: &[&str]) -> String {
        let (out, err, status) = self.theirs_in(dir, args);
        assert_eq!(status, Some(0), "qemu-img {args:?}: {out}{err}");
        out
    }

    fn io(&self, name: &str, commands: &[&str]) {
        let mut io = Command::new("qemu-io");
        for command in commands {
            io.args(["-c", command]);
        }
        let format = if name.ends_with("raw") { "raw" } else { "qcow2" };
        let done = io.args(["-f", format, name]).current_dir(self.at("theirs")).output();
        assert!(done.expect("qemu-io").status.success());
    }

    /// Copies what is in their directory to ours.
    fn share(&self) {
        for entry in fs::read_dir(self.at("theirs")).expect("a directory") {
            let from = entry.expect("an entry").path();
            let to = self.at("ours").join(from.file_name().expect("a name"));
            let copied = Command::new("cp").arg("--sparse=auto").arg(&from).arg(&to).status();
            assert!(copied.expect("cp").success());
        }
    }

    /// Images of several shapes, for both.
    fn with_images() -> Option<Self> {
        let pair = Self::new()?;
        let make = |args: &[&str]| drop(pair.must("theirs", args));
        make(&["create", "-q", "-f", "qcow2", "base.qcow2", "10M"]);
        pair.io(
            "base.qcow2",
            &["write -P 5 0 128k", "write -z 1M 64k", "write -P 7 3M 1M", "write -P 1 7M 4k"],
        );
        let overlay = "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 12M";
        make(&overlay.split(' ').collect::<Vec<_>>());
        pair.io("top.qcow2", &["write -P 9 64k 64k", "write -z 3M 64k", "write -P 3 11M 64k"]);
        make(&["convert", "-O", "raw", "base.qcow2", "base.raw"]);
        make(&["convert", "-c", "-O", "qcow2", "base.qcow2", "packed.qcow2"]);
        make(&["create", "-q", "-f", "raw", "empty.raw", "3M"]);
        make(&["create", "-q", "-f", "raw", "longer.raw", "10M"]);
        pair.io("longer.raw", &["write -P 5 0 128k", "write -P 7 3M 1M", "write -P 1 7M 4k"]);
        make(&["resize", "-q", "-f", "raw", "longer.raw", "11M"]);
        pair.share();
        Some(pair)
    }

    /// Both say the same, each of its own images.
    #[track_caller]
    fn agree(&self, args: &[&str]) {
        self.agree_on("ours", args);
    }

    /// Both say the same of the images that we are shown in `dir`.
    #[track_caller]
    fn agree_on(&self, dir: &str, args: &[&str]) {
        let mut ours = self.ours_in(dir, args);
        let mut theirs = self.theirs(args);
        // It measures how fast it is, and gives up where the host is busy.
        for _ in 0..50 {
            if !theirs.1.contains("accurate CPU usage") {
                break;
            }
            theirs = self.theirs(args);
        }
        // qemu-img has said so since version 8.2.
        if !theirs.0.contains("compressed\":") {
            for value in ["true", "false"] {
                ours.0 = ours.0.replace(&format!(", \"compressed\": {value}"), "");
            }
        }
        assert_eq!(alike(ours), alike(theirs), "{args:?}");
    }
}

#[test]
fn what_is_said_of_images_is_the_same() {
    let Some(pair) = Pair::with_images() else { return };
    for name in ["base.qcow2", "top.qcow2", "base.raw", "packed.qcow2", "empty.raw"] {
        for args in [
            &["map"][..],
            &["map", "--output=json"],
            &["map", "--output=json", "-s", "64k", "-l", "4M"],
            &["measure", "-O", "qcow2"],
            &["measure", "-O", "raw"],
            &["measure", "--output=json", "-O", "qcow2"],
            &["measure", "-O", "qcow2", "-o", "cluster_size=4k"],
            &["measure", "-O", "qcow2", "-o", "preallocation=falloc"],
            &["check"],
            &["check", "--output=json"],
        ] {
            // The same files: a copy may have other holes.
            pair.agree_on("theirs", &[args, &[name]].concat());
        }
    }
    for args in [
        &["compare", "base.qcow2", "base.raw"][..],
        &["compare", "base.qcow2", "packed.qcow2"],
        &["compare", "base.qcow2", "top.qcow2"],
        &["compare", "-q", "base.qcow2", "top.qcow2"],
        &["compare", "top.qcow2", "base.raw"],
        &["compare", "-s", "base.qcow2", "base.raw"],
        &["compare", "-s", "base.qcow2", "base.qcow2"],
        &["compare", "-s", "base.raw", "longer.raw"],
        &["compare", "-f", "raw", "-F", "raw", "base.raw", "longer.raw"],
        &["compare", "empty.raw", "base.raw"],
        &["measure", "--size", "1G", "-O", "qcow2"],
        &["measure", "--size", "1T", "-O", "qcow2", "-o", "cluster_size=2M"],
        &["measure", "--size", "1G", "--output=json", "-O", "qcow2", "-o", "compat=0.10"],
        &["measure", "--size", "1000", "-O", "raw"],
    ] {
        pair.agree_on("theirs", args);
    }
}

#[test]
fn mistakes_are_named_in_the_same_words() {
    let Some(pair) = Pair::with_images() else { return };
    for args in [
        &[][..],
        &["nothing"],
        &["map", "none"],
        &["map"],
        &["map", "base.raw", "base.raw"],
        &["map", "-f", "zz", "base.raw"],
        &["map", "-f", "qcow2", "base.raw"],
        &["info", "none"],
        &["info", "-f", "zz", "base.raw"],
        &["info"],
        &["check", "none"],
        &["check"],
        &["compare", "base.raw"],
        &["compare", "base.raw", "none"],
        &["compare", "-f", "zz", "base.raw", "base.raw"],
        &["measure"],
        &["measure", "--size", "1G", "base.raw"],
        &["measure", "-O", "zz", "base.raw"],
        &["resize", "base.qcow2", "5M"],
        &["resize", "base.qcow2", "zz"],
        &["resize", "none", "5M"],
        &["resize", "base.raw", "-20M"],
        &["resize", "-f", "raw", "base.raw", "0"],
        &["resize", "--preallocation=xx", "base.qcow2", "20M"],
        &["resize", "--preallocation=full", "-f", "raw", "--shrink", "base.raw", "1M"],
        &["resize", "--preallocation=metadata", "-f", "raw", "base.raw", "30M"],
        &["convert"],
        &["convert", "base.raw"],
        &["convert", "-O", "qcow2", "none", "x"],
        &["convert", "-O", "zz", "base.raw", "x"],
        &["convert", "-f", "zz", "base.raw", "x"],
        &["convert", "-f", "qcow2", "base.raw", "x"],
        &["convert", "-n", "-O", "raw", "base.qcow2", "none"],
        &["convert", "-n", "-o", "size=3", "-O", "raw", "base.qcow2", "x"],
        &["convert", "-n", "-O", "raw", "longer.raw", "empty.raw"],
        &["convert", "-c", "-O", "raw", "base.qcow2", "x"],
        &["convert", "-S", "3", "base.raw", "x"],
        &["convert", "-m", "0", "base.raw", "x"],
        &["convert", "-m", "17", "base.raw", "x"],
        &["convert", "-t", "xx", "base.raw", "x"],
        &["convert", "-T", "xx", "base.raw", "x"],
        &["convert", "-O", "qcow2", "-o", "bogus=1", "base.raw", "x"],
        &["convert", "-O", "qcow2", "-B", "base.qcow2", "top.qcow2", "x"],
        &["convert", "-O", "qcow2", "-B", "none", "-F", "raw", "base.raw", "x"],
        &["convert", "-O", "raw", "-B", "base.raw", "base.raw", "x"],
        &["convert", "-O", "raw", "base.raw", "base.raw"],
        &["convert", "--target-is-zero", "base.raw", "x"],
        &["dd"],
        &["dd", "if=base.raw"],
        &["dd", "zz=1"],
        &["dd", "if=base.raw", "of=x", "bs=0"],
        &["dd", "if=none", "of=x"],
        &["dd", "-f", "zz", "if=base.raw", "of=x"],
        &["dd", "-O", "zz", "if=base.raw", "of=x"],
        &["commit"],
        &["commit", "none"],
        &["commit", "base.qcow2"],
        &["commit", "-t", "zz", "top.qcow2"],
        &["commit", "-b", "empty.raw", "top.qcow2"],
        &["rebase"],
        &["rebase", "top.qcow2"],
        &["rebase", "-b", "base.raw", "top.qcow2"],
        &["rebase", "-u", "-b", "base.raw", "top.qcow2"],
        &["rebase", "-b", "none", "-F", "raw", "top.qcow2"],
        &["rebase", "-b", "base.raw", "-F", "zz", "top.qcow2"],
        &["rebase", "-b", "base.raw", "-F", "raw", "none"],
        &["rebase", "-b", "base.raw", "-F", "raw", "empty.raw"],
        &["rebase", "-f", "raw", "-u", "-b", "base.raw", "-F", "raw", "empty.raw"],
        &["rebase", "-t", "zz", "-b", "base.raw", "-F", "raw", "top.qcow2"],
        &["rebase", "-T", "zz", "-b", "base.raw", "-F", "raw", "top.qcow2"],
        &["rebase", "-b", "top.qcow2", "-F", "qcow2", "top.qcow2"],
        &["bench"],
        &["bench", "--flush-interval=3", "-f", "raw", "base.raw"],
        &["bench", "-w", "--flush-interval=3", "-f", "raw", "base.raw"],
        &["bench", "-i", "zz", "base.raw"],
    ] {
        pair.agree(args);
        assert!(!pair.at("ours").join("x").exists(), "{args:?} left a target behind");
        let _ = fs::remove_file(pair.at("theirs").join("x"));
    }
}

/// Version 10's words, where they are others than those of version 7.2.
#[test]
fn newer_words_are_version_10s() {
    let dir = tempfile::tempdir().expect("a directory");
    symlink(env!("CARGO_BIN_EXE_spindle"), dir.path().join("qemu-img")).expect("a link");
    let run = |args: &[&str]| {
        let mut command = Command::new(dir.path().join("qemu-img"));
        said(&command.args(args).current_dir(dir.path()).output().expect("our tool"))
    };
    assert_eq!(run(&["create", "-q", "-f", "raw", "a", "1M"]).2, Some(0));
    let hint = |command: &str| format!("Try 'qemu-img {command} --help' for more info\n");
    for (args, words, command) in [
        (&["create"][..], "qemu-img: Expecting image file name", "create"),
        (&["create", "-f"], "qemu-img create: option requires an argument -- 'f'", "create"),
        (&["create", "a", "1M", "b"], "qemu-img: Unexpected argument: b", "create"),
        (&["create", "-Z"], "qemu-img create: invalid option -- 'Z'", "create"),
        (&["map", "--zz", "a"], "qemu-img map: unrecognized option '--zz'", "map"),
        (
            &["map", "--output=x", "a"],
            "qemu-img: --output expects 'human' or 'json' not 'x'",
            "map",
        ),
        (
            &["bitmap", "--merge"],
            "qemu-img bitmap: option '--merge' requires an argument",
            "bitmap",
        ),
        (
            &["check", "-r", "zz", "a"],
            "qemu-img: --repair (-r) expects 'leaks' or 'all' not 'zz'",
            "check",
        ),
        (&["resize", "a"], "qemu-img: Expecting image file name and size", "resize"),
        (&["resize", "a", "1", "2"], "qemu-img: Extra argument(s) in command line", "resize"),
        (&["map", "-s", "zz", "a"], "qemu-img: Invalid start offset specified: 'zz'.", ""),
        (&["measure", "--size", "zz"], "qemu-img: Invalid image size specified: 'zz'.", ""),
        (&["dd", "if=a", "of=b", "bs=zz"], "qemu-img: Invalid bs specified: 'zz'.", ""),
        (
            &["bench", "-c", "0", "a"],
            "qemu-img: Invalid request count specified. Must be between 1 and 2147483647.",
            "",
        ),
        (
            &["bench", "-w", "--pattern=300", "a"],
            "qemu-img: Invalid pattern byte specified. Must be between 0 and 255.",
            "",
        ),
        (&["create", "-f", "zz", "b", "1M"], "qemu-img: b: Unknown file format 'zz'", ""),
        (&["create", "-f", "qcow2", "b"], "qemu-img: b: Image creation needs a size parameter", ""),
        (
            &["create", "-f", "qcow2", "b", "1X"],
            "qemu-img: Invalid image size specified: '1X'.",
            "",
        ),
        (
            &["create", "-f", "qcow2", "-o", "zz=1", "b", "1M"],
            "qemu-img: b: Invalid parameter 'zz'",
            "",
        ),
        (
            &["create", "-f", "qcow2", "-b", "none", "-F", "raw", "b"],
            "qemu-img: b: Could not open 'none': No such file or directory\nCould not open backing \
             image.",
            "",
        ),
        (
            &["create", "-f", "qcow2", "-b", "a", "b"],
            "qemu-img: b: Backing file specified without backing format\nDetected format of raw.",
            "",
        ),
        (
            &["create", "-f", "dmg", "-o", "help"],
            "qemu-img: Format driver 'dmg' does not support image creation",
            "",
        ),
    ] {
        let tail = if command.is_empty() { String::new() } else { hint(command) };
        let wanted = (String::new(), format!("{words}\n{tail}"), Some(1));
        assert_eq!(run(args), wanted, "{args:?}");
    }
    let (out, _, status) = run(&["info", "--output=json", "a"]);
    assert_eq!(status, Some(0));
    let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["children"][0]["info"]["virtual-size"], 1 << 20, "{out}");
    let (out, ..) = run(&["info", "a"]);
    assert!(
        out.contains("Child node '/file':\n    filename: a\n    protocol type: file\n"),
        "{out}"
    );
    let (out, ..) = run(&["create", "-f", "vdi", "-o", "help"]);
    assert!(out.starts_with("Supported vdi options:\n  size=<size>            - Virtual"), "{out}");
}

/// Options of `convert`, and the names of source and target.
const CONVERSIONS: &[(&[&str], &str, &str)] = &[
    (&["-O", "qcow2"], "base.raw", "a.qcow2"),
    (&["-O", "qcow2"], "top.qcow2", "b.qcow2"),
    (&["-O", "raw"], "top.qcow2", "c.raw"),
    (&["-O", "raw"], "packed.qcow2", "d.raw"),
    (&["-O", "raw", "-S", "0"], "base.qcow2", "e.raw"),
    (&["-O", "qcow2", "-S", "0"], "base.qcow2", "f.qcow2"),
    (&["-O", "qcow2", "-c"], "base.raw", "g.qcow2"),
    (&["-O", "qcow2", "-c", "-o", "compression_type=zstd"], "top.qcow2", "h.qcow2"),
    (&["-O", "qcow2", "-c", "-o", "cluster_size=4k"], "top.qcow2", "i.qcow2"),
    (&["-O", "qcow2", "-c", "-o", "cluster_size=2M", "-m", "1"], "top.qcow2", "j.qcow2"),
    (&["-O", "qcow2", "-c", "-o", "cluster_size=512"], "base.raw", "k.qcow2"),
    (&["-O", "qcow2", "-o", "compat=0.10", "-W", "-m", "16"], "base.raw", "l.qcow2"),
    (&["-O", "qcow2", "-o", "cluster_size=512,lazy_refcounts=on"], "base.raw", "m.qcow2"),
    (&["-O", "qcow2", "-o", "preallocation=metadata"], "base.raw", "n.qcow2"),
    (&["-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2"], "top.qcow2", "o.qcow2"),
    (&["-O", "qcow2", "-B", "empty.raw", "-F", "raw"], "base.raw", "p.qcow2"),
    (&["-O", "raw", "-t", "none", "-T", "none"], "base.qcow2", "q.raw"),
    (&["-O", "raw", "-t", "directsync"], "base.qcow2", "r.raw"),
];

#[test]
fn converted_images_hold_what_their_sources_do() {
    let Some(pair) = Pair::with_images() else { return };
    for (options, source, target) in CONVERSIONS {
        let args = [&["convert"], *options, &[*source, *target]].concat();
        pair.agree(&args);
        pair.must("ours", &["compare", source, target]);
        if target.ends_with("qcow2") {
            pair.must("ours", &["check", target]);
        }
        let theirs = pair.theirs_in("ours", &["compare", target, &format!("../theirs/{target}")]);
        assert_eq!(theirs.2, Some(0), "{args:?}: {theirs:?}");
        let info = |dir| {
            let text = pair.must(dir, &["info", "--output=json", target]);
            let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            value["actual-size"].take();
            value
        };
        assert_eq!(info("ours"), info("theirs"), "{args:?}");
        // Our own reading of it.
        assert_eq!(pair.ours(&["compare", source, target]).2, Some(0), "{args:?}");
        assert!(pair.ours(&["check", target]).2.is_some_and(|s| s == 0 || s == 63), "{args:?}");
    }
    let compressed = pair.must("ours", &["check", "--output=json", "g.qcow2"]);
    assert!(compressed.contains("compressed-clusters\": "), "{compressed}");
    let sparse = fs::metadata(pair.at("ours/c.raw")).expect("a file");
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 4 << 20, "{sparse:?}");
}

#[test]
fn several_sources_follow_each_other_and_targets_may_exist() {
    let Some(pair) = Pair::with_images() else { return };
    pair.agree(&["convert", "-O", "qcow2", "base.raw", "empty.raw", "packed.qcow2", "all.qcow2"]);
    pair.agree(&["convert", "-c", "-O", "qcow2", "base.raw", "empty.raw", "top.qcow2", "c.qcow2"]);
    for name in ["all.qcow2", "c.qcow2"] {
        pair.must("ours", &["compare", name, &format!("../theirs/{name}")]);
        pair.must("ours", &["check", name]);
    }
    // What was in an existing target is gone, zeros included.
    for (name, size) in [("old.raw", "11M"), ("old.qcow2", "11M")] {
        let format = if name.ends_with("raw") { "raw" } else { "qcow2" };
        pair.must("theirs", &["create", "-q", "-f", format, name, size]);
        pair.io(name, &["write -P 200 0 11M"]);
        fs::copy(pair.at("theirs").join(name), pair.at("ours").join(name)).expect("a copy");
        pair.agree(&["convert", "-n", "-O", format, "base.raw", name]);
        pair.must("ours", &["compare", "-F", format, name, &format!("../theirs/{name}")]);
    }
    pair.must("ours", &["check", "old.qcow2"]);
}

#[test]
fn resized_images_are_the_same() {
    let Some(pair) = Pair::with_images() else { return };
    for args in [
        &["resize", "base.qcow2", "+5M"][..],
        &["resize", "--shrink", "base.qcow2", "3200k"],
        &["resize", "base.qcow2", "20M"],
        &["resize", "-q", "-f", "raw", "base.raw", "12M"],
        &["resize", "-f", "raw", "--shrink", "base.raw", "-9M"],
        &["resize", "-f", "raw", "--preallocation=full", "base.raw", "+1M"],
        &["resize", "-f", "raw", "--preallocation=falloc", "base.raw", "+1M"],
        &["resize", "--preallocation=full", "packed.qcow2", "+1M"],
        &["resize", "--preallocation=metadata", "base.qcow2", "+3M"],
        &["resize", "--preallocation=metadata", "top.qcow2", "+100k"],
        &["resize", "-f", "raw", "--preallocation=metadata", "base.raw", "+1M"],
        &["resize", "top.qcow2", "13M"],
    ] {
        pair.agree(args);
        for name in ["base.qcow2", "base.raw", "packed.qcow2", "top.qcow2"] {
            pair.must("ours", &["compare", name, &format!("../theirs/{name}")]);
        }
        for name in ["base.qcow2", "packed.qcow2", "top.qcow2"] {
            pair.must("ours", &["check", name]);
            let allocated = |dir| {
                let text = pair.must(dir, &["check", "--output=json", name]);
                let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                value["allocated-clusters"].clone()
            };
            assert_eq!(allocated("ours"), allocated("theirs"), "{args:?}: {name}");
        }
    }
}

#[test]
fn parts_are_copied_the_same() {
    let Some(pair) = Pair::with_images() else { return };
    for (args, target) in [
        (&["dd", "-O", "qcow2", "if=top.qcow2", "of=b.qcow2", "bs=1M", "count=5"][..], "b.qcow2"),
        (&["dd", "if=base.qcow2", "of=c.raw", "bs=3k", "count=5"], "c.raw"),
        (&["dd", "if=base.qcow2", "of=d.raw", "bs=1M", "skip=9"], "d.raw"),
        (&["dd", "if=base.raw", "of=e.raw"], "e.raw"),
    ] {
        pair.agree(args);
        pair.must("ours", &["compare", target, &format!("../theirs/{target}")]);
    }
    // As dd(1) counts: after what is skipped. qemu-img 7.2 copies less.
    let args = ["dd", "if=base.raw", "of=f.raw", "bs=1M", "count=3", "skip=2"];
    assert_eq!(pair.ours(&args), (String::new(), String::new(), Some(0)));
    let source = fs::read(pair.at("ours/base.raw")).expect("the source");
    assert!(fs::read(pair.at("ours/f.raw")).expect("the target") == source[2 << 20..5 << 20]);
}

#[test]
fn a_measurement_says_what_it_does() {
    let Some(pair) = Pair::with_images() else { return };
    for args in [
        &["bench", "-c", "100", "-d", "8", "-f", "raw", "base.raw"][..],
        &["bench", "-c", "64", "-s", "64k", "-S", "128k", "-o", "512k", "top.qcow2"],
        &["bench", "-w", "-c", "50", "-d", "4", "--flush-interval=8", "--pattern=7", "base.qcow2"],
    ] {
        let first = |said: Said| {
            assert_eq!((said.1.as_str(), said.2), ("", Some(0)), "{args:?}");
            let (lines, last) = said.0.trim_end().rsplit_once('\n').expect("two lines");
            assert!(last.starts_with("Run completed in ") && last.ends_with(" seconds."), "{last}");
            lines.to_owned()
        };
        assert_eq!(first(pair.ours(args)), first(pair.theirs(args)), "{args:?}");
    }
    pair.must("ours", &["check", "base.qcow2"]);
    pair.must("ours", &["compare", "base.qcow2", "../theirs/base.qcow2"]);
}

#[test]
fn progress_is_told_to_people_and_programs() {
    let Some(pair) = Pair::with_images() else { return };
    let (text, _, status) = pair.ours(&["convert", "-p", "-O", "raw", "base.qcow2", "p.raw"]);
    assert_eq!(status, Some(0));
    assert!(text.starts_with("    (0.00/100%)\r") && text.ends_with("    (100.00/100%)\r\n"));
    let args = ["convert", "--progress=json", "-O", "raw", "base.qcow2", "j.raw"];
    let (text, _, status) = pair.ours(&args);
    assert_eq!(status, Some(0));
    let last = text.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!((&last["offset"], &last["percent"]), (&(10 << 20).into(), &100.0.into()));
}

#[test]
fn a_failed_conversion_leaves_no_target() {
    let Some(pair) = Pair::with_images() else { return };
    // A source that is cut short in the middle of its data.
    let path = pair.at("ours/base.qcow2");
    let bytes = fs::read(&path).expect("an image");
    let mut broken = bytes.clone();
    // The L1 entry points outside the file (docs/interop/qcow2.txt, header bytes 40 to 47).
    let l1 =
        usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().expect("8"))).expect("fits");
    broken[l1..l1 + 8].copy_from_slice(&0x8000_0000_0000_0200_u64.to_be_bytes());
    fs::write(&path, broken).expect("a write");
    for target in ["new.raw", "new.qcow2"] {
        let format = if target.ends_with("raw") { "raw" } else { "qcow2" };
        let (_, message, status) = pair.ours(&["convert", "-O", format, "base.qcow2", target]);
        assert_eq!(status, Some(1), "{message}");
        assert!(message.starts_with("qemu-img: error while reading"), "{message}");
        assert!(!Path::new(&pair.at("ours").join(target)).exists(), "{target}");
    }
}

#[test]
fn a_rebased_image_reads_as_before() {
    let Some(pair) = Pair::with_images() else { return };
    pair.agree(&["convert", "-O", "raw", "top.qcow2", "before.raw"]);
    for (backing, format) in
        [("longer.raw", "raw"), ("packed.qcow2", "qcow2"), ("empty.raw", "raw"), ("", "raw")]
    {
        let mut args = vec!["rebase", "-b", backing, "top.qcow2"];
        if !backing.is_empty() {
            args.splice(1..1, ["-F", format]);
        }
        pair.agree(&args);
        pair.must("ours", &["compare", "top.qcow2", "before.raw"]);
        pair.must("ours", &["check", "top.qcow2"]);
        let info = pair.must("ours", &["info", "--output=json", "top.qcow2"]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        assert_eq!(info["backing-filename"].as_str().unwrap_or_default(), backing);
    }
    // Since version 9.1 what is copied may be compressed.
    pair.must("ours", &["convert", "-O", "qcow2", "base.qcow2", "under.qcow2"]);
    pair.must(
        "ours",
        &["create", "-q", "-f", "qcow2", "-b", "under.qcow2", "-F", "qcow2", "packs.qcow2"],
    );
    let packed = pair.ours(&["rebase", "-c", "-b", "empty.raw", "-F", "raw", "packs.qcow2"]);
    assert_eq!(packed, (String::new(), String::new(), Some(0)));
    pair.must("ours", &["compare", "packs.qcow2", "under.qcow2"]);
    let counts = pair.must("ours", &["check", "--output=json", "packs.qcow2"]);
    assert!(counts.contains("compressed-clusters\": "), "{counts}");
    // Only the name, of a file that is not there.
    pair.agree(&["rebase", "-u", "-b", "none", "-F", "qcow2", "top.qcow2"]);
    pair.agree(&["rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    pair.must("ours", &["compare", "top.qcow2", "before.raw"]);
    pair.agree(&["rebase", "-u", "-b", "", "top.qcow2"]);
    pair.must("ours", &["compare", "top.qcow2", "before.raw"]);
}

#[test]
fn a_commit_moves_everything_into_the_backing_file() {
    let Some(pair) = Pair::with_images() else { return };
    for dir in ["ours", "theirs"] {
        pair.must(dir, &["convert", "-O", "raw", "top.qcow2", "before.raw"]);
        let make = ["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "more.qcow2"];
        pair.must(dir, &make);
    }
    pair.agree(&["commit", "-d", "top.qcow2"]);
    pair.must("ours", &["compare", "top.qcow2", "before.raw"]);
    pair.must("ours", &["compare", "base.qcow2", "before.raw"]);
    assert!(pair.must("ours", &["map", "top.qcow2"]).contains("top.qcow2"));
    pair.agree(&["commit", "top.qcow2"]);
    pair.must("ours", &["compare", "top.qcow2", "before.raw"]);
    assert!(!pair.must("ours", &["map", "top.qcow2"]).contains("top.qcow2"));
    pair.agree(&["commit", "-q", "-b", "base.qcow2", "more.qcow2"]);
    for name in ["top.qcow2", "base.qcow2", "more.qcow2"] {
        pair.must("ours", &["check", name]);
        pair.must("ours", &["compare", name, &format!("../theirs/{name}")]);
    }
}

#[test]
fn images_are_named_by_options_and_json_too() {
    let Some(pair) = Pair::with_images() else { return };
    let top = "driver=qcow2,file.driver=file,file.filename=top.qcow2";
    let json = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}"#;
    let alone = "driver=qcow2,file.filename=top.qcow2,backing=";
    for args in [
        &["map", "--image-opts", top][..],
        &["map", "--output=json", json],
        &["check", "--image-opts", top],
        &["check", "-T", "none", "base.qcow2"],
        &["check", "-T", "zz", "base.qcow2"],
        &["compare", json, "base.raw"],
        &["compare", "--image-opts", top, "driver=raw,file.filename=base.raw"],
        &["compare", "--image-opts", "-f", "raw", top, top],
        &["measure", "--image-opts", "-O", "qcow2", top],
        &["measure", "-O", "qcow2", json],
        &["map", "--image-opts", "-f", "qcow2", top],
        &["map", "--image-opts", "driver=qcow2,file.filename=none"],
        &["map", "--image-opts", "driver=zz,file.filename=base.raw"],
        &["map", "--image-opts", "driver=qcow2"],
        &["map", "json:{"],
        &["map", "zz:base.raw"],
        &["info", "--object", "foo,id=x", "base.raw"],
        &["info", "--object", "secret,id=x,data=y", "--output=json", "none"],
        &["convert", "-C", "-S", "4k", "base.raw", "x"],
        &["convert", "-C", "-c", "base.raw", "x"],
        &["convert", "--target-image-opts", "base.raw", "x"],
        &["convert", "--skip-broken-bitmaps", "base.raw", "x"],
        &["convert", "--bitmaps", "-f", "raw", "-O", "qcow2", "base.raw", "x"],
    ] {
        pair.agree_on("theirs", args);
        let _ = fs::remove_file(pair.at("theirs").join("x"));
    }
    let raw = "driver=raw,offset=64k,size=128k,file.filename=base.raw";
    for (args, target) in [
        (&["convert", "--image-opts", "-O", "raw", top, "a.raw"][..], "a.raw"),
        (&["convert", "--image-opts", "-O", "raw", alone, "b.raw"], "b.raw"),
        (&["convert", "--image-opts", "-O", "qcow2", raw, "c.qcow2"], "c.qcow2"),
        (&["convert", "-C", "-O", "raw", json, "d.raw"], "d.raw"),
        (&["convert", "-r", "1G", "-O", "raw", json, "e.raw"], "e.raw"),
        (&["dd", "--image-opts", &format!("if={top}"), "of=f.raw", "bs=1M", "count=2"], "f.raw"),
    ] {
        pair.agree(args);
        pair.must("ours", &["compare", target, &format!("../theirs/{target}")]);
    }
    let existing = "driver=raw,file.filename=a.raw";
    pair.agree(&["convert", "-n", "--target-image-opts", "base.raw", existing]);
    pair.agree(&["resize", "--image-opts", "driver=raw,file.filename=a.raw", "13M"]);
    pair.must("ours", &["compare", "a.raw", "../theirs/a.raw"]);
}

/// The passphrases of encrypted images.
const SECRETS: [&str; 6] = [
    "--object",
    "secret,id=s,data=pw",
    "--object",
    "secret,id=n,data=bmV3,format=base64",
    "--object",
    "secret,id=w,data=wrong",
];

fn with_secrets<'a>(command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&[command][..], &SECRETS, args].concat()
}

/// QEMU measures how fast it is, and gives up where the host is busy.
fn make_encrypted(pair: &Pair, args: &[&str]) {
    for _ in 0..50 {
        let (out, err, status) = pair.theirs(&with_secrets("create", args));
        if status == Some(0) {
            return;
        }
        assert!(err.contains("accurate CPU usage"), "{args:?}: {out}{err}");
    }
    panic!("QEMU made no image in fifty attempts");
}

#[test]
fn what_is_said_of_encrypted_images_is_the_same() {
    let Some(pair) = Pair::new() else { return };
    let luks = "driver=luks,key-secret=s,file.filename=a.luks";
    let qcow2 = "driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2";
    make_encrypted(&pair, &["-q", "-f", "luks", "-o", "key-secret=s,iter-time=10", "a.luks", "1M"]);
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    make_encrypted(&pair, &["-q", "-f", "qcow2", "-o", options, "a.qcow2", "1M"]);
    let old = "encrypt.format=aes,encrypt.key-secret=s";
    make_encrypted(&pair, &["-q", "-f", "qcow2", "-o", old, "old.qcow2", "1M"]);
    make_encrypted(&pair, &["-q", "-f", "qcow2", "plain.qcow2", "1M"]);
    pair.share();
    for args in [
        &["map", "a.qcow2"][..],
        &["map", "a.luks"],
        &["check", "a.luks"],
        &["check", "a.qcow2"],
        &["check", "old.qcow2"],
        &["check", "--image-opts", qcow2],
        &["check", "--image-opts", luks],
        &["map", "--output=json", "--image-opts", qcow2],
        &["map", "--output=json", "--image-opts", luks],
        &["map", "--image-opts", "driver=luks,key-secret=w,file.filename=a.luks"],
        &["map", "--image-opts", "driver=luks,key-secret=q,file.filename=a.luks"],
        &["map", "--image-opts", "driver=qcow2,encrypt.key-secret=w,file.filename=a.qcow2"],
        &["map", "--image-opts", "driver=qcow2,encrypt.key-secret=q,file.filename=a.qcow2"],
        &["map", "--image-opts", "driver=qcow2,encrypt.foo=1,file.filename=a.qcow2"],
        &["map", "--image-opts", "driver=qcow2,encrypt.format=luks,file.filename=plain.qcow2"],
        &["create", "-f", "luks", "new", "1M"],
        &["create", "-f", "luks", "-o", "key-secret=q", "new", "1M"],
        &["create", "-f", "qcow2", "-o", "encrypt.format=luks", "new", "1M"],
        &["create", "-f", "qcow2", "-o", "encrypt.key-secret=s", "new", "1M"],
        &["create", "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=q", "new", "1M"],
        &["measure", "-O", "luks", "-o", "key-secret=s", "--size", "1M"],
        &["measure", "-O", "qcow2", "-o", options, "--size", "10M"],
        &["convert", "-O", "luks", "plain.qcow2", "new"],
        &["convert", "-c", "-O", "qcow2", "-o", options, "plain.qcow2", "new"],
        &["rebase", "-u", "-b", "plain.qcow2", "-F", "qcow2", "a.qcow2"],
        &["amend", "-o", "state=active", "--image-opts", luks],
        &["amend", "-o", "new-secret=n", "--image-opts", luks],
        &["amend", "-o", "state=inactive", "--image-opts", luks],
        &["amend", "-o", "state=active,new-secret=n,keyslot=0", "--image-opts", luks],
        &["amend", "-o", "state=inactive,keyslot=0", "--image-opts", luks],
        &["amend", "-o", "state=inactive,old-secret=s", "--image-opts", luks],
        &["amend", "-o", "encrypt.state=inactive,encrypt.keyslot=0", "--image-opts", qcow2],
        &["amend", "-o", "encrypt.state=active,encrypt.new-secret=n", "plain.qcow2"],
    ] {
        pair.agree(&with_secrets(args[0], &args[1..]));
    }
    // What is told of the slots is the same in both; version 7.2 leaves a line out.
    for image in ["a.luks", "a.qcow2", "old.qcow2"] {
        let lines = |(out, _, status): Said| {
            assert_eq!(status, Some(0), "{out}");
            let kept =
                |line: &&str| !line.contains("detached header") && !line.contains("disk size");
            out.lines()
                .filter(kept)
                .take_while(|line| !line.starts_with("Child node"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(pair.ours(&["info", image])), lines(pair.theirs(&["info", image])));
    }
}

#[test]
fn encrypted_images_go_to_and_fro() {
    let Some(pair) = Pair::new() else { return };
    let raw = |dir: &str, name: &str| fs::read(pair.at(dir).join(name)).expect("a file");
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|n| (n / 512 * 7 + n % 251) as u8).collect();
    fs::write(pair.at("ours/raw"), &bytes).expect("write");
    for (name, format, options, driver) in [
        ("a.luks", "luks", "key-secret=s,iter-time=10,cipher-alg=aes-128", "luks,key-secret"),
        (
            "a.qcow2",
            "qcow2",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k",
            "qcow2,encrypt.key-secret",
        ),
        (
            "old.qcow2",
            "qcow2",
            "encrypt.format=aes,encrypt.key-secret=s",
            "qcow2,encrypt.key-secret",
        ),
    ] {
        let args = ["-f", "raw", "-O", format, "-o", options, "raw", name];
        let said = pair.ours(&with_secrets("convert", &args));
        assert_eq!(said, (String::new(), String::new(), Some(0)), "{name}");
        fs::copy(pair.at("ours").join(name), pair.at("theirs").join(name)).expect("copied");
        let opened = |word: &str| format!("driver={driver}={word},file.filename={name}");
        let named = opened("s");
        let args = with_secrets("convert", &["--image-opts", "-O", "raw", &named, "out"]);
        pair.must("theirs", &args);
        assert!(raw("theirs", "out") == bytes, "{name}: what we wrote, they read");
        assert_eq!(pair.ours(&args).2, Some(0), "{name}");
        assert!(raw("ours", "out") == bytes, "{name}: what we wrote, we read");
        if name == "old.qcow2" {
            continue;
        }
        // Another passphrase takes the place of the first.
        let prefix = if format == "luks" { "" } else { "encrypt." };
        let add = format!("{prefix}state=active,{prefix}new-secret=n,{prefix}iter-time=10");
        let args = with_secrets("amend", &["-o", &add, "--image-opts", &named]);
        assert_eq!(pair.ours(&args), (String::new(), String::new(), Some(0)), "{name}");
        let erase = format!("{prefix}state=inactive,{prefix}old-secret=s");
        let by_new = opened("n");
        let args = with_secrets("amend", &["-o", &erase, "--image-opts", &by_new]);
        assert_eq!(pair.ours(&args), (String::new(), String::new(), Some(0)), "{name}");
        fs::copy(pair.at("ours").join(name), pair.at("theirs").join(name)).expect("copied");
        let args = with_secrets("convert", &["--image-opts", "-O", "raw", &by_new, "again"]);
        pair.must("theirs", &args);
        assert!(raw("theirs", "again") == bytes, "{name}: the disk is the same");
        let args = with_secrets("map", &["--image-opts", &named]);
        assert_eq!(pair.ours(&args), pair.theirs(&args), "{name}: the old passphrase is gone");
    }
    // The passphrase of a backing file.
    let args = ["-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2"];
    pair.must("theirs", &with_secrets("create", &args));
    pair.share();
    let chain = "driver=qcow2,file.filename=top.qcow2,backing.encrypt.key-secret=n";
    pair.agree(&with_secrets("map", &["--output=json", "--image-opts", chain]));
    // A header in a file of its own.
    let options = "key-secret=s,iter-time=10,detached-header=true";
    for version in ["", ",luks-version=2"] {
        let options = format!("{options}{version}");
        let args = with_secrets("create", &["-q", "-f", "luks", "-o", &options, "header", "0"]);
        assert_eq!(pair.ours(&args).2, Some(0));
        fs::write(pair.at("ours/disk"), vec![0; bytes.len()]).expect("write");
        let both = "driver=luks,key-secret=s,file.filename=disk,header.filename=header";
        let args =
            with_secrets("convert", &["-n", "--target-image-opts", "-f", "raw", "raw", both]);
        assert_eq!(pair.ours(&args).2, Some(0));
        assert!(raw("ours", "disk") != bytes);
        let args = with_secrets("convert", &["--image-opts", "-O", "raw", both, "out"]);
        assert_eq!(pair.ours(&args).2, Some(0));
        assert!(raw("ours", "out") == bytes);
        fs::remove_file(pair.at("ours/header")).expect("removed");
    }
}

/// The long options that version 10 has for the short ones, and what it has besides.
#[test]
fn the_spellings_of_version_10_are_known() {
    let Some(pair) = Pair::with_images() else { return };
    pair.must("theirs", &["snapshot", "-c", "one", "base.qcow2"]);
    pair.share();
    let same = |long: &[&str], short: &[&str]| {
        let long = pair.ours(long);
        assert_eq!(long, pair.ours(short), "{short:?}");
        assert_eq!(long.2, Some(0), "{short:?}: {}", long.1);
    };
    same(&["snapshot", "base.qcow2"], &["snapshot", "-l", "base.qcow2"]);
    same(&["snapshot", "--format", "qcow2", "base.qcow2"], &["snapshot", "-l", "base.qcow2"]);
    same(
        &["info", "--format", "qcow2", "--backing-chain", "top.qcow2"],
        &["info", "-f", "qcow2", "-b", "top.qcow2"],
    );
    same(
        &["measure", "--target-format", "qcow2", "--size", "1G"],
        &["measure", "-O", "qcow2", "-s", "1G"],
    );
    same(
        &["measure", "--target-format", "qcow2", "--snapshot", "one", "base.qcow2"],
        &["measure", "-O", "qcow2", "-l", "one", "base.qcow2"],
    );
    same(
        &["compare", "--a-format", "raw", "--b-format", "raw", "--strict", "base.raw", "base.raw"],
        &["compare", "-f", "raw", "-F", "raw", "-s", "base.raw", "base.raw"],
    );
    let convert = |options: &[&str], target: &str| {
        let args = [&["convert"], options, &["base.raw", target]].concat();
        assert_eq!(pair.ours(&args), (String::new(), String::new(), Some(0)), "{options:?}");
        fs::read(pair.at("ours").join(target)).expect("a target")
    };
    let long = [
        "--source-format=raw",
        "--target-format=qcow2",
        "--target-options=cluster_size=4096",
        "--compress",
        "--parallel=1",
        "--target-cache=unsafe",
        "--source-cache=none",
        "--sparse-size=64k",
    ];
    let short = "-fraw -Oqcow2 -ocluster_size=4096 -c -m1 -tunsafe -Tnone -S64k";
    let short: Vec<&str> = short.split(' ').collect();
    assert!(convert(&long, "long") == convert(&short, "short"));
    assert_eq!(
        pair.ours(&["convert", "--no-create", "--progress", "base.raw", "base.raw"]).2,
        Some(1)
    );
    let (text, _, status) = pair.ours(&["convert", "-O", "qcow2", "-o", "help"]);
    assert!(status == Some(0) && text.contains("cluster_size=<size>"), "{text}");
    same(
        &["bench", "--count=1", "--depth=1", "--buffer-size=4k", "-q", "-f", "raw", "base.raw"],
        &["bench", "-c", "1", "-d", "1", "-s", "4k", "-q", "-f", "raw", "base.raw"],
    );
    same(
        &["commit", "--drop", "--cache=unsafe", "--format=qcow2", "-q", "top.qcow2"],
        &["commit", "-d", "-t", "unsafe", "-f", "qcow2", "-q", "top.qcow2"],
    );
}

#[test]
fn what_does_not_fit_is_refused_in_the_same_words() {
    let Some(pair) = Pair::with_images() else { return };
    for line in include_str!("alike/refused.txt").lines() {
        pair.agree(&line.split(' ').collect::<Vec<_>>());
    }
    for dir in ["ours", "theirs"] {
        assert!(!pair.at(dir).join("out").exists(), "{dir}");
    }
    pair.agree(&["bitmap", "--add", "base.qcow2", ""]);
    // What is described by options alone has the same backing file.
    let thin = "convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 thin";
    pair.agree(&thin.split(' ').collect::<Vec<_>>());
    for dir in ["ours", "theirs"] {
        let (map, ..) = pair.theirs_in(dir, &["map", "--output=json", "thin"]);
        assert_eq!(map.matches("\"depth\": 0, \"present\": true").count(), 3, "{dir}: {map}");
    }
}
