//! What only qcow2 images have, through the image tool started as `qemu-img`, against qemu-img: what
//! one says of an image, the other says, and what one does, the other understands. Without qemu-img
//! there is nothing to compare with, and nothing is tested.

mod alike;

use alike::{Said, alike};
use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output},
};

/// A directory for each tool, in which they do the same.
struct Twins {
    dir: tempfile::TempDir,
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

impl Twins {
    fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            eprintln!("qemu-img is not installed: nothing to compare with");
            return None;
        }
        let twins = Self { dir: tempfile::tempdir().expect("a directory") };
        for name in ["bin", "ours", "theirs"] {
            fs::create_dir(twins.at(name)).expect("a directory");
        }
        symlink(env!("CARGO_BIN_EXE_spindle"), twins.at("bin/qemu-img")).expect("a link");
        Some(twins)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ours(&self, dir: &str, args: &[&str]) -> Said {
        let mut command = Command::new(self.at("bin/qemu-img"));
        said(&command.args(args).current_dir(self.at(dir)).output().expect("our tool"))
    }

    fn theirs(&self, dir: &str, args: &[&str]) -> Said {
        said(&Command::new("qemu-img").args(args).current_dir(self.at(dir)).output().expect("runs"))
    }

    /// Both say the same when they do it, each to its own images.
    #[track_caller]
    fn agree(&self, args: &[&str]) {
        let (ours, theirs) = (self.ours("ours", args), self.theirs("theirs", args));
        assert_eq!(alike(ours), alike(theirs), "{args:?}");
    }

    /// Both say the same of the images of either.
    #[track_caller]
    fn agree_on_both(&self, args: &[&str]) {
        for dir in ["ours", "theirs"] {
            let (ours, theirs) = (self.ours(dir, args), self.theirs(dir, args));
            assert_eq!(alike(ours), alike(theirs), "{args:?} in {dir}");
        }
    }

    /// Both say the same of where the images of either are; older versions do not say what is
    /// compressed.
    #[track_caller]
    fn agree_on_map(&self, image: &str) {
        for dir in ["ours", "theirs"] {
            let args = ["map", "--output=json", image];
            let (mut ours, theirs) = (self.ours(dir, &args), self.theirs(dir, &args));
            if !theirs.0.contains("compressed\":") {
                for value in [true, false] {
                    ours.0 = ours.0.replace(&format!(", \"compressed\": {value}"), "");
                }
            }
            assert_eq!(ours, theirs, "{image} in {dir}");
        }
    }

    /// Does the same to the images of both, with qemu-io.
    #[track_caller]
    fn io(&self, image: &str, command: &str) {
        self.io_on("qcow2", image, command);
    }

    #[track_caller]
    fn io_on(&self, format: &str, image: &str, command: &str) {
        for dir in ["ours", "theirs"] {
            let args = ["-f", format, "-c", command, image];
            let done = Command::new("qemu-io").args(args).current_dir(self.at(dir)).output();
            let done = said(&done.expect("qemu-io"));
            assert_eq!(done.2, Some(0), "{command}: {done:?}");
        }
    }

    /// What the images of both hold is the same.
    #[track_caller]
    fn same(&self, image: &str) {
        let done = self.theirs("ours", &["compare", image, &format!("../theirs/{image}")]);
        assert_eq!(done.2, Some(0), "{image}: {done:?}");
    }
}

#[test]
fn snapshots() {
    let Some(twins) = Twins::new() else { return };
    for (image, options) in [
        ("a", "compat=1.1"),
        ("b", "compat=0.10"),
        ("c", "refcount_bits=1"),
        ("d", "cluster_size=512"),
    ] {
        twins.agree(&["create", "-q", "-f", "qcow2", "-o", options, image, "4M"]);
        twins.io(image, "write -P 1 0 300k");
        let take = |name: &str| {
            twins.agree(&["snapshot", "-c", name, image]);
            twins.io(image, "write -P 2 100k 300k");
            twins.agree_on_both(&["snapshot", "-l", image]);
            twins.agree_on_both(&["info", image]);
            twins.agree_on_both(&["info", "--output=json", image]);
        };
        if image == "c" {
            // There is no room for a second reference; QEMU leaks what it had taken.
            twins.agree(&["snapshot", "-c", "one", image]);
            continue;
        }
        take("one");
        take("two");
        twins.same(image);
        twins.agree(&["snapshot", "-a", "one", image]);
        twins.same(image);
        twins.io(image, "write -P 3 1M 64k");
        for which in ["one", "1", "snapshot.name=two", "snapshot.id=2,snapshot.name=two", "three"] {
            for option in ["snapshot.foo=1", which] {
                twins.agree(&["convert", "-l", option, "-f", "qcow2", "-O", "raw", image, "x"]);
            }
            if which != "three" {
                let ours = fs::read(twins.at("ours/x")).expect("read");
                assert!(ours == fs::read(twins.at("theirs/x")).expect("read"), "{which}");
            }
        }
        twins.agree(&["snapshot", "-d", "one", image]);
        twins.agree(&["snapshot", "-d", "one", image]);
        twins.agree_on_both(&["snapshot", "-l", image]);
        twins.same(image);
        twins.agree(&["resize", image, "8M"]);
        twins.agree(&["snapshot", "-a", "two", image]);
        twins.same(image);
        twins.agree_on_both(&["check", image]);
    }
}

