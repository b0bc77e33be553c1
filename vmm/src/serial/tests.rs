//! The host's end of the serial port.
use super::*;
use crate::spec::UnixSpec;
use event_manager::{EventManager, SubscriberOps};
use spindle_devices::{Access, LineIrq, Registers, platform::SerialPort};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// An interrupt that nobody looks at.
struct NoLine;

impl LineIrq for NoLine {
    fn set(&self, _level: bool) {}
}

fn send(port: &SerialPort, bytes: &[u8]) {
    for byte in bytes {
        port.write(Access { offset: 0, width: 1 }, u64::from(*byte));
    }
}

fn received(port: &SerialPort) -> Vec<u8> {
    let get = |offset| port.read(Access { offset, width: 1 }) as u8;
    std::iter::from_fn(|| (get(5) & 1 != 0).then(|| get(0))).collect()
}

fn join(spec: &SerialSpec) -> (Arc<SerialPort>, SerialInput) {
    let end = HostEnd::open(spec, &Sandbox::default()).unwrap();
    let port = Arc::new(SerialPort::new(Box::new(NoLine), Box::new(end.tap()), end.room()));
    let keys = Box::new(|_| String::new());
    let input = SerialInput::new(end, Arc::clone(&port), keys);
    (port, input)
}

#[test]
fn a_file_gets_everything_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (port, input) = join(&SerialSpec::File(path.clone()));
    let text: Vec<u8> = (0..100_000_u32).map(|i| (i % 253) as u8).collect();
    send(&port, &text);
    input.flush(Duration::from_secs(10));
    assert!(std::fs::read(&path).unwrap() == text);
    send(&port, b"last words");
    drop(input);
    assert!(std::fs::read(&path).unwrap().ends_with(b"last words"));
}

#[test]
fn output_that_keeps_coming_gathers_longer() {
    use super::output::{GATHER, next_gather};
    let mut gather = next_gather(GATHER.start, Duration::from_secs(1));
    assert_eq!(gather, GATHER.start, "after a pause");
    for _ in 0..10 {
        gather = next_gather(gather, Duration::ZERO);
    }
    assert_eq!(gather, GATHER.end, "while it keeps coming");
    assert_eq!(next_gather(gather, GATHER.end), GATHER.start, "after the next pause");
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let spec = SerialSpec::File("/nonexistent/log".into());
    let error = HostEnd::open(&spec, &Sandbox::default()).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/log"), "{error}");
}

#[test]
fn a_socket_serves_one_peer_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let spec = SerialSpec::Unix(UnixSpec { path: path.clone(), server: true });
    let (port, input) = join(&spec);
    let mut manager = EventManager::<Box<dyn event_manager::MutEventSubscriber>>::new().unwrap();
    manager.add_subscriber(Box::new(input));
    for round in [b"first".as_slice(), b"second"] {
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        manager.run_with_timeout(10_000).unwrap();
        send(&port, round);
        let mut got = vec![0; round.len()];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, round);
        // More than the port takes at once.
        let typed: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        let copy = typed.clone();
        let typist = std::thread::spawn(move || {
            peer.write_all(&copy).unwrap();
        });
        let mut got = Vec::new();
        while got.len() < typed.len() {
            manager.run_with_timeout(20).unwrap();
            got.extend(received(&port));
        }
        assert!(got == typed);
        typist.join().unwrap();
        // The peer is gone: the next one can come.
        while manager.run_with_timeout(200).unwrap() > 0 {}
    }
}
