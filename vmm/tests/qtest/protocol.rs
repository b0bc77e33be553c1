//! Lines, connections and ends.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    time::Instant,
};

use tempfile::TempDir;

use super::client::{PATIENCE, Qtest, spindle};

#[test]
fn malformed_lines_are_answered_and_the_machine_goes_on() {
    let mut q = Qtest::start(&[]);
    for (line, answer) in [
        ("bogus 1 2", "FAIL Unknown command 'bogus'"),
        ("outb 0x70", "ERR missing argument"),
        ("write 0 4 0", "ERR invalid argument size"),
        ("irq_intercept_in nothing", "FAIL Unknown device"),
        ("endianness", "OK little"),
        ("module_load a b", "OK"),
        ("readl 0x10", "OK 0x0000000000000000"),
    ] {
        assert_eq!(q.send(line), answer, "{line}");
    }
    q.send_raw(b"\xff\xfe\nendianness\n");
    assert!(q.answer().starts_with("FAIL Unknown command"));
    assert_eq!(q.answer(), "OK little");
    assert!(q.end().1.success());
}

#[test]
fn many_lines_at_once_are_answered_in_order_and_in_bits_too() {
    let mut q = Qtest::start(&[]);
    let all: String =
        (0..2000).map(|i| format!("writel {:#x} {i}\nreadl {:#x}\n", i * 4, i * 4)).collect();
    for piece in all.as_bytes().chunks(1000) {
        q.send_raw(piece);
    }
    for i in 0..2000_u64 {
        assert_eq!(q.answer(), "OK");
        assert_eq!(q.answer(), format!("OK 0x{i:016x}"));
    }
    // So many that neither side can keep up with the other.
    const COUNT: u64 = 300_000;
    let mut sender = q.clone_stream();
    let thread = std::thread::spawn(move || {
        let lines: String = (0..COUNT).map(|i| format!("readb {:#x}\n", i % 4096)).collect();
        sender.write_all(lines.as_bytes()).unwrap();
    });
    for i in 0..COUNT {
        let i = i % 4096;
        let byte = if i % 4 < 2 { (i / 4) >> (8 * (i % 4)) & 0xff } else { 0 };
        assert_eq!(q.answer(), format!("OK 0x{byte:016x}"));
    }
    thread.join().unwrap();
    let data = "A".repeat(4 << 20);
    q.ok(&format!("b64write 0x100000 {} {data}", 3 << 20));
    assert_eq!(q.send(&format!("b64read 0x100000 {}", 3 << 20)), format!("OK {data}"));
    assert!(q.end().1.success());
}

#[test]
fn it_listens_if_it_is_told_to_and_a_disconnect_ends_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s");
    let log = dir.path().join("log");
    let child = spindle()
        .args(["run", "--accel", "qtest", "--serial", "null", "--qtest"])
        .arg(format!("unix:{},server=on", path.display()))
        .arg("--qtest-log")
        .arg(&log)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(e) => assert!(start.elapsed() < PATIENCE, "{e}"),
        }
        std::thread::yield_now();
    };
    let mut q = Qtest::over(dir, child, stream);
    q.ok("writeb 0 1");
    let (_dir, status) = q.end();
    assert!(status.success());
    assert!(!path.exists(), "the socket's path went with it");
    let log = std::fs::read_to_string(log).unwrap();
    let words: Vec<_> = log.lines().map(|line| line.split_once("] ").unwrap().1).collect();
    assert_eq!(words, ["OPENED", "writeb 0 1", "OK", "CLOSED"]);
    assert!(log.lines().nth(1).unwrap().starts_with("[R +0."), "{log}");
}

#[test]
fn the_command_line_of_qemus_test_library_works() {
    let dir = TempDir::new().unwrap();
    let (qtest, qmp) = (dir.path().join("q.sock"), dir.path().join("q.qmp"));
    let (tests, monitors) =
        (UnixListener::bind(&qtest).unwrap(), UnixListener::bind(&qmp).unwrap());
    let program = dir.path().join("qemu-system-x86_64");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_spindle"), &program).unwrap();
    let child = std::process::Command::new(program)
        .arg("-qtest")
        .arg(format!("unix:{}", qtest.display()))
        .args(["-qtest-log", "/dev/null", "-chardev"])
        .arg(format!("socket,path={},id=char0", qmp.display()))
        .args(["-mon", "chardev=char0,mode=control", "-display", "none", "-audio", "none"])
        .args(["-run-with", "exit-with-parent=on", "-machine", "q35", "-serial", "null"])
        .args(["-accel", "qtest"])
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = tests.accept().unwrap();
    let (monitor, _) = monitors.accept().unwrap();
    monitor.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut monitor = BufReader::new(monitor);
    let mut line = String::new();
    monitor.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"QMP\""), "{line}");
    let mut q = Qtest::over(dir, child, stream);
    assert_eq!(q.send("endianness"), "OK little");
    let command = b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"quit\"}\n";
    monitor.get_mut().write_all(command).unwrap();
    assert!(q.ended().1.success());
}