#[test]
fn mistakes_about_snapshots() {
    let Some(twins) = Twins::new() else { return };
    twins.agree(&["create", "-q", "-f", "qcow2", "a", "4M"]);
    twins.agree(&["create", "-q", "-f", "raw", "raw", "4M"]);
    for args in [
        &[][..],
        &["-l"],
        &["none"],
        &["-q", "-l", "a"],
        &["-l", "a", "a"],
        &["-l", "-c", "x", "a"],
        &["-c", "x", "-d", "y", "a"],
        &["-l", "-l", "a"],
        &["-a", "none", "a"],
        &["-d", "none", "a"],
        &["-U", "-c", "x", "a"],
        &["-U", "-l", "a"],
        &["-l", "none"],
        &["-l", "raw"],
        &["-c", "x", "raw"],
        &["-a", "x", "raw"],
        &["-d", "x", "raw"],
    ] {
        twins.agree(&[&["snapshot"], args].concat());
    }
}

#[test]
fn amended_images() {
    let Some(twins) = Twins::new() else { return };
    twins.agree(&["create", "-q", "-f", "raw", "raw", "4M"]);
    twins.io_on("raw", "raw", "write -P 5 0 4M");
    twins.agree(&["create", "-q", "-f", "qcow2", "a", "4M"]);
    twins.agree(&["create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "b", "4M"]);
    for image in ["a", "b"] {
        for options in [
            "compat=0.10",
            "compat=1.1,lazy_refcounts=on",
            "lazy_refcounts=on,compat=0.10",
            "lazy_refcounts=on",
            "compat=v3",
            "compat=0.9",
            "compat",
            "refcount_bits=8",
            "refcount_bits=7",
            "refcount_bits=64",
            "compat=0.10",
            "refcount_bits=16,compat=0.10",
            "compat=v3,refcount_bits=1",
            "refcount_bits=16",
            "cluster_size=4k",
            "backing_file=a",
            "compression_type=zstd",
            "data_file=x",
            "data_file_raw=on",
            "bogus=1",
            "size=8M",
            "size=2M",
            "compat=0.10,refcount_bits=8",
            "compat=0.10",
        ] {
            twins.io(image, "write -P 1 0 300k");
            if options == "compat=0.10" {
                // Zeros without data, and with a place of their own.
                let _ = twins.theirs("ours", &["amend", "-o", "compat=v3", image]);
            }
            twins.agree(&["amend", "-o", options, image]);
            twins.agree_on_both(&["info", "--output=json", image]);
            twins.same(image);
            assert_eq!(twins.theirs("ours", &["check", "-q", image]).2, Some(0), "{options}");
        }
    }
    // What says "zeros" says so otherwise in version 2.
    for image in ["a", "b"] {
        twins.agree(&["amend", "-o", "compat=v3", image]);
        twins.io(image, "write -P 2 0 1M");
        twins.io(image, "write -z 64k 128k");
        twins.io(image, "write -z -u 512k 128k");
        twins.io(image, "write -z 1M 256k");
        twins.agree(&["amend", "-o", "compat=0.10", image]);
        twins.same(image);
        assert_eq!(twins.theirs("ours", &["check", "-q", image]).2, Some(0));
        assert_eq!(twins.ours("ours", &["check", "-q", image]).2, Some(0));
    }
    for args in [
        &["a"][..],
        &[],
        &["-o", "size=1"],
        &["-o", "size=1M", "none"],
        &["-o", "size=1M", "raw"],
        &["-f", "raw", "-o", "size=1M", "raw"],
        &["-f", "zz", "-o", "size=1M", "raw"],
        &["-t", "zz", "-o", "size=1M", "a"],
        &["-o", "size=zz", "a"],
        &["-q", "-o", "lazy_refcounts=off", "a"],
        &["--force", "-o", "lazy_refcounts=on", "a"],
    ] {
        twins.agree(&[&["amend"], args].concat());
    }
    twins.agree(&["amend", "-o", "compat=v3", "a"]);
    // Several snapshots share a cluster: its refcount does not fit any more.
    for name in ["x", "y", "z"] {
        twins.agree(&["snapshot", "-c", name, "a"]);
    }
    let (_, ours, status) = twins.ours("ours", &["amend", "-o", "refcount_bits=2", "a"]);
    assert!(ours.contains("Cannot decrease refcount entry width to 2 bits: Cluster at"), "{ours}");
    assert_eq!(status, Some(1));
    twins.agree(&["amend", "-o", "refcount_bits=4", "a"]);
    twins.agree_on_both(&["info", "--output=json", "a"]);
}

#[test]
fn bitmaps() {
    let Some(twins) = Twins::new() else { return };
    for image in ["a", "b"] {
        twins.agree(&["create", "-q", "-f", "qcow2", image, "4M"]);
    }
    twins.agree(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "large", "8M"]);
    twins.agree(&["create", "-q", "-f", "raw", "raw", "4M"]);
    for args in [
        &["--add", "a", "b0"][..],
        &["--add", "-g", "4k", "a", "b1"],
        &["--add", "--disable", "a", "b2"],
        &["--add", "--enable", "a", "b3"],
        &["--add", "large", "b"],
        &["--add", "a", "b0"],
        &["--add", "-g", "3k", "a", "x"],
        &["--add", "-g", "256", "a", "x"],
        &["--add", "-g", "4G", "a", "x"],
        &["--remove", "a", "nope"],
        &["--clear", "a", "nope"],
        &["--enable", "a", "nope"],
        &["--disable", "a", "nope"],
        &["--enable", "a", "b2"],
        &["--disable", "a", "b0"],
        &["--merge", "b0", "a", "b1"],
        &["--merge", "nope", "a", "b1"],
        &["--merge", "b3", "--clear", "a", "b1"],
        &["a", "b0"],
        &["--add"],
        &["--add", "a"],
        &["--clear", "--enable", "a", "b1"],
        &["--enable", "--disable", "a", "b1"],
        &["--add", "--remove", "a", "x"],
        &["--remove", "a", "b1"],
        &["--add", "b", "z1"],
        &["--merge", "b3", "-b", "a", "b", "z1"],
        &["--merge", "b3", "-b", "a", "-F", "qcow2", "b", "z1"],
        &["--merge", "b3", "-b", "raw", "-F", "raw", "b", "z1"],
        &["--merge", "b", "-b", "large", "-F", "qcow2", "b", "z1"],
        &["--merge", "b3", "-F", "qcow2", "b", "z1"],
        &["--clear", "-b", "a", "b", "z1"],
        &["--remove", "--merge", "b3", "a", "b2"],
        &["--granularity", "4k", "--clear", "a", "b0"],
        &["--clear", "-f", "raw", "raw", "x"],
        &["--clear", "none", "x"],
        &["--add", "-f", "zz", "a", "x"],
        &["--add", "a", "b", "c"],
    ] {
        twins.agree(&[&["bitmap"], args].concat());
        for image in ["a", "b", "large"] {
            twins.agree_on_both(&["info", image]);
            twins.agree_on_both(&["info", "--output=json", image]);
        }
        twins.io("a", "write -P 1 0 64k");
    }
    for image in ["a", "b"] {
        twins.same(image);
        twins.agree(&["resize", "-q", image, "8M"]);
        twins.agree(&["resize", "-q", "--shrink", image, "2M"]);
        twins.agree(&["snapshot", "-c", "s", image]);
        twins.agree_on_both(&["info", "--output=json", image]);
        assert_eq!(twins.theirs("ours", &["check", "-q", image]).2, Some(0));
        assert_eq!(twins.ours("ours", &["check", "-q", image]).2, Some(0));
    }
}

#[test]
fn images_that_are_allocated_beforehand() {
    let Some(twins) = Twins::new() else { return };
    for mode in ["off", "metadata", "falloc", "full"] {
        let options = format!("preallocation={mode},refcount_bits=32");
        twins.agree(&["create", "-q", "-f", "qcow2", "-o", &options, "a", "9M"]);
        twins.same("a");
        for dir in ["ours", "theirs"] {
            assert_eq!(twins.theirs(dir, &["check", "-q", "a"]).2, Some(0), "{mode} {dir}");
        }
        let blocks = |dir: &str| {
            let file = fs::metadata(twins.at(dir).join("a")).expect("a file");
            std::os::unix::fs::MetadataExt::blocks(&file) / 2048
        };
        assert_eq!(blocks("ours"), blocks("theirs"), "{mode}");
        twins.agree(&["resize", "-q", &format!("--preallocation={mode}"), "a", "29M"]);
        twins.same("a");
        twins.agree_on_map("a");
        for dir in ["ours", "theirs"] {
            assert_eq!(twins.theirs(dir, &["check", "-q", "a"]).2, Some(0), "{mode} {dir}");
        }
        assert_eq!(blocks("ours"), blocks("theirs"), "resized, {mode}");
    }
}

#[test]
fn to_set_space_aside_is_not_to_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let data_file = ["-o", "data_file=data.raw"];
    for (options, name) in [(&[][..], "image"), (&data_file[..], "data.raw")] {
        let run = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_spindle"));
            let done = command.arg("img").args(words).current_dir(dir.path()).output();
            assert!(done.expect("spindle").status.success(), "{words:?}");
        };
        run(&[&["create", "-q", "-f", "qcow2"], options, &["image", "1M"]].concat());
        run(&["resize", "-q", "--preallocation=falloc", "image", "65M"]);
        let file = fs::File::open(dir.path().join(name)).expect("a file");
        let len = file.metadata().expect("its length").len();
        assert!(len > 64 << 20, "{options:?}: {len}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("blocks"));
        assert!(blocks * 512 >= 64 << 20, "{options:?}: {blocks} blocks");
        if name != "image" {
            // What may have held something before is written to.
            continue;
        }
        // Space that is set aside and not written is reported as a hole.
        let hole = {
            use std::os::fd::AsRawFd;
            // SAFETY: no memory is passed.
            unsafe { libc::lseek(file.as_raw_fd(), 8 << 20, libc::SEEK_HOLE) }
        };
        assert!(hole < len as i64, "{options:?}: written up to {hole} of {len}");
    }
}

