//! qcow2 images and chains through the graph, with QEMU's tools as witnesses.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{super::*, Loads, fault, host, raw, read_only};
use crate::{
    BlockError, Io, IoBuf, Op, Range,
    nodes::{
        fault::{Action, FaultOp, FaultRule},
        testing::on_ring,
    },
};

fn qemu(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().unwrap_or_else(|e| panic!("{tool} (qemu-utils): {e}"))
}

fn qemu_ok(tool: &str, args: &[&str]) {
    let output = qemu(tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn qcow2(name: &str, file: &str) -> NodeOptions {
    let qcow2 = Qcow2Options {
        file: file.to_owned(),
        backing: Backing::FromHeader,
        data_file: None,
        lazy_refcounts: None,
        l2_cache_size: None,
        secret: None,
        encrypt_format: None,
    };
    NodeOptions::new(name, DriverOptions::Qcow2(qcow2))
}

/// base.raw (sevens) ← middle.qcow2 ← top.qcow2, 4 MiB each, made by QEMU.
fn chain(dir: &Path) -> [PathBuf; 3] {
    let files = ["base.raw", "middle.qcow2", "top.qcow2"].map(|name| dir.join(name));
    let [base, middle, top] = files.each_ref().map(|path| text(path));
    std::fs::write(base, vec![7; 4 << 20]).expect("write");
    let create = ["create", "-q", "-f", "qcow2"];
    qemu_ok("qemu-img", &[&create[..], &["-F", "raw", "-b", "base.raw", middle]].concat());
    qemu_ok("qemu-io", &["-c", "write -P 8 1M 1M", middle]);
    qemu_ok("qemu-img", &[&create[..], &["-F", "qcow2", "-b", "middle.qcow2", top]].concat());
    files
}

async fn open_chain(graph: &Arc<Graph>, cx: &Cx, top: &Path) -> Arc<Root> {
    graph.open(cx, host("file", top)).await.expect("open");
    graph.open(cx, qcow2("disk", "file")).await.expect("open");
    graph.attach("disk0", "disk", Usage::WRITE).expect("attach")
}

#[test]
fn a_chain_that_qemu_made_reads_writes_and_is_sound_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let [base, middle, top] = chain(dir.path());
    let before = [&base, &middle].map(|path| std::fs::read(path).expect("read"));
    let graph = Graph::new();
    let image = top.clone();
    on_ring(async move |cx| {
        let mut disk = open_chain(&graph, &cx, &image).await.handle();
        assert_eq!(disk.info().size, 4 << 20);
        let (buf, result) = disk.io(&cx, Io::read((1 << 20) - 4, IoBuf::zeroed(8))).await;
        result.expect("read");
        assert_eq!(buf.to_vec(), [7, 7, 7, 7, 8, 8, 8, 8]);
        let data = IoBuf::from_slice(&[9; 1000]);
        disk.io(&cx, Io::write((2 << 20) - 500, data)).await.1.expect("write");
        disk.io(&cx, Io::flush()).await.1.expect("flush");
        let status = graph.query_node("disk").expect("there");
        assert_eq!((status.driver, status.backing_depth), ("qcow2", 2));

        // All of it is locked: the top against everybody, the rest against writers.
        let check = |args: &[&str]| qemu("qemu-io", args).status.success();
        assert!(!check(&["-r", "-c", "read 0 512", text(&image)]));
        assert!(!check(&["-c", "write 0 512", text(&middle)]));
        assert!(check(&["-r", "-c", "read 0 512", text(&middle)]));
        graph.close_all(&cx).await.expect("close");
    });
    qemu_ok("qemu-img", &["check", "-q", text(&top)]);
    let commands = [
        "read -P 7 0 1M",
        "read -P 8 1M 1048076",
        "read -P 9 2096652 1000",
        "read -P 7 2097652 2096652",
    ];
    for command in commands {
        let output = qemu("qemu-io", &["-r", "-c", command, text(&top)]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !said.contains("failed"), "{command}: {said}");
    }
    let after = [dir.path().join("base.raw"), dir.path().join("middle.qcow2")];
    assert!(after.map(|path| std::fs::read(path).expect("read")) == before, "backing files");
}

#[test]
fn data_files_are_opened_as_the_image_names_them_or_as_a_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().to_owned();
    let at = move |name: &str| root.join(name);
    let [data, base, top] = [at("data.raw"), at("base.qcow2"), at("top.qcow2")];
    let option = format!("data_file={}", text(&data));
    let create = ["create", "-q", "-f", "qcow2"];
    qemu_ok("qemu-img", &[&create[..], &["-o", &option, text(&base), "4M"]].concat());
    qemu_ok("qemu-io", &["-c", "write -P 8 1M 1M", text(&base)]);
    let overlay = ["-F", "qcow2", "-b", "base.qcow2", text(&top)];
    qemu_ok("qemu-img", &[&create[..], &overlay].concat());
    let graph = Graph::new();
    on_ring(async move |cx| {
        // Of a backing file, it is read only and shared with other readers.
        let mut disk = open_chain(&graph, &cx, &top).await.handle();
        let (buf, result) = disk.io(&cx, Io::read(1 << 20, IoBuf::zeroed(512))).await;
        result.expect("read");
        assert_eq!(buf.to_vec(), [8; 512]);
        let io = |args: &[&str]| qemu("qemu-io", args).status.success();
        assert!(io(&["-r", "-f", "raw", "-c", "read 0 512", text(&data)]));
        assert!(!io(&["-f", "raw", "-c", "write 0 512", text(&data)]), "it is locked");
        drop(disk);
        graph.close_all(&cx).await.expect("close");
        assert!(io(&["-f", "raw", "-c", "read 0 512", text(&data)]), "it is no longer locked");

        // Written to, it is locked as the image is.
        let mut disk = open_chain(&graph, &cx, &base).await.handle();
        let buf = IoBuf::from_slice(&[9; 512]);
        disk.io(&cx, Io::write(1 << 20, buf)).await.1.expect("write");
        assert!(!io(&["-f", "raw", "-c", "write 0 512", text(&data)]), "it is locked");
        drop(disk);
        graph.close_all(&cx).await.expect("close");

        // By name, wherever the image says it is.
        let moved = at("moved");
        std::fs::rename(&data, &moved).expect("move");
        graph.open(&cx, host("file", &base)).await.expect("open");
        let missing = graph.open(&cx, qcow2("disk", "file")).await.expect_err("it is not there");
        assert!(missing.to_string().contains("data.raw"), "{missing}");
        graph.open(&cx, host("beside", &moved)).await.expect("open");
        let mut options = qcow2("disk", "file");
        if let DriverOptions::Qcow2(qcow2) = &mut options.driver {
            qcow2.data_file = Some("beside".to_owned());
        }
        graph.open(&cx, options).await.expect("open");
        let mut disk = graph.attach("disk0", "disk", Usage::WRITE).expect("attach").handle();
        let (buf, result) = disk.io(&cx, Io::read(1 << 20, IoBuf::zeroed(1024))).await;
        result.expect("read");
        assert!(buf.to_vec() == [[9; 512], [8; 512]].concat());
        drop(disk);
        graph.close_all(&cx).await.expect("close");
    });
}

