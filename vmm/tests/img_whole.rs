//! Conversions that do not come to their end, and those through pipes: a target is complete or not
//! there at all, and what goes through a pipe is what came in.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

const SPINDLE: &str = env!("CARGO_BIN_EXE_spindle");
const MIB: usize = 1 << 20;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What is in the directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("a directory");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn img(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SPINDLE);
        command.arg("img").args(args).current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.img(args).output().expect("spindle")
    }

    fn must(&self, args: &[&str]) {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs a line of shell in which `$I` is the image tool; returns its success and what it said.
    fn shell(&self, line: &str) -> (bool, String) {
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", line]).env("I", format!("{SPINDLE} img"));
        let done = shell.current_dir(self.0.path()).output().expect("a shell");
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    }

    fn disk(&self, name: &str, len: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(len as u64);
        let mut disk = vec![0; len];
        for part in disk.chunks_mut(300_000).step_by(2) {
            random.fill(part);
        }
        fs::write(self.at(name), &disk).expect("a disk");
        disk
    }

    /// Starts a slow conversion, and kills it when some of it is done.
    fn kill(&self, args: &[&str]) {
        let slow = [&["convert", "-r", "4M"], args].concat();
        let mut child = self.img(&slow).stdout(Stdio::null()).spawn().expect("spindle");
        std::thread::sleep(Duration::from_millis(1200));
        assert!(child.try_wait().expect("a child").is_none(), "it is still at work: {args:?}");
        child.kill().expect("a child");
        child.wait().expect("a child");
    }
}

fn qemu_img() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        eprintln!("qemu-img is not installed: nothing to compare with");
    }
    there
}

fn qemu(dir: &Dir, args: &[&str]) {
    let done = Command::new("qemu-img").args(args).current_dir(dir.0.path()).output();
    let done = done.expect("qemu-img");
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "qemu-img {args:?}: {said}");
}

fn is_blank(path: &Path, len: usize) -> bool {
    fs::read(path).expect("a file").iter().take(len).all(|byte| *byte == 0)
}