#[test]
fn external_data_files() {
    let Some(twins) = Twins::new() else { return };
    for (image, options) in [
        ("a", "data_file=a.raw"),
        ("b", "data_file=b.raw,data_file_raw=on"),
        ("c", "data_file=c.raw,preallocation=metadata"),
        ("d", "data_file=d.raw,data_file_raw=on,extended_l2=on"),
        ("e", "data_file=e.raw,data_file_raw=on,preallocation=full,cluster_size=4k"),
    ] {
        let data = format!("{image}.raw");
        twins.agree(&["create", "-f", "qcow2", "-o", options, image, "4M"]);
        let look = || {
            for args in [&["info"][..], &["info", "--output=json"], &["check"], &["map"]] {
                twins.agree_on_both(&[args, &[image]].concat());
            }
            twins.agree_on_map(image);
            twins.same(image);
        };
        look();
        twins.io(image, "write -P 1 0 300k");
        twins.io(image, "write -P 2 1M 5k");
        look();
        twins.agree(&["resize", image, "6M"]);
        twins.agree(&["resize", "--shrink", image, "5M"]);
        look();
        twins.io(image, "write -P 3 4M 1M");
        twins.agree(&["convert", "-f", "qcow2", "-O", "raw", image, "x"]);
        let ours = fs::read(twins.at("ours/x")).expect("read");
        assert!(ours == fs::read(twins.at("theirs/x")).expect("read"), "{options}");
        if options.contains("raw=on") {
            assert!(ours == fs::read(twins.at("ours").join(&data)).expect("read"), "{options}");
        }
        twins.agree(&["bitmap", "--add", image, "bits"]);
        twins.agree(&["snapshot", "-c", "one", image]);
        twins.agree(&["snapshot", "-d", "one", image]);
        twins.agree(&["snapshot", "-l", image]);
        for amend in ["data_file_raw=on", "data_file_raw=off", "data_file_raw=on"] {
            twins.agree(&["amend", "-o", amend, image]);
        }
        for dir in ["ours", "theirs"] {
            fs::rename(twins.at(dir).join(&data), twins.at(dir).join("moved")).expect("move");
        }
        // An image without its data is none, but says what it is.
        twins.agree(&["check", image]);
        twins.agree(&["map", image]);
        twins.agree(&["compare", image, image]);
        twins.agree_on_both(&["info", image]);
        for dir in ["ours", "theirs"] {
            fs::rename(twins.at(dir).join("moved"), twins.at(dir).join(&data)).expect("move");
        }
        twins.agree(&["amend", "-o", "data_file=other", image]);
        twins.agree_on_both(&["info", image]);
        twins.agree(&["check", image]);
    }
}

