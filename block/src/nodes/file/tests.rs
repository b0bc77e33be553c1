use std::{os::unix::ffi::OsStrExt, path::Path};

use super::{probe::Facts, *};
use crate::nodes::testing::{bare, close, on_ring, read, write};

fn temp(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(len).expect("length");
    file
}

fn open(path: &Path, change: impl FnOnce(&mut FileOptions)) -> Result<Arc<FileNode>, FileError> {
    let mut options = FileOptions::new(path);
    change(&mut options);
    FileNode::open(&options)
}

fn sentence(path: &Path, change: impl FnOnce(&mut FileOptions)) -> String {
    open(path, change).map(|_| ()).expect_err("refused").to_string()
}

#[test]
fn a_file_reads_and_writes_up_to_its_last_odd_byte_and_beyond() {
    for direct in [false, true] {
        let temp = temp(0);
        std::fs::write(temp.path(), [7u8; 5000]).expect("write");
        let file = open(temp.path(), |o| o.direct = direct).expect("open");
        assert_eq!((file.info().size, file.is_direct()), (5120, direct));
        let path = temp.path().to_path_buf();
        on_ring(async move |cx| {
            let node: Arc<dyn Node> = Arc::clone(&file) as _;
            let mut expected = vec![0; 5120];
            expected[..5000].fill(7);
            assert_eq!(read(&cx, &node, 0, 5120).await.expect("read"), expected);
            // A format's own: a few bytes in the middle, and far beyond the end.
            write(&cx, &node, 1021, &[9; 700]).await.expect("write");
            write(&cx, &node, 20_001, &[8; 3]).await.expect("write");
            assert_eq!(file.info().size, 5120);
            assert!(file.length().expect("a host file").expect("length") >= 20_004);
            expected.resize(24_576, 0);
            expected[1021..1721].fill(9);
            expected[20_001..20_004].fill(8);
            assert_eq!(read(&cx, &node, 0, 24_576).await.expect("read"), expected);
            assert_eq!(read(&cx, &node, 20_000, 5).await.expect("read"), [0, 8, 8, 8, 0]);
            bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
            close(&cx, &node).await;
            let bytes = std::fs::read(&path).expect("read");
            assert_eq!(bytes[..], expected[..bytes.len()]);
        });
    }
}

#[test]
fn aligned_requests_map_to_a_leaf_and_others_do_not() {
    let temp = temp(1 << 20);
    let file = open(temp.path(), |o| o.direct = true).expect("open");
    let lane = Lane::new(0);
    for op in [OpKind::Read, OpKind::Write, OpKind::WriteFua, OpKind::Flush] {
        let len = if op == OpKind::Flush { 0 } else { 8192 };
        match file.map(lane, op, Range::new(4096, len)) {
            Map::Leaf { file: id, offset: 4096, len: n, .. } => {
                assert_eq!((id, n), (file.file().id(), len));
            }
            other => panic!("{op:?}: {other:?}"),
        }
    }
    assert!(matches!(file.map(lane, OpKind::Read, Range::new(100, 512)), Map::Slow));
    assert!(matches!(file.map(lane, OpKind::Discard, Range::new(0, 4096)), Map::Slow));
}

#[test]
fn small_writes_in_one_block_do_not_lose_each_other() {
    let temp = temp(4096);
    let file = FileNode::over(
        File::register(
            temp.path(),
            crate::file::Backend::Host(temp.reopen().expect("open").into()),
        )
        .expect("a number"),
        4096,
        4096,
        false,
    );
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        let base = cx.tasks();
        for n in 0..64u64 {
            let (task_cx, node) = (Cx::clone(&cx), Arc::clone(&node));
            cx.spawn(async move {
                write(&task_cx, &node, n * 64, &[n as u8 + 1; 64]).await.expect("write");
            });
        }
        while cx.tasks() > base {
            cx.sleep(std::time::Duration::from_millis(1)).await;
        }
        let bytes = read(&cx, &node, 0, 4096).await.expect("read");
        for (n, part) in bytes.chunks(64).enumerate() {
            assert!(part.iter().all(|b| *b == n as u8 + 1), "part {n}: {part:?}");
        }
    });
}

#[test]
fn discard_and_write_zeroes_give_space_back_as_asked() {
    let temp = temp(0);
    std::fs::write(temp.path(), vec![5u8; 1 << 20]).expect("write");
    let file = open(temp.path(), |_| {}).expect("open");
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
        let full = file.allocated().expect("known");
        assert!(full >= 1 << 20);
        bare(&cx, &node, Op::Discard, 0, 256 << 10).await.expect("discard");
        assert_eq!(file.allocated(), Some(full - (256 << 10)));
        let zeroes = |unmap| Op::WriteZeroes { unmap, fua: true };
        bare(&cx, &node, zeroes(true), 256 << 10, 256 << 10).await.expect("write-zeroes");
        assert_eq!(file.allocated(), Some(full - (512 << 10)));
        bare(&cx, &node, zeroes(false), 512 << 10, 256 << 10).await.expect("write-zeroes");
        assert_eq!(file.allocated(), Some(full - (512 << 10)));
        let bytes = read(&cx, &node, 0, 1 << 20).await.expect("read");
        assert!(bytes[..768 << 10].iter().all(|b| *b == 0));
        assert!(bytes[768 << 10..].iter().all(|b| *b == 5));
        close(&cx, &node).await;
    });
}