#[test]
fn loads_on_many_iothreads_drain_and_leave_a_sound_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let [_, _, top] = chain(dir.path());
    let graph = Graph::new();
    let (inner, image) = (Arc::clone(&graph), top.clone());
    on_ring(async move |cx| {
        open_chain(&inner, &cx, &image).await;
    });
    let loads = Loads::start_writers(&graph, "disk0", 3, 4 << 20);
    for size in [8u64 << 20, 12 << 20, 16 << 20] {
        loads.wait_for_progress();
        let inner = Arc::clone(&graph);
        on_ring(async move |cx| inner.resize(&cx, "disk", size).await.expect("resize"));
        assert_eq!(graph.root("disk0").expect("there").info().size, size);
    }
    loads.wait_for_progress();
    let drained = super::drain(&graph);
    loads.assert_still();
    drop(drained);
    loads.stop();
    on_ring(async move |cx| graph.close_all(&cx).await.expect("close"));
    qemu_ok("qemu-img", &["check", "-q", text(&top)]);
    let info = qemu("qemu-img", &["info", "--output=json", text(&top)]);
    assert!(String::from_utf8_lossy(&info.stdout).contains("\"virtual-size\": 16777216"));
}

#[test]
fn a_full_disk_under_a_growing_image_is_no_space_and_nothing_worse() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image.qcow2");
    qemu_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "64M"]);
    let (graph, path) = (Graph::new(), image.clone());
    on_ring(async move |cx| {
        graph.open(&cx, host("file", &path)).await.expect("open");
        graph.open(&cx, fault("full", "file", Vec::new())).await.expect("open");
        graph.open(&cx, qcow2("disk", "full")).await.expect("open");
        let mut disk = graph.attach("disk0", "disk", Usage::WRITE).expect("attach").handle();
        let write = |at, byte| Io::write(at, IoBuf::from_slice(&[byte; 65536]));
        disk.io(&cx, write(0, 1)).await.1.expect("write");
        disk.io(&cx, Io::flush()).await.1.expect("flush");
        // Header, L1, two for refcounts, one L2 table and one cluster of data: what lies beyond
        // finds no room.
        let end = 6 << 16;
        let full = FaultRule {
            op: FaultOp::Write,
            offset: end,
            ..FaultRule::new(Action::Error(BlockError::NoSpace))
        };
        let fault = graph.fault("full").expect("there");
        let rule = fault.add(full).expect("added");
        let (buf, result) = disk.io(&cx, write(32 << 20, 2)).await;
        assert_eq!((result, buf.len()), (Err(BlockError::NoSpace), 65536));
        disk.io(&cx, write(0, 3)).await.1.expect("what is there can be written to");
        assert_eq!(disk.io(&cx, Io::read(32 << 20, IoBuf::zeroed(512))).await.0.to_vec(), [0; 512]);
        // There is room again, and the same request succeeds.
        fault.delete(&rule).expect("there");
        disk.io(&cx, write(32 << 20, 2)).await.1.expect("write");
        graph.close_all(&cx).await.expect("close");
    });
    qemu_ok("qemu-img", &["check", "-q", text(&image)]);
    qemu_ok("qemu-io", &["-r", "-c", "read -P 3 0 64k", "-c", "read -P 2 32M 64k", text(&image)]);
}

