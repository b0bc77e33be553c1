//! Filters do what they say. A forbidden call would end the test, so each runs in a child process.
use super::*;
use spindle_block::{
    Cx, Io, IoBuf, Node, Op, Range,
    iothread::thread,
    nodes::file::{FileNode, FileOptions},
    qcow2::{self, create::CreateOptions},
    ring::Aio,
    submit,
};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Names the filter and the call in the environment of a child process.
const CHILD: &str = "SPINDLE_TEST_SANDBOX";

/// This test program again, as a process in which `test` alone runs and is told `what` to do.
fn status(test: &str, what: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("sandbox::tests::{test}")])
        .env(CHILD, what)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}

/// What the child process does.
fn child(what: &str) -> ! {
    let (kind, call) = what.split_once(' ').unwrap();
    let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).unwrap();
    let number: i64 = call.parse().unwrap();
    Sandbox::new(true).unwrap().enter(kind).unwrap();
    // SAFETY: calls that fail for their bad arguments, or are refused.
    unsafe { libc::syscall(number, -1, 0, 0, 0) };
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(7) };
}

#[test]
fn what_is_listed_passes_and_anything_else_ends_the_process() {
    if let Ok(what) = std::env::var(CHILD) {
        child(&what);
    }
    let cases = [
        (Kind::Vcpu, libc::SYS_read, true),
        (Kind::Vcpu, libc::SYS_openat, false),
        (Kind::Vcpu, libc::SYS_execve, false),
        (Kind::Vcpu, libc::SYS_socket, false),
        (Kind::Iothread, libc::SYS_openat, true),
        (Kind::Iothread, libc::SYS_socket, false),
        (Kind::Iothread, libc::SYS_execve, false),
        (Kind::Iothread, libc::SYS_ptrace, false),
        (Kind::Main, libc::SYS_accept4, true),
        (Kind::Main, libc::SYS_execve, false),
        (Kind::Serial, libc::SYS_openat, false),
        // Request 0 is of no type that is let through.
        (Kind::Main, libc::SYS_ioctl, false),
    ];
    for (kind, call, passes) in cases {
        let test = "what_is_listed_passes_and_anything_else_ends_the_process";
        let status = status(test, &format!("{kind:?} {call}"));
        let want = if passes { (Some(7), None) } else { (None, Some(libc::SIGSYS)) };
        assert_eq!((status.code(), status.signal()), want, "{kind:?} {call}");
    }
}

/// Everything that an iothread does to files while it serves a machine: images are made, opened,
/// locked, written in every way, resized and closed.
async fn all_kinds_of_io(cx: Cx, dir: PathBuf) {
    let open = |name: &str| FileNode::create(&FileOptions::new(dir.join(name)), 1 << 20).unwrap();
    let raw: Arc<dyn Node> = open("raw");
    use_disk(&cx, &raw).await;
    Arc::clone(&raw).resize(Cx::clone(&cx), 2 << 20).await.unwrap();
    Arc::clone(&raw).close(Cx::clone(&cx)).await.unwrap();
    let file: Arc<dyn Node> = open("qcow2");
    let options = CreateOptions::new(64 << 20);
    qcow2::create::create(&cx, &file, &options).await.unwrap();
    let image = qcow2::open(&cx, Arc::clone(&file), None, qcow2::Options::default()).await.unwrap();
    let image: Arc<dyn Node> = image;
    use_disk(&cx, &image).await;
    Arc::clone(&image).close(Cx::clone(&cx)).await.unwrap();
    Arc::clone(&file).close(Cx::clone(&cx)).await.unwrap();
}

async fn use_disk(cx: &Cx, disk: &Arc<dyn Node>) {
    let io = |io| async { submit::node_io(cx, disk, io).await.1.unwrap() };
    let data = IoBuf::from_slice(&[7; 300 << 10]);
    io(Io::write(4096, data.view(0, data.len()))).await;
    let fua = Op::Write { fua: true };
    io(Io { op: fua, ..Io::write(8192, data.view(0, 512)) }).await;
    io(Io::flush()).await;
    io(Io::bare(Op::Discard, Range::new(64 << 10, 64 << 10))).await;
    for unmap in [false, true] {
        let op = Op::WriteZeroes { unmap, fua: true };
        io(Io::bare(op, Range::new(128 << 10, 64 << 10))).await;
    }
    let (io, result) = submit::node_io(cx, disk, Io::read(8192, IoBuf::zeroed(512))).await;
    result.unwrap();
    assert_eq!(io.buf.to_vec(), [7; 512]);
    Arc::clone(disk).extent(Cx::clone(cx), Range::new(0, 1 << 20)).await.unwrap();
}

/// What the child process does: an iothread that enters its filter, and then I/O on it.
fn child_io(what: &str) -> ! {
    let (engine, dir) = what.split_once(' ').unwrap();
    let aio = if engine == "threads" { Aio::Threads } else { Aio::IoUring };
    let config = thread::Config { name: "io".to_owned(), aio, poll_max: Duration::ZERO };
    let sandbox = Sandbox::new(true).unwrap();
    let enter = move |_: &Cx| sandbox.enter(Kind::Iothread);
    let spawned = thread::spawn(&config, enter, |_| ()).unwrap();
    assert_eq!(spawned.engine, engine);
    let (tx, rx) = mpsc::channel();
    let dir = PathBuf::from(dir);
    spawned.handle.post(move |cx| {
        let io = all_kinds_of_io(Cx::clone(cx), dir);
        cx.spawn(async move {
            io.await;
            tx.send(()).unwrap();
        });
    });
    // Without an answer the iothread panicked; a call that is not allowed ends the process.
    let done = rx.recv();
    spawned.handle.post(|cx| cx.stop());
    let joined = spawned.thread.join();
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(if done.is_ok() && joined.is_ok() { 7 } else { 8 }) };
}

#[test]
fn an_iothread_does_all_its_io_inside_its_filter() {
    if let Ok(what) = std::env::var(CHILD) {
        child_io(&what);
    }
    for engine in ["threads", "io_uring"] {
        let dir = tempfile::tempdir().unwrap();
        let what = format!("{engine} {}", dir.path().display());
        let status = status("an_iothread_does_all_its_io_inside_its_filter", &what);
        assert_eq!((status.code(), status.signal()), (Some(7), None), "{engine}");
        assert_eq!(std::fs::metadata(dir.path().join("raw")).unwrap().len(), 2 << 20);
        let image = std::fs::read(dir.path().join("qcow2")).unwrap();
        assert_eq!(image[..4], *b"QFI\xfb");
    }
}

#[test]
fn switched_off_it_does_nothing() {
    Sandbox::new(false).unwrap().enter(Kind::Vcpu).unwrap();
    assert!(std::fs::metadata("/").is_ok());
}
