//! `spindle io`, started as `qemu-io`, against qemu-io: the same commands on copies of the same
//! image say the same, but for how long they took, and leave the same behind. Without qemu-io there
//! is nothing to compare with, and nothing is tested.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Two directories with the same images, one for each tool.
struct Pair {
    dir: tempfile::TempDir,
}

/// Standard output, error output and exit status.
type Said = (String, String, Option<i32>);

/// What does not depend on the time that it took.
fn timeless(text: &str) -> String {
    let line = |line: &str| {
        if let Some((before, _)) = line.split_once(" ops; ") {
            return format!("{before} ops");
        }
        let parts: Vec<&str> = line.split(',').collect();
        match parts.as_slice() {
            [bytes, count, time, _, _] if time.contains(':') => format!("{bytes},{count}"),
            _ => line.to_owned(),
        }
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (timeless(&text(&output.stdout)), text(&output.stderr), output.status.code())
}

impl Pair {
    /// `None` where qemu-io is not installed.
    fn new() -> Option<Self> {
        if Command::new("qemu-io").arg("--version").output().is_err() {
            eprintln!("qemu-io is not installed: nothing to compare with");
            return None;
        }
        let pair = Self { dir: tempfile::tempdir().expect("a directory") };
        for name in ["bin", "ours", "theirs"] {
            fs::create_dir(pair.at(name)).expect("a directory");
        }
        symlink(env!("CARGO_BIN_EXE_spindle"), pair.at("bin/qemu-io")).expect("a link");
        for args in [
            &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"][..],
            &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"],
            &["create", "-q", "-f", "raw", "a.raw", "1M"],
            &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
        ] {
            let made = Command::new("qemu-img").args(args).current_dir(pair.at("theirs")).status();
            assert!(made.expect("qemu-img").success());
        }
        pair.run("qemu-io", "theirs", &["base.qcow2", "-c", "write -P 7 64k 64k"], None);
        for name in ["base.qcow2", "a.qcow2", "a.raw", "top.qcow2"] {
            fs::copy(pair.at("theirs").join(name), pair.at("ours").join(name)).expect("a copy");
        }
        Some(pair)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, program: &str, dir: &str, args: &[&str], input: Option<&str>) -> Said {
        let path = if dir == "ours" {
            let old = std::env::var("PATH").unwrap_or_default();
            format!("{}:{old}", self.at("bin").display())
        } else {
            std::env::var("PATH").unwrap_or_default()
        };
        // Both are started by the bare name: it is part of what they say.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\"", "sh", program])
            .args(args)
            .env("PATH", path)
            .current_dir(self.at(dir))
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tool");
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
            pipe.write_all(text.as_bytes()).expect("a pipe");
        }
        said(&child.wait_with_output().expect("the tool"))
    }

    #[track_caller]
    fn agree_with(&self, args: &[&str], input: Option<&str>) {
        let ours = self.run("qemu-io", "ours", args, input);
        let theirs = self.run("qemu-io", "theirs", args, input);
        // Since version 8.0 there is -r.
        let plain = |(mut out, err, status): Said| {
            for (new, old) in [
                ("[-Ciqrv]", "[-Ciqv]"),
                ("[-Cfiqruz]", "[-Cfiquz]"),
                ("[-abCqrv]", "[-abCqv]"),
                ("[-bcCfnqruz]", "[-bcCfnquz]"),
                ("[-Cqrv]", "[-Cqv]"),
                ("[-Cfqr]", "[-Cfq]"),
            ] {
                out = out.replace(new, old);
            }
            (out, err, status)
        };
        assert_eq!(plain(ours), plain(theirs), "{args:?}");
    }

    /// Both say the same about these commands on `image`.
    #[track_caller]
    fn agree(&self, image: &str, commands: &[&str]) {
        let format = if image.ends_with("raw") { "raw" } else { "qcow2" };
        let mut args = vec!["-f", format, image];
        for command in commands {
            args.extend(["-c", command]);
        }
        self.agree_with(&args, None);
        // The same is on both disks, and ours is in order.
        let compare = Command::new("qemu-img")
            .args(["compare", "-f", format, "-F", format])
            .args([self.at("ours").join(image), self.at("theirs").join(image)])
            .output()
            .expect("qemu-img");
        assert!(compare.status.success(), "{commands:?}: {compare:?}");
        if format == "qcow2" {
            let image = self.at("ours").join(image);
            let check = Command::new("qemu-img").arg("check").arg(image).output().expect("check");
            assert!(check.status.success(), "{commands:?}: {check:?}");
        }
    }
}