#[test]
fn a_killed_conversion_leaves_no_target() {
    let dir = Dir::new();
    let disk = dir.disk("a.raw", 40 * MIB);
    for format in ["raw", "qcow2", "vdi", "vhdx"] {
        dir.kill(&["-f", "raw", "-O", format, "a.raw", "b"]);
        assert_eq!(dir.names(), ["a.raw"], "{format}");
    }
    // One that was there is empty then, and stays whose it was when it is done.
    fs::write(dir.at("b"), b"something else").expect("a file");
    fs::set_permissions(dir.at("b"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("a mode");
    dir.kill(&["-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert_eq!(fs::metadata(dir.at("b")).expect("a file").len(), 0);
    assert_eq!(dir.names(), ["a.raw", "b"]);
    dir.must(&["convert", "-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert!(fs::read(dir.at("b")).expect("a file") == disk);
    assert_eq!(fs::metadata(dir.at("b")).expect("a file").mode() & 0o777, 0o600);
    assert_eq!(dir.names(), ["a.raw", "b"]);
    // Where the target keeps its place, its beginning is missing until all else is there.
    fs::hard_link(dir.at("b"), dir.at("c")).expect("a link");
    dir.kill(&["-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert!(is_blank(&dir.at("c"), MIB) && !is_blank(&dir.at("c"), 40 * MIB));
    dir.must(&["convert", "-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert!(fs::read(dir.at("c")).expect("a file") == disk);
    dir.kill(&["-n", "-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert!(is_blank(&dir.at("c"), MIB), "-n too");
    assert!(fs::read(dir.at("c")).expect("a file")[2 * MIB..] == disk[2 * MIB..]);
    dir.must(&["convert", "-n", "-f", "raw", "-O", "raw", "a.raw", "b"]);
    assert!(fs::read(dir.at("c")).expect("a file") == disk);
    dir.must(&["create", "-f", "qcow2", "d", "40M"]);
    dir.must(&["convert", "-n", "-f", "raw", "-O", "qcow2", "a.raw", "d"]);
    dir.kill(&["-n", "-f", "raw", "-O", "qcow2", "a.raw", "d"]);
    dir.must(&["convert", "-f", "qcow2", "-O", "raw", "d", "e"]);
    assert!(is_blank(&dir.at("e"), MIB));
}

#[test]
fn a_failed_conversion_leaves_neither_target_nor_litter() {
    let dir = Dir::new();
    let disk = dir.disk("a.raw", 8 * MIB);
    // The source cannot be read.
    fs::write(dir.at("fail"), "[inject-error]\nevent = \"read_aio\"\nsector = \"10000\"\n")
        .expect("a file");
    let bad = "json:{\"driver\": \"raw\", \"file\": {\"driver\": \"blkdebug\", \"config\": \"fail\", \
               \"image\": {\"driver\": \"file\", \"filename\": \"a.raw\"}}}";
    for format in ["raw", "qcow2"] {
        let done = dir.run(&["convert", "-O", format, bad, "b"]);
        assert_eq!(done.status.code(), Some(1), "{format}");
        assert_eq!(dir.names(), ["a.raw", "fail"], "{format}");
    }
    // The disk is full.
    fs::create_dir(dir.at("full")).expect("a directory");
    let (there, why) = dir.shell("unshare -rm true");
    if !there {
        eprintln!("no name spaces here, so no small file system: {why}");
        return;
    }
    for format in ["raw", "qcow2", "vmdk"] {
        let (done, said) = dir.shell(&format!(
            "unshare -rm bash -c 'mount -t tmpfs -o size=2m full full && ! $I convert -f raw -O \
             {format} a.raw full/b && ls -A full >seen'"
        ));
        assert!(done, "{said}");
        assert!(said.contains("No space left on device"), "{format}: {said}");
        assert_eq!(fs::read_to_string(dir.at("seen")).expect("a list"), "", "{format}");
    }
    assert!(fs::read(dir.at("a.raw")).expect("a file") == disk, "the source is as it was");
}

#[test]
fn somebody_elses_file_of_the_same_name_is_not_replaced() {
    let dir = Dir::new();
    dir.disk("a.raw", 8 * MIB);
    let slow = ["convert", "-r", "4M", "-f", "raw", "-O", "raw", "a.raw", "b"];
    let child = dir.img(&slow).stderr(Stdio::piped()).spawn().expect("spindle");
    std::thread::sleep(Duration::from_millis(700));
    fs::write(dir.at("b"), b"mine").expect("a file");
    let done = child.wait_with_output().expect("a child");
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("File exists"));
    assert_eq!(fs::read(dir.at("b")).expect("a file"), b"mine");
}

#[test]
fn images_go_through_pipes_and_are_the_same() {
    if !qemu_img() {
        return;
    }
    let dir = Dir::new();
    let disk = dir.disk("a.raw", 9 * MIB + 512);
    let ok = |line: &str| {
        let (done, said) = dir.shell(line);
        assert!(done, "{line}: {said}");
    };
    ok("$I convert -f raw -O raw a.raw - | cat >b.raw");
    assert!(fs::read(dir.at("b.raw")).expect("a file") == disk);
    ok("$I convert -f raw -O raw a.raw /dev/stdout | cat >b.raw");
    assert!(fs::read(dir.at("b.raw")).expect("a file") == disk);
    // A file takes what a pipe takes.
    ok("$I convert -f raw -O qcow2 a.raw - >b.qcow2");
    for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o refcount_bits=1"] {
        ok(&format!("$I convert -f raw -O qcow2 {options} a.raw - | cat >b.qcow2"));
        qemu(&dir, &["check", "-q", "b.qcow2"]);
        qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "qcow2", "a.raw", "b.qcow2"]);
        ok("cat b.qcow2 | $I convert -f qcow2 -O raw - c.raw");
        qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "raw", "a.raw", "c.raw"]);
        ok("cat b.qcow2 | $I convert -O qcow2 - c.qcow2");
        qemu(&dir, &["check", "-q", "c.qcow2"]);
        qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "qcow2", "a.raw", "c.qcow2"]);
    }
    ok("$I convert -f raw -O vmdk -o subformat=streamOptimized a.raw - | cat >b.vmdk");
    qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "vmdk", "a.raw", "b.vmdk"]);
    ok("cat b.vmdk | $I convert -O raw - d.raw");
    qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "raw", "a.raw", "d.raw"]);
    qemu(
        &dir,
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=streamOptimized",
            "a.raw",
            "q.vmdk",
        ],
    );
    ok("cat q.vmdk | $I convert -f vmdk -O qcow2 - d.qcow2");
    qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "qcow2", "a.raw", "d.qcow2"]);
    ok("cat a.raw | $I convert -f raw -O qcow2 - e.qcow2");
    qemu(&dir, &["check", "-q", "e.qcow2"]);
    qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "qcow2", "a.raw", "e.qcow2"]);
    ok("$I convert -f raw -O raw a.raw - | $I convert -f raw -O raw - e.raw");
    assert!(fs::read(dir.at("e.raw")).expect("a file") == disk);
    // Over what was there before.
    fs::write(dir.at("f.raw"), vec![0xaa; disk.len()]).expect("a file");
    ok("cat b.qcow2 | $I convert -n -f qcow2 -O raw - f.raw");
    assert!(fs::read(dir.at("f.raw")).expect("a file") == disk);
    // A disk over a backing file, and one with holes only.
    qemu(&dir, &["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "top.qcow2"]);
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qcow2", "-c", "write -P 7 1M 70k", "top.qcow2"]).current_dir(dir.0.path());
    assert!(io.output().expect("qemu-io").status.success());
    ok("$I convert -O qcow2 top.qcow2 - | cat >flat.qcow2");
    qemu(&dir, &["check", "-q", "flat.qcow2"]);
    qemu(&dir, &["compare", "-q", "top.qcow2", "flat.qcow2"]);
    File::create(dir.at("empty.raw")).and_then(|file| file.set_len(3 << 30)).expect("a file");
    ok("$I convert -f raw -O qcow2 empty.raw - | $I convert -O qcow2 - empty.qcow2");
    qemu(&dir, &["compare", "-q", "-f", "raw", "-F", "qcow2", "empty.raw", "empty.qcow2"]);
    assert!(fs::metadata(dir.at("empty.qcow2")).expect("a file").len() < 1 << 20);
}

#[test]
fn what_cannot_go_through_a_pipe_is_refused_with_one_sentence() {
    let dir = Dir::new();
    dir.disk("a.raw", 2 * MIB);
    dir.must(&["convert", "-f", "raw", "-O", "qcow2", "a.raw", "a.qcow2"]);
    dir.must(&["convert", "-c", "-f", "raw", "-O", "qcow2", "a.raw", "c.qcow2"]);
    dir.must(&["convert", "-f", "raw", "-O", "vdi", "a.raw", "a.vdi"]);
    let before = dir.names();
    for (line, part) in [
        ("$I convert -f raw -O vdi a.raw - | cat", "vdi cannot be written to a pipe"),
        ("$I convert -f raw -O vmdk a.raw - | cat", "subformat=streamOptimized"),
        ("$I convert -c -f raw -O qcow2 a.raw - | cat", "compressed qcow2 cannot be written"),
        ("cat a.vdi | $I convert -f vdi -O raw - x", "vdi cannot be read from a pipe"),
        ("cat c.qcow2 | $I convert -f qcow2 -O raw - x", "can be read from a pipe"),
        ("cat a.raw | $I convert -f raw -O vdi - x", "needs to know the size"),
        ("head -c 300000 a.qcow2 | $I convert -f qcow2 -O raw - x", "ends before the image does"),
        ("head -c 30 a.qcow2 | $I convert -f qcow2 -O raw - x", "ends before the image does"),
        ("cat a.raw | $I convert -f raw -O raw - a.raw x", "only one image"),
        ("cat a.raw | $I convert -f raw -O raw - - | cat", "from one pipe to another"),
    ] {
        let (done, said) = dir.shell(line);
        assert!(!done, "{line}");
        assert!(said.contains(part), "{line}: {said}");
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        assert_eq!(dir.names(), before, "{line} leaves nothing");
    }
    // Whoever reads goes away.
    let (done, said) = dir.shell("$I convert -f raw -O raw a.raw - | head -c 10 >/dev/null");
    assert!(!done && said.contains("Broken pipe"), "{said}");
}

#[test]
fn progress_does_not_get_into_the_data() {
    let dir = Dir::new();
    let disk = dir.disk("a.raw", 3 * MIB);
    let (done, said) = dir.shell("$I convert -p --progress=json -f raw -O raw a.raw - >b.raw");
    assert!(done, "{said}");
    assert!(fs::read(dir.at("b.raw")).expect("a file") == disk);
    let last: serde_json::Value =
        serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["percent"], 100.0);
}

