//! `spindle nbd` with a client that sends extended headers (NBD protocol, "Extended request message"): 64-bit
//! lengths, and block status of chosen contexts.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const GIB: u64 = 1 << 30;
const SIZE: u64 = 16 * GIB;
/// Request flag: the length is that of the payload.
const PAYLOAD: u16 = 1 << 5;
const EINVAL: u32 = 22;
/// The number that every request here is marked with.
const COOKIE: u64 = 0x1122_3344_5566_7788;

/// A chunk of a reply: its kind and payload.
type Chunk = (u16, Vec<u8>);

struct Client(UnixStream);

impl Client {
    /// Agrees on extended headers, both contexts, and the export.
    fn begin(socket: &Path) -> Self {
        let mut client = Self(connect(socket));
        let hello = client.bytes(18);
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        client.0.write_all(&3_u32.to_be_bytes()).expect("a socket");
        client.option(11, &[]);
        assert_eq!(client.answers(11), [(1, vec![])]);
        let mut contexts = vec![0, 0, 0, 0, 0, 0, 0, 2];
        for name in ["base:allocation", "qemu:allocation-depth"] {
            contexts.extend((name.len() as u32).to_be_bytes());
            contexts.extend(name.bytes());
        }
        client.option(10, &contexts);
        let answers = client.answers(10);
        assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [4, 4, 1]);
        client.option(7, &[0; 6]);
        let answers = client.answers(7);
        let export = answers.iter().find(|(_, data)| data.starts_with(&[0, 0])).expect("an export");
        assert_eq!(export.1[2..10], SIZE.to_be_bytes());
        let flags = u16::from_be_bytes([export.1[10], export.1[11]]);
        assert_ne!(flags & 1 << 12, 0, "block status takes payloads");
        client
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let mut out = b"IHAVEOPT".to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.0.write_all(&out).expect("a socket");
    }

    /// The answers to an option, up to the last.
    fn answers(&mut self, option: u64) -> Vec<(u64, Vec<u8>)> {
        let mut answers = Vec::new();
        loop {
            assert_eq!(self.number(8), 0x0003_e889_0455_65a9);
            assert_eq!(self.number(4), option);
            let (kind, len) = (self.number(4), self.number(4));
            answers.push((kind, self.bytes(len as usize)));
            if kind == 1 || kind >> 31 != 0 {
                return answers;
            }
        }
    }

    fn send(&mut self, flags: u16, kind: u16, offset: u64, len: u64, payload: &[u8]) {
        let mut out = 0x21e4_1c71_u32.to_be_bytes().to_vec();
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(COOKIE.to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(payload);
        self.0.write_all(&out).expect("a socket");
    }

    /// The chunks of the answer to a request at `offset`.
    fn chunks(&mut self, offset: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            assert_eq!(self.number(4), 0x6e8a_278c);
            let (flags, kind) = (self.number(2), self.number(2));
            assert_eq!((self.number(8), self.number(8)), (COOKIE, offset));
            let len = self.number(8);
            chunks.push((kind as u16, self.bytes(len as usize)));
            if flags & 1 != 0 {
                return chunks;
            }
        }
    }

    fn ask(&mut self, flags: u16, kind: u16, offset: u64, len: u64, payload: &[u8]) -> Vec<Chunk> {
        self.send(flags, kind, offset, len, payload);
        self.chunks(offset)
    }

    /// The error of a request; 0: none.
    fn error(&mut self, flags: u16, kind: u16, offset: u64, len: u64, payload: &[u8]) -> u32 {
        match self.ask(flags, kind, offset, len, payload).as_slice() {
            [(0, rest)] if rest.is_empty() => 0,
            [(0x8001, error)] => u32::from_be_bytes(*error.first_chunk().expect("four bytes")),
            other => panic!("{other:?}"),
        }
    }
}