#[test]
fn an_ignored_discard_keeps_the_space() {
    let temp = temp(0);
    std::fs::write(temp.path(), vec![5u8; 1 << 20]).expect("write");
    let file = open(temp.path(), |o| o.ignore_discard = true).expect("open");
    assert_eq!(file.info().discard_granularity, 0);
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
        let full = file.allocated();
        bare(&cx, &node, Op::Discard, 0, 256 << 10).await.expect("discard");
        assert_eq!(read(&cx, &node, 0, 1).await.expect("read"), [5]);
        let op = Op::WriteZeroes { unmap: true, fua: false };
        bare(&cx, &node, op, 0, 256 << 10).await.expect("write-zeroes");
        assert_eq!(read(&cx, &node, 0, 1).await.expect("read"), [0]);
        assert_eq!(file.allocated(), full);
        close(&cx, &node).await;
    });
}

#[test]
fn a_file_system_that_refuses_is_asked_once_and_zeros_are_written_by_hand() {
    // memfd (tmpfs) can punch holes and cannot zero ranges.
    // SAFETY: a plain system call.
    let fd = unsafe { libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just made, ours alone.
    let fd = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let file = File::register("memory".as_ref(), crate::file::Backend::Host(fd)).expect("a number");
    let file = FileNode::over(file, 4 << 20, 1, false);
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        write(&cx, &node, 0, &vec![3; 4 << 20]).await.expect("write");
        let op = Op::WriteZeroes { unmap: false, fua: false };
        bare(&cx, &node, op, 1000, (2 << 20) + 77).await.expect("write-zeroes");
        assert_eq!(file.refusals(), (false, true));
        let bytes = read(&cx, &node, 0, 4 << 20).await.expect("read");
        let end = 1000 + (2 << 20) + 77;
        assert!(bytes[..1000].iter().chain(&bytes[end..]).all(|b| *b == 3));
        assert!(bytes[1000..end].iter().all(|b| *b == 0));
    });
}

#[test]
fn extents_tell_data_from_holes() {
    let temp = temp(1 << 20);
    let file = open(temp.path(), |_| {}).expect("open");
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        write(&cx, &node, 64 << 10, &vec![1; 64 << 10]).await.expect("write");
        bare(&cx, &node, Op::Flush, 0, 0).await.expect("flush");
        let hole = ExtentKind::Zero { allocated: false };
        let mut found = Vec::new();
        let mut at = 0;
        while at < 1 << 20 {
            let range = Range::new(at, (1 << 20) - at);
            let extent = Arc::clone(&node).extent(Cx::clone(&cx), range).await.expect("extent");
            assert_eq!(extent.host_offset, Some(at));
            found.push((extent.len >> 10, extent.kind));
            at += extent.len;
        }
        assert_eq!(found, [(64, hole), (64, ExtentKind::Data), (896, hole)]);
        let beyond = Range::new(5 << 20, 4096);
        let extent = Arc::clone(&node).extent(Cx::clone(&cx), beyond).await.expect("extent");
        assert_eq!((extent.len, extent.kind), (4096, hole));
        close(&cx, &node).await;
    });
}

#[test]
fn resize_changes_file_and_info() {
    let temp = temp(4096);
    let file = open(temp.path(), |_| {}).expect("open");
    let path = temp.path().to_path_buf();
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        for size in [1 << 20, 1000, 8192] {
            Arc::clone(&node).resize(Cx::clone(&cx), size).await.expect("resize");
            assert_eq!(node.info().size, size.next_multiple_of(512));
            assert_eq!(std::fs::metadata(&path).expect("stat").len(), size);
        }
        close(&cx, &node).await;
    });
    let file = open(temp.path(), |o| o.read_only = true).expect("open");
    on_ring(async move |cx| {
        let node: Arc<dyn Node> = file;
        assert_eq!(Arc::clone(&node).resize(Cx::clone(&cx), 1).await, Err(BlockError::ReadOnly));
        let io = Io::write(0, IoBuf::zeroed(512));
        assert_eq!(Arc::clone(&node).run(Cx::clone(&cx), io).await.1, Err(BlockError::ReadOnly));
        close(&cx, &node).await;
    });
    assert_eq!(std::fs::metadata(temp.path()).expect("stat").len(), 8192);
}