#[test]
fn reads_and_writes_are_reported_in_the_same_words() {
    let Some(pair) = Pair::new() else { return };
    for image in ["a.raw", "a.qcow2"] {
        pair.agree(
            image,
            &[
                "write -P 5 0 64k",
                "read -v 0 20",
                "read -v 65530 16",
                "read -P 5 0 512",
                "read -P 3 0 512",
                "read -P 5 -s 10 -l 20 0 64",
                "read -P 5 -s 10 0 64",
                "read -P 5 -s 60 -l 20 0 64",
                "read -s 1 0 10",
                "read -C 0 512",
                "read -q 0 512",
                "read -p -a 0 10",
                "read 0x200 1k",
                "read 1.5k 1k",
                "read 2M 512",
                "read 1M 1",
                "write -f 0 512",
                "write -P 0x11 1000 3000",
                "write -z 128k 64k",
                "write -z -u 200000 5000",
                "write -z -n 256k 64k",
                "readv -v 0 10 20",
                "readv -P 5 0 10 20",
                "readv -C 0 1k",
                "writev -P 9 300000 512 1k 3",
                "writev 400000 7",
                "write 2M 512",
                "writev 2M 512",
                "read -P 0x11 1000 3000",
                "discard 512k 64k",
                "discard -q 0 1",
                "discard -C 900k 1k",
                "discard 2M 512",
                "aio_write -P 4 600k 4k",
                "aio_flush",
                "aio_write -z 600k 1k",
                "aio_flush",
                "aio_write -f -q 601k 1k",
                "aio_flush",
                "aio_read -P 4 600k 4k",
                "aio_flush",
                "aio_read -v 603k 16 16",
                "aio_flush",
                "aio_read 5M 1",
                "aio_flush",
                "aio_write 5M 1",
                "aio_flush",
                "aio_read -i 0 1",
                "aio_write -i 0 1",
                "length",
                "flush",
                "sleep 1",
            ],
        );
    }
    fs::write(pair.at("ours").join("pattern"), b"abcde").expect("a file");
    fs::write(pair.at("theirs").join("pattern"), b"abcde").expect("a file");
    pair.agree("a.qcow2", &["write -s pattern 3 22", "read -v 0 32", "write -s none 0 1"]);
    pair.agree("top.qcow2", &["read -P 7 64k 64k", "write 70000 10", "read -v 69990 32"]);
}

#[test]
fn what_is_allocated_and_changed_is_the_same() {
    let Some(pair) = Pair::new() else { return };
    pair.agree(
        "a.qcow2",
        &[
            "write 64k 64k",
            "map",
            "alloc 0",
            "alloc 64k",
            "alloc 0 1M",
            "alloc 2M 1",
            "a 64k 100",
            "info",
            "write -c 0 64k",
            "write -c 64k 64k",
            "write -c 0 100",
            "write -c 512 64k",
            "truncate 2M",
            "length",
            "truncate 1000",
            "truncate 1M",
            "t 3M",
            "l",
            "map",
        ],
    );
    pair.agree("a.raw", &["map", "alloc 0 1M", "info", "write -c 0 64k", "truncate 1500000", "l"]);
    pair.agree("top.qcow2", &["map", "write 0 64k", "map", "alloc 0 1M"]);
    let copy = ["-C", "-f", "qcow2", "top.qcow2", "-c", "read 64k 10", "-c", "map"];
    pair.agree_with(&copy, None);
    let scratch = ["-s", "-f", "qcow2", "a.qcow2", "-c", "write -P 3 0 1M", "-c", "read -P 3 0 1M"];
    pair.agree_with(&scratch, None);
    pair.agree("a.qcow2", &["read -P 3 0 64k"]);
}