#[test]
fn images_that_are_none_are_refused_by_a_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let [_, _, top] = chain(dir.path());
    let bytes = std::fs::read(&top).expect("read");
    std::fs::write(at("foreign.qcow2"), vec![1; 65536]).expect("write");
    std::fs::write(at("empty.qcow2"), []).expect("write");
    std::fs::write(at("short.qcow2"), &bytes[..600]).expect("write");
    let mut unknown = bytes.clone();
    unknown[72] = 0x80;
    std::fs::write(at("unknown.qcow2"), &unknown).expect("write");
    for (name, wanted) in [
        ("foreign.qcow2", "not a qcow2 image"),
        ("empty.qcow2", "not a qcow2 image"),
        ("short.qcow2", "damaged"),
        ("unknown.qcow2", "not supported"),
        ("top.qcow2", "base.raw': it does not exist"),
    ] {
        if name == "top.qcow2" {
            std::fs::remove_file(at("base.raw")).expect("remove");
        }
        let (graph, path) = (Graph::new(), at(name));
        let error = on_ring(async move |cx| {
            graph.open(&cx, host("file", &path)).await.expect("open");
            let error = graph.open(&cx, qcow2("disk", "file")).await.expect_err("refused");
            assert_eq!(graph.query_nodes().len(), 1);
            graph.close_all(&cx).await.expect("close");
            error.to_string()
        });
        let path = at(if name == "top.qcow2" { "middle.qcow2" } else { name });
        assert!(error.contains(wanted) && error.contains(text(&path)), "{name}: {error}");
    }
    assert!(std::fs::read(&top).expect("read") == bytes, "a refused image is as it was");
}