#[test]
fn a_full_disk_is_no_space() {
    let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").expect("open");
    let backend = crate::file::Backend::Host(full.into());
    let file = File::register("/dev/full".as_ref(), backend).expect("a number");
    let node: Arc<dyn Node> = FileNode::over(file, 1 << 20, 1, false);
    on_ring(async move |cx| {
        assert_eq!(write(&cx, &node, 0, &[1; 4096]).await, Err(BlockError::NoSpace));
    });
}

#[test]
fn direct_io_falls_back_where_the_file_system_has_none() {
    // A regular file, on a file system without O_DIRECT.
    let path = Path::new("/proc/version");
    let file = open(path, |o| {
        o.direct = true;
        o.read_only = true;
    });
    let file = file.expect("buffered");
    assert!(!file.is_direct());
    assert_eq!(file.info().request_alignment, 1);
}

#[test]
fn every_unusable_name_gets_one_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let shown_dir = dir.path().display();
    assert_eq!(
        sentence(&at("none.raw"), |_| {}),
        format!(
            "cannot open '{shown_dir}/none.raw': it does not exist; check the name, or make it \
             with 'spindle img create'"
        )
    );
    assert!(
        sentence(dir.path(), |o| o.read_only = true).ends_with("a directory, not an image file")
    );
    assert!(sentence(dir.path(), |_| {}).ends_with("a directory, not an image file"));
    std::fs::write(at("f"), []).expect("write");
    assert!(sentence(&at("f/g"), |_| {}).ends_with("its directory does not exist"));
    let fifo = at("fifo");
    let name = std::ffi::CString::new(fifo.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a valid C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(sentence(&fifo, |_| {}).ends_with("a pipe, not an image file"));
    assert!(sentence(Path::new("/dev/null"), |_| {}).contains("a character device"));
    let socket = at("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    assert!(sentence(&socket, |_| {}).contains("a socket"));
    assert!(sentence(&at(&"n".repeat(300)), |_| {}).ends_with("not a file name"));
    assert!(sentence(Path::new("a\0b"), |_| {}).ends_with("not a file name"));
    let hostile = sentence(&at("\x1b[2J\u{202e}x\n"), |_| {});
    assert!(hostile.contains("\\u{1b}[2J\\u{202e}x\\n"), "{hostile}");
    assert!(
        sentence(&at("f"), |o| o.driver = Driver::HostDevice).contains("use the driver 'file'")
    );
    assert!(sentence(&at("f"), |o| o.force_share = true).contains("read-only=on"));
}

#[test]
fn refusals_of_the_system_are_told_apart() {
    let reason = |errno, writing| {
        Reason::of_open(std::io::Error::from_raw_os_error(errno), writing, false).to_string()
    };
    assert!(reason(libc::EACCES, true).contains("read-only=on"));
    assert!(!reason(libc::EACCES, false).contains("read-only"));
    assert!(reason(libc::EROFS, true).contains("read-only=on"));
    assert!(reason(libc::EMFILE, true).contains("open files"));
}

/// sysfs refuses writers of files without write permission, root included.
const UNWRITABLE: &str = "/sys/kernel/notes";

#[test]
fn what_cannot_be_written_is_opened_for_reading_where_that_is_allowed() {
    let path = Path::new(UNWRITABLE);
    let refused = sentence(path, |_| {});
    assert_eq!(
        refused,
        format!(
            "cannot open '{UNWRITABLE}': permission denied; allow writing to it, or open it with \
             read-only=on"
        )
    );
    let file = open(path, |o| o.auto_read_only = true).expect("read-only");
    assert!(file.info().read_only);
    let temp = temp(512);
    assert!(!open(temp.path(), |o| o.auto_read_only = true).expect("open").info().read_only);
}

#[test]
fn creating_makes_replaces_and_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("new.raw");
    let options = FileOptions::new(&path);
    let file = FileNode::create(&options, 10_000).expect("create");
    assert_eq!(std::fs::metadata(&path).expect("stat").len(), 10_000);
    // In use: not truncated.
    let error = FileNode::create(&options, 0).map(|_| ()).expect_err("locked").to_string();
    assert!(error.starts_with("cannot create '") && error.contains("another program"), "{error}");
    assert_eq!(std::fs::metadata(&path).expect("stat").len(), 10_000);
    drop(file);
    drop(FileNode::create(&options, 512).expect("create"));
    assert_eq!(std::fs::metadata(&path).expect("stat").len(), 512);
    let huge = dir.path().join("huge.raw");
    let error = FileNode::create(&FileOptions::new(&huge), u64::MAX).map(|_| ());
    assert!(
        error.expect_err("too large").to_string().ends_with("no space left on its file system")
    );
    assert!(!huge.exists());
    let nowhere = dir.path().join("no/such.raw");
    let error = FileNode::create(&FileOptions::new(nowhere), 1).map(|_| ()).expect_err("nowhere");
    assert!(error.to_string().ends_with("its directory does not exist"), "{error}");
}