#[test]
fn mistakes_about_data_files_and_subclusters() {
    let Some(twins) = Twins::new() else { return };
    twins.agree(&["create", "-q", "-f", "raw", "base", "4M"]);
    for options in [
        "data_file_raw=on",
        "data_file=x,compat=0.10",
        "data_file=nowhere/x",
        "data_file=x,data_file_raw=on,backing_file=base,backing_fmt=raw",
        "extended_l2=on,cluster_size=8k",
        "extended_l2=on,compat=0.10",
        "preallocation=metadata,backing_file=base,backing_fmt=raw",
    ] {
        twins.agree(&["create", "-f", "qcow2", "-o", options, "t", "4M"]);
        for dir in ["ours", "theirs"] {
            let _ = fs::remove_file(twins.at(dir).join("t"));
        }
    }
}

#[test]
fn subclusters() {
    let Some(twins) = Twins::new() else { return };
    twins.agree(&["create", "-q", "-f", "raw", "base", "4M"]);
    twins.io_on("raw", "base", "write -P 5 0 3M");
    for (image, options) in [
        ("a", "extended_l2=on"),
        ("b", "extended_l2=on,cluster_size=16k,backing_file=base,backing_fmt=raw"),
        ("c", "extended_l2=on,preallocation=metadata,backing_file=base,backing_fmt=raw"),
        ("d", "extended_l2=on,preallocation=metadata,cluster_size=2M"),
    ] {
        twins.agree(&["create", "-f", "qcow2", "-o", options, image, "4M"]);
        let look = || {
            for args in [&["info", "--output=json"][..], &["check"], &["map"]] {
                twins.agree_on_both(&[args, &[image]].concat());
            }
            twins.agree_on_map(image);
            twins.same(image);
        };
        for command in ["write -P 1 5k 3k", "write -P 2 70k 200k", "write -z -u 80k 9k"] {
            twins.io(image, command);
            look();
        }
        twins.agree(&["snapshot", "-c", "one", image]);
        twins.io(image, "write -P 3 6k 512");
        look();
        twins.agree(&["snapshot", "-a", "one", image]);
        twins.agree(&["snapshot", "-d", "one", image]);
        look();
        twins.agree(&["convert", "-O", "qcow2", "-o", "extended_l2=on", image, "copy"]);
        twins.same("copy");
        twins.agree(&["convert", "-c", "-O", "qcow2", "-o", "extended_l2=on", image, "packed"]);
        twins.agree_on_map("packed");
        twins.io("packed", "write -P 9 100k 1k");
        twins.same("packed");
        twins.agree_on_both(&["check", "packed"]);
        twins.agree(&["amend", "-o", "extended_l2=off", image]);
        twins.agree(&["amend", "-o", "compat=0.10", image]);
        twins.agree(&["measure", "-O", "qcow2", "-o", "extended_l2=on", "--size", "5T"]);
        let args = ["measure", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=16k", image];
        twins.agree_on_both(&args);
    }
}

#[test]
fn machine_state() {
    let Some(twins) = Twins::new() else { return };
    symlink(env!("CARGO_BIN_EXE_spindle"), twins.at("bin/qemu-io")).expect("a link");
    twins.agree(&["create", "-q", "-f", "qcow2", "a", "4M"]);
    let ours = |command: &str| {
        let mut io = Command::new(twins.at("bin/qemu-io"));
        let done = io.args(["-f", "qcow2", "-c", command, "a"]).current_dir(twins.at("ours"));
        let done = said(&done.output().expect("our tool"));
        assert_eq!(done.2, Some(0), "{command}: {done:?}");
    };
    ours("write -b -P 9 0 128k");
    twins.agree_on_both(&["check", "a"]);
    let theirs = |command: &str| {
        let args = ["-f", "qcow2", "-c", command, "a"];
        let done = Command::new("qemu-io").args(args).current_dir(twins.at("ours")).output();
        let done = said(&done.expect("qemu-io"));
        assert_eq!(done.2, Some(0), "{command}: {done:?}");
    };
    theirs("read -b -P 9 0 128k");
    twins.ours("ours", &["snapshot", "-c", "one", "a"]);
    ours("write -b -P 8 64k 512");
    ours("read -b -P 9 0 64k");
    twins.ours("ours", &["snapshot", "-a", "one", "a"]);
    theirs("read -b -P 9 0 128k");
    ours("read -b -P 9 0 128k");
    assert_eq!(twins.theirs("ours", &["check", "-q", "a"]).2, Some(0));
}