fn connect(socket: &Path) -> UnixStream {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "no server: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A context and its extents: length and state.
fn status(chunk: &Chunk) -> (u32, Vec<(u64, u64)>) {
    assert_eq!(chunk.0, 6);
    let context = u32::from_be_bytes(*chunk.1.first_chunk().expect("a context"));
    let count = u32::from_be_bytes(*chunk.1[4..].first_chunk().expect("a count"));
    let word = |bytes: &[u8]| u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes"));
    let extents: Vec<_> = chunk.1[8..].chunks(16).map(|e| (word(e), word(&e[8..]))).collect();
    assert_eq!(extents.len(), count as usize);
    (context, extents)
}

fn serve(dir: &Path) -> (Child, std::path::PathBuf) {
    let (disk, socket) = (dir.join("disk"), dir.join("socket"));
    let program = env!("CARGO_BIN_EXE_spindle");
    let made = Command::new(program)
        .args(["img", "create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg(SIZE.to_string())
        .status();
    assert!(made.expect("spindle").success());
    let mut server = Command::new(program);
    server.args(["nbd", "-A", "-f", "qcow2", "--discard=unmap", "-k"]).arg(&socket).arg(&disk);
    (server.stdin(Stdio::null()).spawn().expect("spindle"), socket)
}

#[test]
fn lengths_have_64_bits() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, socket) = serve(dir.path());
    let mut client = Client::begin(&socket);
    let at = 10 * GIB + 512;
    assert_eq!(client.error(PAYLOAD, 1, at, 4, b"data"), 0);
    let read = client.ask(0, 0, at, 4, &[]);
    assert_eq!(read, [(1, [&at.to_be_bytes()[..], b"data"].concat())]);
    // One extent is longer than 32 bits can say.
    let cluster = (10 * GIB, 65536);
    let found: Vec<_> = client.ask(0, 7, 0, SIZE, &[]).iter().map(status).collect();
    let rest = SIZE - cluster.0 - cluster.1;
    assert_eq!(found[0], (0, vec![(cluster.0, 3), (cluster.1, 0), (rest, 3)]));
    assert_eq!(found[1], (1, vec![(cluster.0, 0), (cluster.1, 1), (rest, 0)]));
    // Zeros, and a trim, of more than 4 GiB.
    assert_eq!(client.error(0, 6, 5 * GIB, 6 * GIB, &[]), 0);
    assert_eq!(
        client.ask(0, 0, at, 4, &[]),
        [(2, [&at.to_be_bytes()[..], &[0, 0, 0, 4]].concat())]
    );
    assert_eq!(client.error(0, 4, 0, SIZE, &[]), 0);
    assert_eq!(client.error(0, 4, 1, SIZE, &[]), EINVAL);
    assert_eq!(client.error(0, 4, u64::MAX, u64::MAX, &[]), EINVAL);
    client.send(0, 2, 0, 0, &[]);
    assert!(server.wait().expect("the server").success());
    assert!(!socket.exists());
}

#[test]
fn block_status_is_told_in_the_contexts_that_are_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, socket) = serve(dir.path());
    let mut client = Client::begin(&socket);
    let query = |len: u64, contexts: &[u32]| {
        let mut payload = len.to_be_bytes().to_vec();
        contexts.iter().for_each(|number| payload.extend(number.to_be_bytes()));
        payload
    };
    let mut ask = |payload: &[u8]| client.ask(PAYLOAD, 7, 0, payload.len() as u64, payload);
    let of = |chunks: &[Chunk]| chunks.iter().map(|chunk| status(chunk).0).collect::<Vec<_>>();
    let one = ask(&query(8 * GIB, &[1]));
    assert_eq!(status(&one[0]), (1, vec![(8 * GIB, 0)]));
    assert_eq!(of(&ask(&query(4096, &[1, 0]))), [1, 0]);
    for wrong in [
        query(4096, &[]),
        query(4096, &[2]),
        query(4096, &[0, 0]),
        query(SIZE + 1, &[0]),
        query(0, &[0]),
        vec![0; 7],
        vec![0; 11],
        vec![],
    ] {
        let chunks = ask(&wrong);
        assert!(matches!(chunks.as_slice(), [(0x8001, _)]), "{wrong:?}: {chunks:?}");
    }
    // The data of other requests is taken, and they are refused.
    assert_eq!(client.error(PAYLOAD, 0, 0, 512, &[0; 512]), EINVAL);
    assert_eq!(client.error(PAYLOAD, 3, 0, 8, &[0; 8]), EINVAL);
    assert_eq!(client.error(0, 3, 0, 0, &[]), 0);
    // More than anybody may send ends the connection.
    client.send(PAYLOAD, 1, 0, 1 << 40, &[]);
    assert!(matches!(client.0.read(&mut [0]), Ok(0) | Err(_)));
    assert!(server.wait().expect("the server").success());
}

#[test]
fn a_client_that_only_looks_does_not_end_the_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, socket) = serve(dir.path());
    drop(connect(&socket));
    for _ in 0..2 {
        let list = Command::new(env!("CARGO_BIN_EXE_spindle"))
            .args(["nbd", "-L", "-k"])
            .arg(&socket)
            .output();
        let list = list.expect("spindle");
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.status.success() && text.contains("transaction size: 64-bit"), "{list:?}");
    }
    assert!(server.try_wait().expect("the server").is_none(), "it serves on");
    drop(Client::begin(&socket));
    assert!(server.wait().expect("the server").success());
    assert!(fs::metadata(dir.path().join("disk")).is_ok());
}