#[test]
fn what_devices_report_is_made_sane() {
    for (reported, block) in [(512, 512), (4096, 4096), (0, 4096), (520, 4096), (1 << 20, 4096)] {
        assert_eq!(probe::sane_block(reported), block);
    }
    for (text, granularity) in [("4096\n", 4096), ("0\n", 0), ("", 0), ("-1", 0), ("x", 0)] {
        assert_eq!(probe::parse_granularity(text), granularity);
    }
    let facts = Facts {
        kind: Kind::Regular,
        size: 0,
        block: 4096,
        logical_block: 1,
        discard_granularity: 0,
        read_only: false,
        identity: (0, 0),
        allocated: 0,
    };
    let device = Facts { kind: Kind::Block, logical_block: 4096, ..facts };
    let reported = probe::reported_alignment;
    assert_eq!(reported(512, 4, &facts), Some((512, 4)));
    assert_eq!(reported(1, 1, &facts), Some((512, 1)));
    assert_eq!(reported(512, 512, &device), Some((4096, 512)));
    assert_eq!(reported(4096, 0, &facts), Some((4096, 4096)));
    for offset in [0, 3, 8192, u32::MAX] {
        assert_eq!(reported(offset, 512, &facts), None);
    }
    let version = std::fs::File::open("/proc/version").expect("open");
    use std::os::fd::AsFd;
    assert!(probe::device_size(version.as_fd()).is_err());
}

/// A loop device over `path`, if this machine lets us have one.
fn loop_device(path: &Path, sector: u32) -> Option<(std::path::PathBuf, LoopGuard)> {
    let output = std::process::Command::new("losetup")
        .args(["--find", "--show", "--sector-size", &sector.to_string()])
        .arg(path)
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    if !output.status.success() || name.is_empty() {
        return None;
    }
    Some((name.clone().into(), LoopGuard(name)))
}

struct LoopGuard(String);

impl Drop for LoopGuard {
    fn drop(&mut self) {
        drop(std::process::Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

/// Where loop devices can be had; the numbers behind it are checked everywhere, above.
#[test]
fn a_block_device_has_its_own_size_sectors_and_discard() {
    for sector in [512, 4096] {
        let temp = temp(8 << 20);
        let Some((device, _guard)) = loop_device(temp.path(), sector) else { return };
        let name = sentence(&device, |o| o.driver = Driver::File);
        assert!(name.contains("use the driver 'host_device'"), "{name}");
        for direct in [false, true] {
            let file = open(&device, |o| {
                o.direct = direct;
                o.driver = Driver::HostDevice;
            });
            let file = file.expect("open");
            let info = file.info();
            assert_eq!((file.driver(), info.size), ("host_device", 8 << 20));
            assert_eq!((info.request_alignment, file.is_direct()), (sector, direct));
            on_ring(async move |cx| {
                let node: Arc<dyn Node> = Arc::clone(&file) as _;
                write(&cx, &node, 0, &vec![6; 1 << 20]).await.expect("write");
                bare(&cx, &node, Op::Discard, 0, 64 << 10).await.expect("discard");
                let op = Op::WriteZeroes { unmap: false, fua: false };
                bare(&cx, &node, op, 64 << 10, 64 << 10).await.expect("write-zeroes");
                let bytes = read(&cx, &node, 0, 1 << 20).await.expect("read");
                assert!(bytes[64 << 10..128 << 10].iter().all(|b| *b == 0));
                assert!(bytes[128 << 10..].iter().all(|b| *b == 6));
                let resize = |size| Arc::clone(&node).resize(Cx::clone(&cx), size);
                assert_eq!(resize(16 << 20).await, Err(BlockError::Unsupported));
                assert_eq!(resize(8 << 20).await, Ok(()));
                let beyond = write(&cx, &node, 8 << 20, &vec![1; 4096]).await;
                assert_eq!(beyond, Err(BlockError::NoSpace));
                close(&cx, &node).await;
            });
        }
    }
}

#[test]
fn a_file_without_flushes_needs_nothing_for_one() {
    let temp = temp(8192);
    for no_flush in [false, true] {
        let node = open(temp.path(), |o| o.no_flush = no_flush).expect("open");
        on_ring(async move |cx| {
            let done =
                matches!(node.map(cx.lane(), OpKind::Flush, Range::default()), Map::Done { .. });
            assert_eq!(done, no_flush);
            let node: Arc<dyn Node> = node;
            crate::submit::flush(&cx, &node).await.expect("flush");
            close(&cx, &node).await;
        });
    }
}
