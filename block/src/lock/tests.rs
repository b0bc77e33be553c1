//! Against QEMU's own programs, both ways.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

fn open(path: &Path) -> OwnedFd {
    std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open").into()
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[file.path()], &["1M"]);
    file
}

/// A format with metadata, for there QEMU's tools share with readers only.
fn qemu_img(options: &[&str], files: &[&Path], rest: &[&str]) {
    let mut command = Command::new("qemu-img");
    command.args(options).args(files).args(rest);
    assert!(command.status().expect("qemu-img (package qemu-utils)").success());
}

#[test]
fn users_of_one_image_suffer_each_other_as_they_should() {
    let (r, w, o) = (Mode::READER, Mode::WRITER, Mode::ONLOOKER);
    let (rs, ws) = (r.share_rw(), w.share_rw());
    for (held, wanted, fits) in [
        (r, r, true),
        (r, w, false),
        (w, r, false),
        (w, w, false),
        (w, o, true),
        (o, w, true),
        (o, r, true),
        (ws, ws, true),
        (ws, w, false),
        (w, ws, false),
        (ws, r, false),
        (ws, rs, true),
    ] {
        let image = image();
        let (a, b) = (open(image.path()), open(image.path()));
        acquire(a.as_fd(), held).expect("the first is alone");
        let result = acquire(b.as_fd(), wanted);
        assert_eq!(result.is_ok(), fits, "{held:?}, then {wanted:?}: {result:?}");
        if fits {
            release(b.as_fd());
        }
        // Neither a refusal nor a release leaves anything behind.
        release(a.as_fd());
        acquire(open(image.path()).as_fd(), Mode::WRITER).expect("nobody is left");
    }
}

#[test]
fn a_refusal_says_who_is_in_the_way() {
    let image = image();
    let (a, b) = (open(image.path()), open(image.path()));
    acquire(a.as_fd(), Mode::WRITER).expect("alone");
    let error = acquire(b.as_fd(), Mode::READER).expect_err("a writer is there");
    assert_eq!(error.to_string(), "another program writes to it");
    release(a.as_fd());
    acquire(a.as_fd(), Mode::READER).expect("alone");
    let error = acquire(b.as_fd(), Mode::WRITER).expect_err("a reader is there");
    assert_eq!(
        error.to_string(),
        "another program has it open and does not allow others to write to it"
    );
}

#[test]
fn a_file_without_locks_is_told_apart() {
    // A descriptor that can only be written to takes no shared locks: EBADF, a failure.
    let image = image();
    let fd: OwnedFd =
        std::fs::OpenOptions::new().write(true).open(image.path()).expect("open").into();
    assert!(matches!(acquire(fd.as_fd(), Mode::READER), Err(LockError::Failed(_))));
    let refuse =
        |errno| refine(io::Error::from_raw_os_error(errno), LockError::InUse { used: WRITE });
    for errno in [libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL] {
        assert!(matches!(refuse(errno), LockError::Unsupported(_)));
    }
    for errno in [libc::EAGAIN, libc::EACCES] {
        assert!(matches!(refuse(errno), LockError::InUse { .. }));
    }
}

/// `qemu-io` with an image open, until dropped.
struct QemuIo(Child);

impl QemuIo {
    /// Starts it; `Err` holds what it said when it could not open the image.
    fn start(image: &Path, options: &[&str]) -> Result<Self, String> {
        Self::start_as("qcow2", image, options)
    }

