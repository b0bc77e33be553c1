//! A small server, one that is up to no good, and what the client makes of them. QEMU's server is
//! tried by the tests of the image tool.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread::JoinHandle,
};

use super::*;
use crate::nodes::testing::{bare, close, on_ring, read, write};

const SIZE: usize = 1 << 20;

fn be<const N: usize>(from: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).ok().map(|()| bytes)
}

/// Greets as the protocol says; `size` and what the export can do.
fn greet(socket: &mut UnixStream, size: u64, flags: u16) -> Option<()> {
    socket.write_all(b"NBDMAGICIHAVEOPT\0\x03").ok()?;
    be::<4>(socket)?;
    loop {
        be::<8>(socket)?;
        let option = u32::from_be_bytes(be(socket)?);
        let len = u32::from_be_bytes(be(socket)?);
        let mut data = vec![0; len as usize];
        socket.read_exact(&mut data).ok()?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            out.extend(option.to_be_bytes());
            out.extend(kind.to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(data);
            socket.write_all(&out).ok()
        };
        if option != 7 {
            reply(0x8000_0001, b"")?;
            continue;
        }
        let info = [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
        reply(3, &info)?;
        return reply(1, b"");
    }
}

/// Serves `disk` until the client goes, and returns it.
fn serve(mut socket: UnixStream, mut disk: Vec<u8>) -> Vec<u8> {
    let flags = 1 | can::FLUSH | can::TRIM | can::WRITE_ZEROES;
    if greet(&mut socket, disk.len() as u64, flags).is_none() {
        return disk;
    }
    while let Some(head) = be::<28>(&mut socket) {
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let at = u64::from_be_bytes(head[16..24].try_into().expect("eight bytes")) as usize;
        let len = u32::from_be_bytes(head[24..28].try_into().expect("four bytes")) as usize;
        let mut out = vec![0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];
        out.extend(&head[8..16]);
        match kind {
            command::DISCONNECT => break,
            command::READ => out.extend(&disk[at..at + len]),
            command::WRITE if socket.read_exact(&mut disk[at..at + len]).is_ok() => {}
            command::WRITE_ZEROES => disk[at..at + len].fill(0),
            // What there is no place for.
            command::TRIM => out[7] = 28,
            _ => {}
        }
        if socket.write_all(&out).is_err() {
            break;
        }
    }
    disk
}

fn listen<T: Send + 'static>(
    dir: &Path,
    talk: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> (Server, JoinHandle<T>) {
    let path = dir.join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let thread = std::thread::spawn(move || talk(listener.accept().expect("a client").0));
    (Server::Unix(path), thread)
}

#[test]
fn what_is_written_is_with_the_server_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Vec<u8> = (0..SIZE).map(|n| (n / 512) as u8).collect();
    let (server, thread) = listen(dir.path(), move |socket| serve(socket, disk));
    on_ring(async move |cx| {
        let node = NbdNode::connect(&server, "", false, None).expect("connects");
        let node: Arc<dyn Node> = node;
        assert_eq!(node.info().size, SIZE as u64);
        assert_eq!(read(&cx, &node, 512 * 9, 600).await.expect("read")[..512], [9; 512]);
        write(&cx, &node, 1000, &[7; 5000]).await.expect("write");
        // Many at a time, answered in any order.
        let reads = (0..40_u64).map(|n| {
            let (cx, node) = (Cx::clone(&cx), Arc::clone(&node));
            async move { read(&cx, &node, n * 4096, 4096).await.expect("read") }
        });
        for (n, one) in reads.enumerate() {
            assert_eq!(one.await.len(), 4096, "{n}");
        }
        let zeroes = Op::WriteZeroes { unmap: true, fua: true };
        bare(&cx, &node, zeroes, 2000, 1000).await.expect("zeroes");
        let error = bare(&cx, &node, Op::Discard, 0, 4096).await.expect_err("no space");
        assert_eq!(error, BlockError::NoSpace);
        let extent = Arc::clone(&node).extent(Cx::clone(&cx), Range::new(0, 4096)).await;
        assert_eq!(extent.expect("an extent").kind, ExtentKind::Data);
        close(&cx, &node).await;
        let error = read(&cx, &node, 0, 512).await.expect_err("it is closed");
        assert_eq!(error, BlockError::Gone);
    });
    let disk = thread.join().expect("no panic");
    assert_eq!(disk[1000..2000], [7; 1000]);
    assert_eq!(disk[2000..3000], [0; 1000]);
    assert_eq!(disk[3000..6000], [7; 3000]);
    assert_eq!(disk[6001], (6001_usize / 512) as u8);
}

#[test]
fn servers_that_talk_nonsense_are_left_alone() {
    for (greeting, part) in [
        (&b"SSH-2.0-OpenSSH_9.2p1 Debian"[..], "Bad initial magic"),
        (b"NBDMAGICIHAVEOPT\0\0", "no fixed newstyle"),
        (b"NBDMAGIC", "fill"),
        (b"NBDMAGICIHAVEOPT\0\x03################################", "no sense"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let (server, thread) = listen(dir.path(), move |mut socket| {
            socket.write_all(greeting).expect("sent");
            // What the client says meanwhile is of no interest.
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let error = NbdNode::connect(&server, "", true, None).err().expect("refused");
        assert!(error.contains(part), "{error}");
        thread.join().expect("no panic");
    }
}

#[test]
fn answers_that_make_no_sense_end_the_connection_and_nothing_else() {
    for answer in [
        &b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\xff\xff"[..],
        b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x01\xff\xff\xff\xff",
        b"nonsense",
        b"",
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let (server, thread) = listen(dir.path(), move |mut socket| {
            greet(&mut socket, 1 << 20, 1).expect("greeted");
            be::<28>(&mut socket).expect("a request");
            // The client may be gone already.
            let _ = socket.write_all(answer);
            let _ = socket.shutdown(std::net::Shutdown::Both);
        });
        on_ring(async move |cx| {
            let node: Arc<dyn Node> = NbdNode::connect(&server, "", false, None).expect("connects");
            for _ in 0..2 {
                let error = read(&cx, &node, 0, 4096).await.expect_err("no answer");
                assert_eq!(error, BlockError::Gone);
            }
            close(&cx, &node).await;
        });
        thread.join().expect("no panic");
    }
}

#[test]
fn an_export_for_reading_is_not_opened_for_writing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server, thread) = listen(dir.path(), |mut socket| {
        greet(&mut socket, 1000, 1 | can::READ_ONLY).expect("greeted");
    });
    let error = NbdNode::connect(&server, "", false, None).err().expect("refused");
    assert!(error.contains("for reading only"), "{error}");
    thread.join().expect("no panic");
    let nowhere = Server::Unix(dir.path().join("nothing"));
    let error = NbdNode::connect(&nowhere, "", true, None).err().expect("refused");
    assert!(error.contains("No such file"), "{error}");
}