#[test]
fn mistakes_are_named_in_the_same_words() {
    let Some(pair) = Pair::new() else { return };
    pair.agree(
        "a.qcow2",
        &[
            "foo",
            "read 0",
            "read -z 0 1",
            "read 0 1 2",
            "read x 1",
            "read 1z 1",
            "read 0 -1",
            "read 0 4G",
            "read -P 300 0 512",
            "read -P x 0 512",
            "read -l 4 0 10",
            "readv 0",
            "readv 0 3G",
            "readv 0 2G 1",
            "write -z -P 3 0 5",
            "write -u 0 1",
            "write -n 0 4k",
            "write -f -c 0 64k",
            "write -b -z 0 64k",
            "write 0 3G",
            "write -b 0 500",
            "writev 0 x",
            "aio_write -z 0 1 2",
            "aio_write -u 0 1",
            "aio_write -z -P 1 0 1",
            "aio_flush",
            "aio_write -P x 0 1",
            "aio_read 0 x",
            "alloc",
            "alloc x",
            "map x",
            "length x",
            "discard 0",
            "discard -z 0 1",
            "break x",
            "break read_aio a",
            "resume a",
            "remove_break a",
            "sleep x",
            "sleep",
            "sigraise x",
            "sigraise 200",
            "truncate",
            "truncate x",
            "truncate -m foo 1M",
            "reopen x",
            "reopen -rw",
            "reopen -c foo",
            "reopen -o foo=on",
            "open a.qcow2",
            "open -z x",
            "help nothing",
            "help a b",
        ],
    );
    for args in [
        &["none", "-c", "length"][..],
        &["-f", "zz", "a.qcow2", "-c", "length"],
        &["-f", "qcow2", "a.raw", "-c", "length"],
        &["-r", "a.qcow2", "-c", "write 0 512", "-c", "truncate 5M", "-c", "discard 0 512"],
        &["-r", "a.qcow2", "-c", "aio_write 0 512", "-c", "read 0 512"],
        &["-c", "length"],
        &["-t", "foo", "a.qcow2", "-c", "length"],
        &["-d", "foo", "a.qcow2"],
        &["-i", "foo", "a.qcow2"],
        &["-f", "qcow2", "--image-opts", "driver=qcow2,file.filename=a.qcow2"],
        &["--image-opts", "driver=qcow2,file.filename=a.qcow2", "-c", "length", "-c", "info"],
        &["--image-opts", "file.filename=a.qcow2", "-c", "length"],
        &["--image-opts", "driver=raw,file.filename=a.raw,offset=64k,size=128k", "-c", "length"],
        &["--image-opts", "driver=qcow2", "-c", "length"],
        &["--image-opts", "driver=zz", "-c", "length"],
        &["--image-opts", "driver=null-co,size=1M", "-c", "read -v 0 16", "-c", "info"],
        &["--image-opts", "driver=null-co,size=1M,read-zeroes=on", "-c", "read -P 0 0 1k"],
        &["json:{\"driver\":\"qcow2\",\"file.filename\":\"a.qcow2\"}", "-c", "length"],
        &["json:{", "-c", "length"],
        &["zz:x", "-c", "length"],
        &["-c", "open a.qcow2", "-c", "length", "-c", "close", "-c", "length"],
        &["-c", "open -o driver=qcow2,file.filename=a.qcow2", "-c", "length"],
        &["-c", "open -r a.qcow2", "-c", "write 0 1"],
        &["--object", "secret,id=x,data=y", "a.qcow2", "-c", "length"],
        &["--object", "foo,id=x", "a.qcow2", "-c", "length"],
        &["a.raw", "-c", "write 0 512", "-c", "length"],
        &["a.qcow2", "-c", "q", "-c", "length"],
        &["a.qcow2", "-c", "sigraise 0", "-c", "reopen -r", "-c", "write 0 1"],
        &["a.qcow2", "-c", "reopen -r", "-c", "reopen -w", "-c", "write 0 1"],
        &["a.qcow2", "-c", "reopen -c none", "-c", "reopen -o lazy-refcounts=on", "-c", "length"],
    ] {
        pair.agree_with(args, None);
    }
}

#[test]
fn commands_come_from_standard_input_after_a_prompt() {
    let Some(pair) = Pair::new() else { return };
    let text = "length\n\nwrite -P 1 0 4k\nread  -P 1  0 4k\nfoo\nclose\nlength\n";
    pair.agree_with(&["-f", "qcow2", "a.qcow2"], Some(text));
    pair.agree_with(&["-f", "qcow2", "a.qcow2"], Some("length\nq\nlength\n"));
    pair.agree_with(&[], Some("open a.qcow2\nlength"));
}

#[test]
fn breakpoints_hold_requests_back() {
    let Some(pair) = Pair::new() else { return };
    for commands in [
        &["break write_aio A", "aio_write 0 64k", "wait_break A", "resume A", "aio_flush"][..],
        &["break write_aio A", "aio_write 0 64k", "wait_break A", "remove_break A", "aio_flush"],
        &["break read_aio A", "remove_break A", "read 0 4k", "resume A", "break foo B"],
    ] {
        let mut args = vec!["-f", "raw", "blkdebug::a.raw"];
        for command in commands {
            args.extend(["-c", command]);
        }
        pair.agree_with(&args, None);
    }
    let rules = "[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\nonce = \"on\"\n";
    for dir in ["ours", "theirs"] {
        fs::write(pair.at(dir).join("rules"), rules).expect("a file");
    }
    let twice = ["-c", "write 0 4k", "-c", "write 0 4k"];
    pair.agree_with(&[&["-f", "raw", "blkdebug:rules:a.raw"], &twice[..]].concat(), None);
}