#[test]
fn long_commands_tell_programs_how_far_they_are() {
    let dir = Dir::new();
    dir.disk("a.raw", 5 * MIB);
    dir.must(&["convert", "-f", "raw", "-O", "qcow2", "a.raw", "base.qcow2"]);
    dir.must(&["convert", "-f", "raw", "-O", "qcow2", "a.raw", "other.qcow2"]);
    dir.must(&["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    for args in [
        &["convert", "--progress=json", "-f", "raw", "-O", "qcow2", "a.raw", "b"][..],
        &["dd", "--progress=json", "-f", "raw", "-O", "raw", "bs=1M", "if=a.raw", "of=c"],
        &["compare", "--progress=json", "-f", "raw", "-F", "qcow2", "a.raw", "base.qcow2"],
        &["rebase", "--progress=json", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2"],
        &["commit", "--progress=json", "top.qcow2"],
    ] {
        let done = dir.run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let last = lines.last().unwrap_or_else(|| panic!("{args:?} says {text:?}"));
        assert_eq!(last["percent"], 100.0, "{args:?}");
        for key in ["offset", "total", "bytes-per-second", "seconds-left"] {
            assert!(last.get(key).is_some(), "{args:?}: {key}");
        }
    }
}

/// The bitmaps of an image, with what they say.
fn bitmaps(path: &Path) -> Vec<(String, u64, bool, Vec<spindle_block::Range>)> {
    use spindle_block::{
        Cx, Iothread, Node,
        iothread::Clock,
        nodes::file::{FileNode, FileOptions},
        qcow2,
        ring::{self, Aio},
    };
    use std::sync::Arc;
    let (ring, _) = ring::open(Aio::Blocking).expect("a ring");
    let cx = Iothread::new("test", ring, Clock::Real).expect("an iothread");
    let file: Arc<dyn Node> =
        FileNode::open(&FileOptions::new(path).read_only()).expect("an image");
    let task = Cx::clone(&cx);
    cx.block_on(async move {
        let options = qcow2::Options { read_only: true, ..Default::default() };
        let image = qcow2::open(&task, file, None, options).await.expect("an image");
        let mut found = Vec::new();
        for one in image.bitmaps(&task).await.expect("bitmaps") {
            let bits = image.bitmap_bits(&task, &one.name).await.expect("bits");
            found.push((one.name, one.granularity, one.enabled, bits.dirty_ranges()));
        }
        found
    })
}

#[test]
fn bitmaps_go_along() {
    let dir = Dir::new();
    dir.must(&["create", "-f", "qcow2", "a.qcow2", "300M"]);
    dir.must(&["bitmap", "--add", "-g", "64k", "a.qcow2", "one"]);
    dir.must(&["bitmap", "--add", "a.qcow2", "two"]);
    let write = |at: &str| {
        let mut io = Command::new(SPINDLE);
        io.args(["io", "-f", "qcow2", "-c", &format!("write -P 5 {at} 200k"), "a.qcow2"]);
        assert!(io.current_dir(dir.0.path()).output().expect("spindle").status.success());
    };
    write("1M");
    dir.must(&["bitmap", "--disable", "a.qcow2", "two"]);
    write("200M");
    let wanted = bitmaps(&dir.at("a.qcow2"));
    assert_eq!(wanted.len(), 2);
    assert!(wanted.iter().all(|one| !one.3.is_empty()) && wanted[0].3 != wanted[1].3);
    for more in [&[][..], &["-c"], &["-o", "cluster_size=4k"], &["--skip-broken-bitmaps"]] {
        let args =
            [&["convert", "--bitmaps", "-O", "qcow2"], more, &["a.qcow2", "b.qcow2"]].concat();
        dir.must(&args);
        assert_eq!(bitmaps(&dir.at("b.qcow2")), wanted, "{more:?}");
    }
    dir.must(&["convert", "-O", "qcow2", "a.qcow2", "b.qcow2"]);
    assert!(bitmaps(&dir.at("b.qcow2")).is_empty());
    for (args, sentence) in [
        (&["-O", "raw", "a.qcow2", "c"][..], "Format driver 'raw' does not support bitmaps"),
        (
            &["-O", "qcow2", "-o", "compat=0.10", "a.qcow2", "c"],
            "Format driver 'qcow2' does not support bitmaps",
        ),
        (&["-O", "qcow2", "a.qcow2", "a.qcow2", "c"], "only possible with single source"),
    ] {
        let done = dir.run(&[&["convert", "--bitmaps"], args].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(sentence), "{args:?}: {said}");
        assert!(!dir.at("c").exists(), "{args:?}");
    }
}