#[test]
fn a_read_only_image_is_not_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let [_, _, top] = chain(dir.path());
    let before = std::fs::read(&top).expect("read");
    let (graph, path) = (Graph::new(), top.clone());
    on_ring(async move |cx| {
        graph.open(&cx, read_only(host("file", &path))).await.expect("open");
        graph.open(&cx, read_only(qcow2("disk", "file"))).await.expect("open");
        let mut disk = graph.attach("disk0", "disk", Usage::READ).expect("attach").handle();
        let (_, result) = disk.io(&cx, Io::write(0, IoBuf::zeroed(512))).await;
        assert_eq!(result, Err(BlockError::ReadOnly));
        let discard = Io::bare(Op::Discard, Range::new(0, 65536));
        assert_eq!(disk.io(&cx, discard).await.1, Err(BlockError::ReadOnly));
        disk.io(&cx, Io::flush()).await.1.expect("nothing to do");
        disk.io(&cx, Io::read(0, IoBuf::zeroed(512))).await.1.expect("read");
        graph.close_all(&cx).await.expect("close");
    });
    assert!(std::fs::read(&top).expect("read") == before);
}

#[test]
fn what_is_below_a_node_that_closes_is_still_in_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image.qcow2");
    qemu_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    on_ring(async move |cx| {
        let graph = Graph::new();
        graph.open(&cx, host("file", &image)).await.expect("open");
        graph.open(&cx, qcow2("disk", "file")).await.expect("open");
        let mut closing = std::pin::pin!(graph.delete(&cx, "disk"));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(closing.as_mut().poll(&mut task).is_pending(), "closing takes a sync at least");
        assert!(graph.node("disk").is_err());
        let error = graph.delete(&cx, "file").await.expect_err("in use").to_string();
        assert!(error.contains("used by node 'disk' (file)"), "{error}");
        let error = graph.open(&cx, qcow2("disk", "file")).await.expect_err("taken");
        assert!(error.to_string().contains("there is a node 'disk' already"), "{error}");
        closing.await.expect("closed");
        graph.delete(&cx, "file").await.expect("unused");
    });
}

#[test]
fn a_window_on_a_file_can_hold_an_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image.qcow2");
    qemu_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    let mut bytes = vec![0xaa; 4096];
    bytes.extend(std::fs::read(&image).expect("read"));
    bytes.resize(4096 + (2 << 20), 0);
    let whole = dir.path().join("whole.raw");
    std::fs::write(&whole, &bytes).expect("write");
    let path = whole.clone();
    on_ring(async move |cx| {
        let graph = Graph::new();
        graph.open(&cx, host("file", &path)).await.expect("open");
        let mut window = raw("window", "file");
        window.driver = DriverOptions::Raw { file: "file".into(), offset: 4096, size: None };
        graph.open(&cx, window).await.expect("open");
        graph.open(&cx, qcow2("disk", "window")).await.expect("open");
        let mut disk = graph.attach("disk0", "disk", Usage::WRITE).expect("attach").handle();
        let io = Io::write(0, IoBuf::from_slice(&[5; 65536]));
        disk.io(&cx, io).await.1.expect("write");
        graph.close_all(&cx).await.expect("close");
    });
    let bytes = std::fs::read(&whole).expect("read");
    assert!(bytes[..4096].iter().all(|b| *b == 0xaa));
    std::fs::write(&image, &bytes[4096..]).expect("write");
    qemu_ok("qemu-img", &["check", "-q", text(&image)]);
    qemu_ok("qemu-io", &["-r", "-c", "read -P 5 0 64k", text(&image)]);
}
