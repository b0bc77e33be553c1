//! Sessions in memory, and the server over real sockets.
use super::command::{Command, names};
use super::schema::{RunState, ShutdownCause, StatusInfo};
use super::session::Session;
use super::*;
use crate::spec::{QmpSpec, UnixSpec};
use event_manager::{EventManager, SubscriberOps};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

fn lines(session: &mut Session) -> Vec<Value> {
    let text = String::from_utf8(session.unsent().to_vec()).unwrap();
    session.sent(text.len());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A session past its greeting and negotiation.
fn ready() -> Session {
    let mut session = Session::new();
    session.receive(br#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(session.next(), None);
    assert_eq!(lines(&mut session).len(), 2);
    session
}

/// What a message is answered with before it comes to the machine.
fn refused(message: &str) -> (String, String) {
    let mut session = ready();
    session.receive(message.as_bytes());
    session.receive(b"\n");
    assert_eq!(session.next(), None, "{message}");
    let lines = lines(&mut session);
    assert_eq!(lines.len(), 1, "{message}");
    let text = |key: &str| lines[0]["error"][key].as_str().unwrap().to_owned();
    (text("class"), text("desc"))
}

#[test]
fn a_session_greets_negotiates_and_echoes_ids() {
    let mut session = Session::new();
    let greeting = lines(&mut session);
    assert!(greeting[0]["QMP"]["version"]["qemu"]["major"].is_u64());
    assert_eq!(greeting[0]["QMP"]["capabilities"], json!([]));
    session.receive(br#"{"execute":"query-status","id":1}{"execute":"qmp_capabilities","id":[2]}"#);
    session.receive(br#"{"execute":"qmp_capabilities"} {"execute":"query-status","id":{"a":3}}"#);
    let (number, command) = session.next().unwrap();
    assert_eq!(command, Command::QueryStatus);
    let out = lines(&mut session);
    assert_eq!(out[0]["error"]["class"], "CommandNotFound");
    assert_eq!(out[0]["id"], 1);
    assert_eq!(out[1], json!({"return": {}, "id": [2]}));
    assert_eq!(out[2]["error"]["class"], "CommandNotFound");
    assert!(out[2].get("id").is_none());
    session.receive(br#"{"execute":"stop"}"#);
    assert_eq!(session.next(), None, "the first command is unanswered");
    let status = serde_json::to_value(StatusInfo::new(RunState::IoError)).unwrap();
    assert!(!session.reply(number + 1, Ok(json!(1))), "no such command");
    assert!(session.reply(number, Ok(status)));
    assert!(!session.reply(number, Ok(json!(1))), "answered once");
    assert_eq!(
        lines(&mut session),
        [json!({"return": {"status": "io-error", "running": false, "singlestep": false},
                "id": {"a": 3}})]
    );
    assert_eq!(session.next().unwrap().1, Command::Stop);
}

#[test]
fn events_wait_for_the_negotiation() {
    let mut session = Session::new();
    lines(&mut session);
    session.event(&json!({"event": "STOP"}));
    assert_eq!(lines(&mut session), Vec::<Value>::new());
    let mut session = ready();
    session.event(&json!({"event": "STOP"}));
    assert_eq!(lines(&mut session), [json!({"event": "STOP"})]);
}

#[test]
fn malformed_messages_are_answered_and_survived() {
    let cases = [
        ("{\"execute\" \"stop\"}", "GenericError", "JSON parse error"),
        ("hello", "GenericError", "JSON parse error"),
        ("[1]", "GenericError", "must be a JSON object"),
        ("{}", "GenericError", "lacks member 'execute'"),
        (r#"{"execute": 1}"#, "GenericError", "'execute' must be a string"),
        (r#"{"exec-oob": "stop"}"#, "GenericError", "out-of-band"),
        (r#"{"execute": "stop", "arguments": []}"#, "GenericError", "'arguments' must be"),
        (r#"{"execute": "stop", "extra": 1}"#, "GenericError", "'extra' is unexpected"),
        (r#"{"execute": "query-blok"}"#, "CommandNotFound", "did you mean 'query-block'"),
        (r#"{"execute": "stop", "arguments": {"x": 1}}"#, "GenericError", "'x'"),
        (
            r#"{"execute": "block_resize", "arguments": {"devise": "d", "size": 1}}"#,
            "GenericError",
            "did you mean 'device'",
        ),
        (
            r#"{"execute": "block_resize", "arguments": {"device": "d", "size": "1G"}}"#,
            "GenericError",
            "size",
        ),
        (r#"{"execute": "block_resize", "arguments": {"size": 1}}"#, "GenericError", "one of"),
        (
            r#"{"execute": "blockdev-add", "arguments": {"driver": "qcow22", "node-name": "n"}}"#,
            "GenericError",
            "did you mean 'qcow2'",
        ),
        (
            r#"{"execute": "eject", "arguments": {"id": "d", "device": "d"}}"#,
            "GenericError",
            "one of",
        ),
        (r#"{"execute": "blockdev-open-tray"}"#, "GenericError", "one of"),
        (r#"{"execute": "device_add", "arguments": {"id": "d"}}"#, "GenericError", "'driver'"),
        (r#"{"execute": "device_del", "arguments": {"device": "d"}}"#, "GenericError", "'device'"),
        (r#"{"execute": "blockdev-del", "arguments": {}}"#, "GenericError", "node-name"),
        (
            r#"{"execute": "x-fault-add", "arguments": {"node-name": "f", "opp": "read"}}"#,
            "GenericError",
            "did you mean 'op'",
        ),
    ];
    for (message, class, part) in cases {
        let (got, desc) = refused(message);
        assert!(got == class && desc.contains(part), "{message}: {got}: {desc}");
    }
}

#[test]
fn arguments_become_typed_commands() {
    let command = |text: &str| {
        let mut session = ready();
        session.receive(text.as_bytes());
        session.next().unwrap_or_else(|| panic!("{text}: {:?}", lines(&mut session))).1
    };
    assert_eq!(
        command(r#"{"execute":"block_resize","arguments":{"node-name":"n","size":4096}}"#),
        Command::BlockResize { target: BlockTarget::Node("n".to_owned()), size: 4096 }
    );
    assert_eq!(
        command(r#"{"execute":"query-blockstats","arguments":{"query-nodes":true}}"#),
        Command::QueryBlockstats { query_nodes: true }
    );
    assert_eq!(
        command(r#"{"execute":"blockdev-open-tray","arguments":{"id":"cd","force":true}}"#),
        Command::OpenTray { id: "cd".to_owned(), force: true }
    );
    assert_eq!(
        command(
            r#"{"execute":"blockdev-change-medium","arguments":{"device":"cd","filename":"a.iso",
                "format":"raw","read-only-mode":"retain"}}"#
        ),
        Command::ChangeMedium(MediumChange {
            id: "cd".to_owned(),
            filename: "a.iso".to_owned(),
            format: Some("raw".to_owned()),
            force: false,
        })
    );
    assert_eq!(command(r#"{"execute":"x-fault-query"}"#), Command::FaultQuery { node_name: None });
    match command(
        r#"{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"n",
            "file":{"driver":"file","filename":"/x.qcow2"}}}"#,
    ) {
        Command::BlockdevAdd(nodes) => {
            let names: Vec<&str> = nodes.iter().map(|node| &*node.node_name).collect();
            assert_eq!(names, ["n.file", "n"]);
        }
        other => panic!("{other:?}"),
    }
    match command(
        r#"{"execute":"x-fault-add","arguments":{"node-name":"f","op":"write","count":1}}"#,
    ) {
        Command::FaultAdd { node_name, rule } => {
            assert_eq!((&*node_name, rule.count), ("f", Some(1)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_command_of_the_list_is_known() {
    let arguments = json!({"node-name": "n", "id": "i", "size": 1, "driver": "null-co",
                           "filename": "f.raw"});
    for name in names() {
        let Value::Object(all) = arguments.clone() else { unreachable!() };
        let fits = |drop: &[&str]| {
            let mut some = all.clone();
            for key in drop {
                some.remove(*key);
            }
            if name == "x-sd-set-wp" {
                some.insert("write-protected".to_owned(), json!(true));
            }
            super::command::parse(name, some)
        };
        let subsets: [&[&str]; 7] = [
            &["node-name", "id", "size", "driver", "filename"],
            &["id", "driver", "filename"],
            &["id", "size", "filename"],
            &["id", "size", "driver", "filename"],
            &["size", "driver", "filename"],
            &["size", "driver", "node-name", "filename"],
            &["size", "driver", "node-name"],
        ];
        assert!(subsets.iter().any(|drop| fits(drop).is_ok()), "{name}: {:?}", fits(&[]));
    }
    let mut session = ready();
    session.receive(br#"{"execute":"query-commands"}{"execute":"query-version"}"#);
    assert_eq!(session.next(), None);
    let out = lines(&mut session);
    assert!(out[0]["return"].as_array().unwrap().contains(&json!({"name": "x-fault-release"})));
    assert!(out[1]["return"]["package"].is_string());
}

#[test]
fn a_peer_that_does_not_read_is_cut_off_and_one_that_floods_is_held_back() {
    let mut session = ready();
    let event = json!({"event": "X", "data": "x".repeat(1000)});
    for _ in 0..10_000 {
        session.event(&event);
    }
    assert!(session.is_broken() && session.unsent().is_empty());
    let mut session = ready();
    session.receive(&[b' '; 100]);
    session.receive(br#"{"execute":"stop"}"#);
    session.next().unwrap();
    assert!(!session.wants_input());
    let mut session = ready();
    session.receive("[".repeat(5000).as_bytes());
    assert_eq!(session.next(), None);
    assert!(session.is_broken());
    assert!(lines(&mut session)[0]["error"]["desc"].as_str().unwrap().contains("too deep"));
}

proptest! {
    #[test]
    fn no_bytes_panic_a_session(
        chunks in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(b"{\"execute\":\"".to_vec()),
                Just(b"blockdev-add\",\"arguments\":{\"driver\":\"raw\",\"file\":".to_vec()),
                Just(b"stop\"}".to_vec()),
                Just(b"{}[]\"\\".to_vec()),
            ], 0..20),
    ) {
        let mut session = ready();
        for chunk in chunks {
            session.receive(&chunk);
            while let Some((number, _)) = session.next() {
                session.reply(number, Ok(json!({})));
            }
        }
        for line in lines(&mut session) {
            prop_assert!(line.get("return").is_some() || line.get("error").is_some());
        }
    }
}

/// A machine that notes its commands and keeps the replies it is told to keep.
#[derive(Default)]
struct Machine {
    seen: Vec<Command>,
    kept: Vec<Reply>,
}

impl Handler for Machine {
    fn handle(&mut self, command: Command, reply: Reply) {
        match command {
            Command::QueryStatus => reply.value(&StatusInfo::new(RunState::Running)),
            Command::Stop => self.kept.push(reply),
            Command::Cont => drop(reply),
            _ => reply.done(),
        }
        self.seen.push(command);
    }
}

struct Bench {
    dir: tempfile::TempDir,
    manager: EventManager<Server<Shared<Machine>>>,
    machine: Rc<RefCell<Machine>>,
    events: EventSender,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Rc::new(RefCell::new(Machine::default()));
        let spec = QmpSpec { socket: UnixSpec { path: dir.path().join("q"), server: true } };
        let server = Server::new(&[spec], Shared(Rc::clone(&machine))).unwrap();
        let events = server.events();
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(server);
        Self { dir, manager, machine, events }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("q")
    }

    fn peer(&mut self) -> Peer {
        let mut peer = Peer::new(&self.path());
        peer.line(self);
        peer.send(r#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(peer.line(self), json!({"return": {}}));
        peer
    }

    fn turn(&mut self) {
        self.manager.run_with_timeout(5).unwrap();
    }
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next line, turning the main loop until it comes.
    fn line(&mut self, bench: &mut Bench) -> Value {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut line = String::new();
        loop {
            match self.0.read_line(&mut line) {
                Ok(0) => return Value::Null,
                Ok(_) if line.ends_with('\n') => return serde_json::from_str(&line).unwrap(),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => bench.turn(),
                Err(e) => panic!("{e}"),
            }
            assert!(Instant::now() < deadline, "no line came");
        }
    }
}

#[test]
fn peers_come_go_and_share_the_machine() {
    let mut bench = Bench::new();
    let mut first = bench.peer();
    let mut second = bench.peer();
    first.send(r#"{"execute":"query-status","id":1}"#);
    assert_eq!(first.line(&mut bench)["return"]["status"], "running");
    bench.events.send(Event::Shutdown { guest: true, reason: ShutdownCause::GuestShutdown });
    for peer in [&mut first, &mut second] {
        let event = peer.line(&mut bench);
        assert_eq!(event["event"], "SHUTDOWN");
        assert_eq!(event["data"], json!({"guest": true, "reason": "guest-shutdown"}));
    }
    drop(first);
    bench.turn();
    let mut third = bench.peer();
    third.send(r#"{"execute":"cont","id":"c"}"#);
    let answer = third.line(&mut bench);
    assert_eq!((&answer["error"]["class"], &answer["id"]), (&json!("GenericError"), &json!("c")));
}

#[test]
fn an_answer_may_come_later_and_from_another_thread() {
    let mut bench = Bench::new();
    let mut peer = bench.peer();
    let mut other = bench.peer();
    peer.send(r#"{"execute":"stop","id":1}{"execute":"query-status","id":2}"#);
    other.send(r#"{"execute":"query-status"}"#);
    assert!(other.line(&mut bench)["return"]["running"].as_bool().unwrap());
    let reply = bench.machine.borrow_mut().kept.pop().unwrap();
    std::thread::spawn(move || reply.done()).join().unwrap();
    assert_eq!(peer.line(&mut bench), json!({"return": {}, "id": 1}));
    assert_eq!(peer.line(&mut bench)["id"], 2);
}

#[test]
fn a_peer_that_leaves_early_is_still_obeyed() {
    let mut bench = Bench::new();
    let mut peer = bench.peer();
    peer.send(r#"{"execute":"stop"}{"execute":"system_reset"}{"execute":"quit"}"#);
    drop(peer);
    let deadline = Instant::now() + Duration::from_secs(10);
    while bench.machine.borrow().seen.len() < 3 {
        bench.turn();
        let kept = bench.machine.borrow_mut().kept.pop();
        if let Some(reply) = kept {
            reply.done();
        }
        assert!(Instant::now() < deadline);
    }
    assert_eq!(bench.machine.borrow().seen, [Command::Stop, Command::SystemReset, Command::Quit]);
    let mut next = bench.peer();
    next.send(r#"{"execute":"query-status"}"#);
    assert!(next.line(&mut bench).get("return").is_some());
}

#[test]
fn the_loop_sleeps_when_nobody_wants_anything() {
    let mut bench = Bench::new();
    let mut peer = bench.peer();
    peer.send(r#"{"execute":"stop"}"#);
    while bench.machine.borrow().kept.is_empty() {
        bench.turn();
    }
    let stream = peer.0.get_ref().try_clone().unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop((peer, stream));
    for _ in 0..5 {
        bench.turn();
    }
    assert_eq!(bench.manager.run_with_timeout(20).unwrap(), 0, "a gone peer keeps the loop busy");
    bench.machine.borrow_mut().kept.clear();
    for _ in 0..5 {
        bench.turn();
    }
    assert_eq!(bench.manager.run_with_timeout(20).unwrap(), 0);
}

#[test]
fn more_peers_than_places_wait_for_one() {
    let mut bench = Bench::new();
    let mut peers: Vec<Peer> = (0..16).map(|_| bench.peer()).collect();
    let mut late = Peer::new(&bench.path());
    for _ in 0..3 {
        bench.turn();
    }
    assert_eq!(bench.manager.run_with_timeout(20).unwrap(), 0, "a full house keeps it busy");
    peers.pop();
    assert!(late.line(&mut bench).get("QMP").is_some());
}

#[test]
fn the_last_answer_goes_out_when_the_server_ends() {
    let mut bench = Bench::new();
    let mut peer = bench.peer();
    peer.send(r#"{"execute":"stop","id":9}"#);
    while bench.machine.borrow().kept.is_empty() {
        bench.turn();
    }
    bench.machine.borrow_mut().kept.pop().unwrap().done();
    bench.events.send(Event::Powerdown);
    let path = bench.path();
    let Bench { dir: _dir, manager, .. } = bench;
    drop(manager);
    let mut line = String::new();
    peer.0.read_line(&mut line).unwrap();
    assert!(line.contains(r#""id":9"#), "{line}");
    line.clear();
    peer.0.read_line(&mut line).unwrap();
    assert!(line.contains("POWERDOWN"), "{line}");
    assert!(!path.exists(), "the socket is removed");
}

#[test]
fn held_events_go_out_after_the_period() {
    let mut bench = Bench::new();
    let mut peer = bench.peer();
    let error = |reason: &str| Event::BlockIoError {
        device: "d".to_owned(),
        node_name: "n".to_owned(),
        operation: IoOperation::Read,
        action: IoAction::Report,
        nospace: false,
        reason: reason.to_owned(),
    };
    for reason in ["1", "2", "3"] {
        bench.events.send(error(reason));
    }
    let started = Instant::now();
    assert_eq!(peer.line(&mut bench)["data"]["reason"], "1");
    assert_eq!(peer.line(&mut bench)["data"]["reason"], "3");
    assert!(started.elapsed() > Duration::from_millis(500));
}