    fn start_as(format: &str, image: &Path, options: &[&str]) -> Result<Self, String> {
        let mut child = Command::new("qemu-io")
            .args(options)
            .args(["-f", format])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("qemu-io (package qemu-utils)");
        // It answers a command once the image is open, and ends when it could not open it.
        let stdin = child.stdin.as_mut().expect("piped");
        drop(stdin.write_all(b"length\n").and_then(|()| stdin.flush()));
        let mut seen = Vec::new();
        let stdout = child.stdout.as_mut().expect("piped");
        let mut byte = [0];
        while stdout.read(&mut byte).is_ok_and(|n| n == 1) {
            seen.push(byte[0]);
            if String::from_utf8_lossy(&seen).contains("MiB") {
                return Ok(Self(child));
            }
        }
        let output = child.wait_with_output().expect("qemu-io ends");
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn qemu_refuses_what_we_hold() {
    let image = image();
    let ours = open(image.path());
    acquire(ours.as_fd(), Mode::WRITER).expect("alone");
    for options in [&[][..], &["-r"]] {
        let error = QemuIo::start(image.path(), options).map(|_| ()).expect_err("we write");
        assert!(error.contains("lock"), "{options:?}: {error}");
    }
    QemuIo::start(image.path(), &["-r", "-U"]).map(|_| ()).expect("-U looks on");
    release(ours.as_fd());
    acquire(ours.as_fd(), Mode::READER).expect("alone");
    QemuIo::start(image.path(), &["-r"]).map(|_| ()).expect("readers share");
    let error = QemuIo::start(image.path(), &[]).map(|_| ()).expect_err("we read");
    assert!(error.contains("lock"), "{error}");
    release(ours.as_fd());
    acquire(ours.as_fd(), Mode::ONLOOKER).expect("alone");
    QemuIo::start(image.path(), &[]).map(|_| ()).expect("an onlooker bothers nobody");
    release(ours.as_fd());
    QemuIo::start(image.path(), &[]).map(|_| ()).expect("nothing is held");
}

#[test]
fn we_refuse_what_qemu_holds() {
    let image = image();
    let ours = open(image.path());
    let try_all = |expected: [bool; 3]| {
        for (mode, fits) in [Mode::READER, Mode::WRITER, Mode::ONLOOKER].into_iter().zip(expected) {
            let result = acquire(ours.as_fd(), mode);
            assert_eq!(result.is_ok(), fits, "{mode:?}: {result:?}");
            release(ours.as_fd());
        }
    };
    let writer = QemuIo::start(image.path(), &[]).expect("alone");
    try_all([false, false, true]);
    drop(writer);
    let reader = QemuIo::start(image.path(), &["-r"]).expect("alone");
    try_all([true, false, true]);
    drop(reader);
    let onlooker = QemuIo::start(image.path(), &["-r", "-U"]).expect("alone");
    try_all([true, true, true]);
    drop(onlooker);
}

/// Raw images are all that can be shared by writers; `qemu-io` shares them with everybody.
#[test]
fn writers_that_said_so_share_a_raw_image_with_qemu() {
    let image = tempfile::NamedTempFile::new().expect("a temporary file");
    image.as_file().set_len(1 << 20).expect("length");
    let ours = open(image.path());
    let writer = QemuIo::start_as("raw", image.path(), &[]).expect("alone");
    acquire(ours.as_fd(), Mode::WRITER.share_rw()).expect("both share");
    drop(writer);
    drop(QemuIo::start_as("raw", image.path(), &[]).expect("both share"));
    release(ours.as_fd());
    let _writer = QemuIo::start_as("raw", image.path(), &[]).expect("alone");
    let refused = acquire(ours.as_fd(), Mode::WRITER);
    assert!(matches!(refused, Err(LockError::InUse { used: WRITE })), "{refused:?}");
}

/// `qemu-storage-daemon` with `image` as the backing file of a qcow2 overlay.
#[test]
fn backing_files_are_shared_by_readers_and_kept_from_writers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (base, overlay) = (dir.path().join("base.qcow2"), dir.path().join("overlay.qcow2"));
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&base], &["1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"], &[&base, &overlay], &[]);
    let ready = dir.path().join("ready");
    let mut child = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!(
            "driver=qcow2,node-name=n,file.driver=file,file.filename={}",
            overlay.display()
        ))
        .arg("--nbd-server")
        .arg(format!("addr.type=unix,addr.path={}", dir.path().join("nbd").display()))
        .args(["--export", "type=nbd,id=e,node-name=n,writable=on"])
        .arg("--pidfile")
        .arg(&ready)
        .spawn()
        .expect("qemu-storage-daemon");
    // The pidfile is written once everything is open.
    for _ in 0..500 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(ready.exists(), "qemu-storage-daemon did not start");
    let base_fd = open(&base);
    let reader = acquire(base_fd.as_fd(), Mode::READER);
    release(base_fd.as_fd());
    let writer = acquire(base_fd.as_fd(), Mode::WRITER);
    let overlay_fd = open(&overlay);
    let overlay_reader = acquire(overlay_fd.as_fd(), Mode::READER);
    drop(child.kill());
    drop(child.wait());
    reader.expect("a backing file has many readers");
    assert!(matches!(writer, Err(LockError::Denied { wanted: WRITE })), "{writer:?}");
    assert!(matches!(overlay_reader, Err(LockError::InUse { used: WRITE })), "{overlay_reader:?}");
}
