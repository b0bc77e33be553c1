//! `img doctor` and `img compact` on real files, with qemu-img as the second opinion where it is
//! installed; and that every command runs in its sandbox.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spindle"));
        command.args(args).current_dir(self.0.path()).output().expect("spindle")
    }

    /// Standard output and status.
    fn img(&self, args: &[&str]) -> (String, i32) {
        let done = self.run(&[&["img"], args].concat());
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        (text + &errors, done.status.code().unwrap_or(-1))
    }

    fn well(&self, args: &[&str]) -> String {
        let (text, status) = self.img(args);
        assert_eq!(status, 0, "{args:?}: {text}");
        text
    }

    fn io(&self, image: &str, commands: &[&str]) {
        let mut args = vec!["io"];
        commands.iter().for_each(|c| args.extend(["-c", *c]));
        args.push(image);
        let done = self.run(&args);
        assert!(done.status.success(), "{args:?}: {done:?}");
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).expect("a file")
    }

    /// Changes bytes of a file.
    fn spoil(&self, name: &str, at: usize, bytes: &[u8]) {
        let mut all = self.bytes(name);
        all[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(self.at(name), all).expect("a file");
    }

    /// qemu-img's opinion; `None` where it is not installed.
    fn qemu_check(&self, format: &str, name: &str) -> Option<i32> {
        let mut command = Command::new("qemu-img");
        command.args(["check", "-q", "-f", format, name]).current_dir(self.0.path());
        command.output().ok().and_then(|done| done.status.code())
    }

    /// A repair that ends well, and its undoing.
    fn repair_and_undo(&self, format: &[&str], name: &str, check: &str) {
        let before = self.bytes(name);
        let (text, status) = self.img(&[&["doctor"], format, &[name]].concat());
        assert!([2, 3].contains(&status), "{name}: {text}");
        assert!(text.contains("A repair changes"), "{name}: {text}");
        assert_eq!(self.bytes(name), before, "a look changes nothing");
        let text = self.well(&[&["doctor", "--repair"], format, &[name]].concat());
        assert!(text.contains("was repaired and is sound"), "{name}: {text}");
        assert_ne!(self.bytes(name), before);
        let text = self.well(&["doctor", name]);
        assert!(text.contains("Nothing is wrong"), "{name}: {text}");
        if !check.is_empty() {
            assert_eq!(self.qemu_check(check, name).unwrap_or(0), 0, "{name}");
        }
        let undo = format!("{name}.undo");
        let text = self.well(&["doctor", "--undo", &undo, name]);
        assert!(text.contains("is undone"), "{name}: {text}");
        assert_eq!(self.bytes(name), before, "undone to the byte");
        let text = self.well(&["doctor", "--undo", &undo, name]);
        assert!(text.contains("already"), "{name}: {text}");
    }
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn a_qcow2_image_is_examined_repaired_and_brought_back() {
    let place = Place::new();
    place.well(&["create", "-q", "-f", "qcow2", "a", "8M"]);
    place.io("a", &["write -P 7 0 1M", "write -P 9 4M 128k"]);
    let text = place.well(&["doctor", "a"]);
    assert!(text.contains("a disk of 8 MiB") && text.contains("Nothing is wrong."), "{text}");
    let bytes = place.bytes("a");
    let block = be64(&bytes, be64(&bytes, 48) as usize) as usize;
    // Cluster 5 is in use; cluster 900 is not in the file but 40 may be: a leak needs a cluster.
    place.spoil("a", block + 5 * 2, &[0, 0]);
    let (text, status) = place.img(&["doctor", "a"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("counted as free"), "{text}");
    let (json, status) = place.img(&["doctor", "--output=json", "a"]);
    assert_eq!(status, 2);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["findings"].to_string().contains("counted-as-free"), "{json}");
    assert_eq!(json["repair"]["damages-left"], 0);
    place.repair_and_undo(&[], "a", "qcow2");
    // The undo file is not written over, and not used on an image that has gone on.
    let (text, status) = place.img(&["doctor", "--repair", "a"]);
    assert!(status == 1 && text.contains("it exists"), "{text}");
    place.well(&["doctor", "--repair", "--undo-file", "second", "a"]);
    place.io("a", &["write -P 3 2M 64k"]);
    let went_on = place.bytes("a");
    let (text, status) = place.img(&["doctor", "--undo", "second", "a"]);
    assert!(status == 1 && text.contains("used since"), "{text}");
    assert_eq!(place.bytes("a"), went_on);
    // Cut off: said so, and not pretended to be mended.
    let short = place.bytes("a");
    fs::write(place.at("a"), &short[..short.len() / 2]).expect("a file");
    let (text, status) = place.img(&["doctor", "a"]);
    assert!(status == 2 && text.contains("beyond the end of the file"), "{text}");
}

#[test]
fn leaks_a_missing_backing_file_and_a_lost_header_are_told() {
    let place = Place::new();
    place.well(&["create", "-q", "-f", "qcow2", "base", "4M"]);
    place.well(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top"]);
    fs::remove_file(place.at("base")).expect("a file");
    let (text, status) = place.img(&["doctor", "top"]);
    assert!(status == 2 && text.contains("backing file 'base' cannot be opened"), "{text}");
    place.well(&["create", "-q", "-f", "qcow2", "leaky.qcow2", "4M"]);
    place.io("leaky.qcow2", &["write 0 256k"]);
    let bytes = place.bytes("leaky.qcow2");
    let l1 = be64(&bytes, 40) as usize;
    let l2 = (be64(&bytes, l1) & 0x00ff_ffff_ffff_fe00) as usize;
    place.spoil("leaky.qcow2", l2, &[0; 8]);
    let (text, status) = place.img(&["doctor", "leaky.qcow2"]);
    assert!(status == 3 && text.contains("1 cluster (64 KiB) counted as used"), "{text}");
    place.repair_and_undo(&[], "leaky.qcow2", "qcow2");
    place.spoil("leaky.qcow2", 0, &[0; 512]);
    let (text, status) = place.img(&["doctor", "leaky.qcow2"]);
    assert!(status == 2 && text.contains("does not begin like one"), "{text}");
    fs::write(place.at("plain"), [1; 4096]).expect("a file");
    let (text, status) = place.img(&["doctor", "plain"]);
    assert!(status == 63 && text.contains("nothing that could be examined"), "{text}");
    let (text, status) = place.img(&["doctor", "not-there"]);
    assert!(status == 1 && text.contains("No such file"), "{text}");
    let (text, status) = place.img(&["doctor", "--undo", "plain", "leaky.qcow2"]);
    assert!(status == 1 && text.contains("no undo file"), "{text}");
}

#[test]
fn other_formats_are_examined_and_what_can_be_is_mended() {
    let place = Place::new();
    for format in ["vmdk", "vdi", "vhdx", "vpc", "parallels", "qed"] {
        let name = format!("image.{format}");
        place.well(&["create", "-q", "-f", format, &name, "8M"]);
        place.io(&name, &["write -P 5 1M 64k"]);
        let text = place.well(&["doctor", &name]);
        assert!(text.contains("Nothing is wrong"), "{format}: {text}");
    }
    // VHD: the footer at the end is lost, then the copy at the beginning.
    let vpc = place.bytes("image.vpc");
    fs::write(place.at("image.vpc"), &vpc[..vpc.len() - 512]).expect("a file");
    place.repair_and_undo(&[], "image.vpc", "");
    fs::write(place.at("front.vpc"), &vpc).expect("a file");
    place.spoil("front.vpc", 100, &[1; 4]);
    let text = place.well(&["doctor", "--repair", "-f", "vpc", "front.vpc"]);
    assert!(text.contains("copy of the footer"), "{text}");
    assert_eq!(place.bytes("front.vpc"), vpc);
    // Parallels: not closed, and longer than it need be.
    place.spoil("image.parallels", 44, b"\x74\x6f\x6e\x59");
    let mut longer = place.bytes("image.parallels");
    longer.resize(longer.len() + (3 << 20), 7);
    fs::write(place.at("image.parallels"), longer).expect("a file");
    place.repair_and_undo(&[], "image.parallels", "parallels");
    // VMDK: an entry that leads out of the file.
    let mut vmdk = place.bytes("image.vmdk");
    let sectors = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize
    };
    let directory = sectors(&vmdk, 56) * 512;
    let table =
        u32::from_le_bytes(vmdk[directory..directory + 4].try_into().expect("four")) as usize * 512;
    vmdk[table..table + 4].copy_from_slice(&[0, 0, 0, 0x10]);
    fs::write(place.at("image.vmdk"), vmdk).expect("a file");
    let (text, status) = place.img(&["doctor", "image.vmdk"]);
    assert!(status == 2 && text.contains("where no data can be"), "{text}");
}

#[test]
fn compact_makes_files_smaller_and_changes_no_byte() {
    let place = Place::new();
    place.well(&["create", "-q", "-f", "qcow2", "a", "64M"]);
    place.io("a", &["write -P 1 0 16M", "write -P 2 32M 8M", "write -P 0 40M 4M"]);
    place.well(&["snapshot", "-c", "s", "a"]);
    place.well(&["bitmap", "--add", "a", "b"]);
    place.io("a", &["discard 0 8M", "write -P 3 16M 2M", "discard 33M 3M"]);
    place.well(&["snapshot", "-d", "s", "a"]);
    place.well(&["convert", "-O", "raw", "a", "before"]);
    let length = place.bytes("a").len();
    let text = place.well(&["compact", "--dry-run", "a"]);
    assert!(text.contains("would be about"), "{text}");
    assert_eq!(place.bytes("a").len(), length);
    let text = place.well(&["compact", "a"]);
    assert!(text.contains("clusters moved"), "{text}");
    let now = place.bytes("a").len();
    assert!(now < length / 2 + (8 << 20), "{length} -> {now}: {text}");
    place.well(&["compare", "a", "before"]);
    place.well(&["check", "a"]);
    assert_eq!(place.qemu_check("qcow2", "a").unwrap_or(0), 0);
    let json = place.well(&["compact", "--output=json", "a"]);
    assert!(json.contains("\"moved-clusters\": 0"), "{json}");
    assert!(place.well(&["bitmap", "--disable", "a", "b"]).is_empty());
    // Other formats: holes.
    place.well(&["create", "-q", "-f", "vdi", "b.vdi", "16M"]);
    place.io("b.vdi", &["write -P 0 0 4M", "write -P 1 8M 1M"]);
    place.well(&["convert", "-O", "raw", "b.vdi", "before"]);
    let text = place.well(&["compact", "b.vdi"]);
    assert!(text.contains("4 MiB of zeros turned into holes"), "{text}");
    place.well(&["compare", "b.vdi", "before"]);
    // What is damaged is not touched.
    let bytes = place.bytes("a");
    let block = be64(&bytes, be64(&bytes, 48) as usize) as usize;
    place.spoil("a", block + 6, &[0, 0]);
    let spoilt = place.bytes("a");
    let (text, status) = place.img(&["compact", "a"]);
    assert!(status == 1 && text.contains("img doctor"), "{text}");
    assert_eq!(place.bytes("a"), spoilt);
}

/// What a command with `SPINDLE_LOG=debug` says of its sandbox.
fn sandbox(place: &Place, args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spindle"));
    let done = command
        .args(args)
        .current_dir(place.0.path())
        .env("SPINDLE_LOG", "debug")
        .output()
        .expect("spindle");
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    let line = errors.lines().find(|line| line.contains("sandbox: ")).unwrap_or_default();
    assert_eq!(done.status.code(), Some(0), "{args:?}: {errors}");
    (line.to_owned(), errors)
}

#[test]
fn every_command_runs_in_its_sandbox() {
    let place = Place::new();
    let commands = [
        "create -f qcow2 a 8M",
        "create -f qcow2 -b a -F qcow2 top",
        "info a",
        "check a",
        "doctor a",
        "map a",
        "measure -O qcow2 a",
        "compare a a",
        "convert -O vmdk a c.vmdk",
        "convert -c -O qcow2 a d",
        "amend -o lazy_refcounts=on a",
        "bitmap --add a b",
        "snapshot -c s a",
        "snapshot -l a",
        "resize d +1M",
        "commit top",
        "rebase -b d -F qcow2 top",
        "dd -O raw if=a of=e bs=1M count=1",
        "bench -w -c 20 a",
        "compact d",
        "check -r all a",
    ];
    for command in commands {
        let args: Vec<&str> = std::iter::once("img").chain(command.split(' ')).collect();
        let (line, errors) = sandbox(&place, &args);
        assert!(line.ends_with("Seccomp: 2"), "{command}: {errors}");
        let looks = ["info", "check a", "doctor", "map", "measure", "compare"];
        let only_looks = looks.iter().any(|name| command.starts_with(name));
        assert_eq!(line.contains("writes: false"), only_looks, "{line}");
        let mut without = vec!["img", "--sandbox", "off"];
        without.extend(args.iter().skip(1));
        if only_looks {
            assert_eq!(sandbox(&place, &without).0, "", "{command}");
        }
    }
    let (line, errors) = sandbox(&place, &["io", "-c", "read 0 4k", "a"]);
    assert!(line.ends_with("Seccomp: 2"), "{errors}");
    let (line, _) = sandbox(&place, &["io", "--sandbox", "off", "-c", "read 0 4k", "a"]);
    assert_eq!(line, "");
}

#[test]
fn a_server_and_all_its_threads_are_confined() {
    let place = Place::new();
    place.well(&["create", "-q", "-f", "qcow2", "a", "8M"]);
    let socket = place.at("socket");
    let pid_file = place.at("pid");
    let done = place.run(&[
        "nbd",
        "--fork",
        "-t",
        "--pid-file",
        pid_file.to_str().expect("text"),
        "-k",
        socket.to_str().expect("text"),
        "a",
    ]);
    assert!(done.status.success(), "{done:?}");
    let pid = fs::read_to_string(&pid_file).expect("a file").trim().to_owned();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let modes: Vec<String> = tasks
        .map(|task| {
            let status = task.expect("a thread").path().join("status");
            let text = fs::read_to_string(status).expect("a status");
            text.lines().find(|l| l.starts_with("Seccomp:")).unwrap_or_default().to_owned()
        })
        .collect();
    let killed = Command::new("kill").arg(&pid).status().expect("kill");
    assert!(killed.success());
    assert!(modes.len() > 1 && modes.iter().all(|mode| mode == "Seccomp:\t2"), "{modes:?}");
}
