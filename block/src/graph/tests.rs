mod images;

use std::{
    path::Path,
    sync::{
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use super::*;
use crate::{
    BlockError, Io, IoBuf, RootHandle,
    iothread::{Handle, Port, Progress, Queue, QueueSlot},
    nodes::{
        fault::{Action, Blkdebug, FaultRule},
        null::NullOptions,
        testing::{on_ring, read, write},
    },
};

pub(super) fn null(name: &str) -> NodeOptions {
    NodeOptions::new(name, DriverOptions::Null(NullOptions::default()))
}

pub(super) fn host(name: &str, path: &Path) -> NodeOptions {
    let file = HostFile { filename: path.to_owned(), ..HostFile::default() };
    NodeOptions::new(name, DriverOptions::File(file))
}

pub(super) fn raw(name: &str, file: &str) -> NodeOptions {
    NodeOptions::new(name, DriverOptions::Raw { file: file.to_owned(), offset: 0, size: None })
}

fn fault(name: &str, file: &str, rules: Vec<FaultRule>) -> NodeOptions {
    NodeOptions::new(name, DriverOptions::Fault { file: file.to_owned(), rules })
}

fn read_only(mut options: NodeOptions) -> NodeOptions {
    options.read_only = true;
    options
}

fn image(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(len).expect("length");
    file
}

#[test]
fn nodes_are_opened_by_name_and_closed_from_the_top() {
    let (graph, image) = (Graph::new(), image(1 << 20));
    let path = image.path().to_owned();
    on_ring(async move |cx| {
        assert_eq!(graph.open(&cx, host("f", &path)).await.expect("open"), "f");
        graph.open(&cx, raw("r", "f")).await.expect("open");
        graph.open(&cx, fault("x", "r", Vec::new())).await.expect("open");
        let root = graph.attach("disk0", "x", Usage::WRITE).expect("attach");
        assert_eq!(root.info().size, 1 << 20);
        let mut handle = root.handle();
        handle.io(&cx, Io::write(4096, IoBuf::from_slice(&[5; 512]))).await.1.expect("write");

        let text = |r: Result<(), GraphError>| r.expect_err("refused").to_string();
        assert_eq!(
            text(graph.delete(&cx, "r").await),
            "node 'r' is used by node 'x' (file); delete that first"
        );
        assert_eq!(
            text(graph.delete(&cx, "x").await),
            "node 'x' is used by disk 'disk0'; remove that first"
        );
        assert_eq!(text(graph.delete(&cx, "y").await), "there is no node 'y'");
        drop(handle);
        graph.detach("disk0").expect("there");
        for name in ["x", "r", "f"] {
            graph.delete(&cx, name).await.expect("unused");
        }
        assert!(graph.query_nodes().is_empty());
        // Nothing of it is locked any more.
        let again = Graph::new();
        again.open(&cx, host("f", &path)).await.expect("open");
        assert_eq!(
            read(&cx, &again.node("f").expect("f"), 4096, 512).await.expect("read"),
            [5; 512]
        );
        again.close_all(&cx).await.expect("close");
    });
}

#[test]
fn what_cannot_be_opened_is_said_in_one_sentence_and_leaves_nothing() {
    let (graph, image) = (Graph::new(), image(4096));
    let path = image.path().to_owned();
    on_ring(async move |cx| {
        let refused = async |options: NodeOptions| {
            let before = graph.query_nodes().len();
            let error = graph.open(&cx, options).await.expect_err("refused").to_string();
            assert_eq!(graph.query_nodes().len(), before);
            assert!(graph.lock().busy.is_empty());
            error
        };
        graph.open(&cx, host("f", &path)).await.expect("open");
        assert_eq!(
            refused(null("f")).await,
            "there is a node 'f' already; choose another node-name"
        );
        assert!(refused(null("0")).await.starts_with("'0' is no name for a node"));
        assert!(refused(null("#block000")).await.contains("is no name"));
        assert_eq!(refused(raw("r", "none")).await, "there is no node 'none'");
        let shown_path = path.display();
        assert_eq!(
            refused(host("g", &path)).await,
            format!(
                "cannot open '{shown_path}': node 'f' uses it already; use that node, or open \
                 both read-only"
            )
        );
        let missing = refused(host("g", Path::new("/none/such"))).await;
        assert!(missing.starts_with("cannot open '/none/such': it does not exist"), "{missing}");
        let window = DriverOptions::Raw { file: "f".into(), offset: 512, size: Some(4096) };
        let error = refused(NodeOptions::new("w", window)).await;
        assert!(error.starts_with("cannot open node 'w': the window of 4096 bytes"), "{error}");
        let twice = FaultRule { id: Some("a".into()), ..FaultRule::new(Action::Hang) };
        let error = refused(fault("x", "f", vec![twice.clone(), twice])).await;
        assert!(error.starts_with("node 'x': there is a fault rule 'a' already"), "{error}");
        graph.open(&cx, raw("r", "f")).await.expect("open");
        assert_eq!(
            refused(raw("r2", "f")).await,
            "node 'f' cannot be used by node 'r2': node 'r' (file) writes to it"
        );
        graph.open(&cx, read_only(null("ro"))).await.expect("open");
        let error = refused(raw("r3", "ro")).await;
        assert!(error.contains("add read-only=on to 'r3'"), "{error}");
        let mut auto = raw("r4", "ro");
        auto.auto_read_only = true;
        graph.open(&cx, auto).await.expect("open");
        assert!(graph.query_node("r4").expect("there").info.read_only);
        graph.close_all(&cx).await.expect("close");
    });
}

#[test]
fn readers_share_and_writers_do_not() {
    let graph = Graph::new();
    on_ring(async move |cx| {
        graph.open(&cx, null("n")).await.expect("open");
        graph.attach("a", "n", Usage::READ).expect("alone");
        graph.attach("b", "n", Usage::READ).expect("readers share");
        assert!(graph.root("a").expect("there").info().read_only);
        let error = graph.attach("c", "n", Usage::WRITE).map(|_| ()).expect_err("read by others");
        assert!(error.to_string().contains("disk 'a' needs it unchanged"), "{error}");
        graph.detach("a").expect("there");
        graph.detach("b").expect("there");
        graph.attach("c", "n", Usage::WRITE).expect("alone");
        let error = graph.attach("c", "n", Usage::READ).map(|_| ()).expect_err("taken");
        assert_eq!(error.to_string(), "there is a disk 'c' already");
        assert!(graph.attach("d", "n", Usage::READ).is_err());
        graph.detach("c").expect("there");
        let both = Usage { write: true, share_write: true };
        graph.attach("e", "n", both).expect("alone");
        graph.attach("f", "n", both).expect("both said share-rw");
        graph.open(&cx, read_only(null("ro"))).await.expect("open");
        assert!(graph.attach("g", "ro", Usage::WRITE).is_err());
        // A filter that was asked to be read-only is, whatever is below.
        graph.open(&cx, null("rw")).await.expect("open");
        graph.open(&cx, read_only(fault("x", "rw", Vec::new()))).await.expect("open");
        let error = graph.attach("g", "x", Usage::WRITE).map(|_| ()).expect_err("read-only");
        assert!(error.to_string().starts_with("node 'x' is read-only"), "{error}");
        assert!(graph.open(&cx, raw("above", "x")).await.is_err());
        assert!(graph.attach("g", "x", Usage::READ).expect("a reader").info().read_only);
    });
}

#[test]
fn unnamed_nodes_get_names_that_nobody_can_take() {
    let graph = Graph::new();
    on_ring(async move |cx| {
        for expected in ["#block000", "#block001"] {
            let options = NodeOptions { node_name: None, ..null("x") };
            assert_eq!(graph.open(&cx, options).await.expect("open"), expected);
        }
        graph.delete(&cx, "#block000").await.expect("unused");
    });
}

#[test]
fn the_policy_of_a_root_is_that_of_its_node() {
    let graph = Graph::new();
    on_ring(async move |cx| {
        let mut options = null("n");
        options.cache.no_flush = true;
        options.discard = Discard::Ignore;
        options.detect_zeroes = crate::root::DetectZeroes::Unmap;
        graph.open(&cx, options).await.expect("open");
        let policy = graph.attach("d", "n", Usage::WRITE).expect("attach").policy();
        assert!(policy.ignore_flush && policy.ignore_discard && !policy.read_only);
        assert_eq!(policy.detect_zeroes, crate::root::DetectZeroes::Unmap);
    });
}

#[test]
fn blkdebug_takes_rules_from_options_and_from_a_file() {
    let (graph, image) = (Graph::new(), image(1 << 20));
    let path = image.path().to_owned();
    let rules = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = "[inject-error]\nevent = \"none\"\niotype = \"flush\"\nerrno = \"28\"\n";
    std::fs::write(rules.path(), text).expect("written");
    on_ring(async move |cx| {
        graph.open(&cx, host("f", &path)).await.expect("open");
        let options = |name: &str, config: &Path| {
            let driver = DriverOptions::Blkdebug {
                image: "f".to_owned(),
                config: Some(config.to_owned()),
                rules: Blkdebug::default(),
            };
            NodeOptions::new(name, driver)
        };
        let error = graph.open(&cx, options("x", Path::new("/none"))).await.expect_err("no file");
        assert_eq!(error.to_string(), "node 'x': config '/none'");
        let error = graph.open(&cx, options("x", &path)).await.expect_err("no text");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.starts_with("it is no text") || cause.starts_with("line 1"), "{cause}");
        graph.open(&cx, options("x", rules.path())).await.expect("open");
        let root = graph.attach("disk0", "x", Usage::WRITE).expect("attach");
        let (_, result) = root.handle().io(&cx, Io::flush()).await;
        assert_eq!(result, Err(BlockError::NoSpace));
        let status = graph.query_node("x").expect("there");
        assert_eq!((status.driver, status.file.as_deref()), ("blkdebug", Some(&*path)));
        assert_eq!(status.children, [("image", "f".to_owned())]);
        let rule = FaultRule { count: Some(1), ..FaultRule::new(Action::Error(BlockError::Gone)) };
        graph.fault("x").expect("rules of both kinds").add(rule).expect("added");
        drop(root);
        graph.close_all(&cx).await.expect("close");
    });
}

#[test]
fn queries_tell_files_children_and_counters() {
    let (graph, image) = (Graph::new(), image(1 << 20));
    let path = image.path().to_owned();
    on_ring(async move |cx| {
        graph.open(&cx, host("f", &path)).await.expect("open");
        graph.open(&cx, raw("r", "f")).await.expect("open");
        graph.open(&cx, fault("x", "r", Vec::new())).await.expect("open");
        let root = graph.attach("disk0", "x", Usage::WRITE).expect("attach");
        let status = graph.query_node("x").expect("there");
        assert_eq!((status.driver, status.info.size), ("fault", 1 << 20));
        assert_eq!(status.file.as_deref(), Some(&*path));
        assert_eq!(status.children, [("file", "r".to_owned())]);
        assert_eq!((status.allocated, status.backing_depth, status.direct), (Some(0), 0, false));
        let roots = graph.query_roots();
        assert_eq!((&*roots[0].name, &*roots[0].node.node_name), ("disk0", "x"));
        assert_eq!(graph.node_of_root("disk0").expect("there"), "x");
        graph.fault("x").expect("fault").add(FaultRule::new(Action::Hang)).expect("added");
        assert_eq!(graph.query_faults(None).expect("all")[0].0, "x");
        let error = graph.fault("r").map(|_| ()).expect_err("another driver");
        assert_eq!(error.to_string(), "node 'r' is a 'raw' node, not 'fault'");
        drop(root);
        graph.close_all(&cx).await.expect("close");
    });
}

/// Keeps four requests in flight for as long as it is served.
struct Load {
    root: RootHandle,
    free: u32,
    /// Writes somewhere below this, in bytes; 0: reads.
    write_below: u64,
    /// Which write comes next.
    next: u64,
    in_flight: Arc<AtomicU32>,
    completed: Arc<AtomicU32>,
    drained: Arc<AtomicU32>,
}

impl Queue for Load {
    fn service(&mut self, port: &mut Port<'_>, _budget: u32) -> Progress {
        while self.free > 0 {
            self.free -= 1;
            self.in_flight.fetch_add(1, SeqCst);
            let io = if self.write_below > 0 {
                // A walk over all of it: consecutive multiples of an odd number of blocks.
                self.next = (self.next + 4096 * 331) % self.write_below;
                Io::write(self.next, IoBuf::from_slice(&[self.next as u8 | 1; 4096]))
            } else {
                Io::read(0, IoBuf::zeroed(512))
            };
            port.submit(&mut self.root, io, 0);
        }
        Progress::Idle
    }

    fn complete(
        &mut self,
        _port: &mut Port<'_>,
        _token: u32,
        _buf: IoBuf,
        result: Result<(), BlockError>,
    ) {
        assert!(matches!(result, Ok(()) | Err(BlockError::Aborted)), "{result:?}");
        self.free += 1;
        self.in_flight.fetch_sub(1, SeqCst);
        self.completed.fetch_add(1, SeqCst);
    }

    fn flush_irq(&mut self) {}

    fn pending(&mut self) -> bool {
        self.free > 0
    }

    fn notify(&mut self, _on: bool) {}

    fn doorbell(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    fn drained(&mut self) {
        self.drained.fetch_add(1, SeqCst);
    }
}

/// Iothreads with a load each on one root.
struct Loads {
    threads: Vec<(Handle, std::thread::JoinHandle<()>, QueueSlot)>,
    in_flight: Arc<AtomicU32>,
    completed: Arc<AtomicU32>,
    drained: Arc<AtomicU32>,
}

impl Loads {
    fn start(graph: &Arc<Graph>, root: &str, threads: u32) -> Self {
        Self::start_writers(graph, root, threads, 0)
    }

    fn start_writers(graph: &Arc<Graph>, root: &str, threads: u32, write_below: u64) -> Self {
        let mut loads = Self {
            threads: Vec::new(),
            in_flight: Arc::default(),
            completed: Arc::default(),
            drained: Arc::default(),
        };
        for n in 0..threads {
            let config = crate::iothread::thread::Config {
                name: format!("io{n}"),
                aio: crate::ring::Aio::IoUring,
                poll_max: Duration::ZERO,
            };
            let spawned = crate::iothread::thread::spawn(&config, |_| Ok(()), |_| {});
            let spawned = spawned.expect("an iothread");
            let (handle, thread) = (spawned.handle, spawned.thread);
            let load = Load {
                root: graph.root(root).expect("there").handle(),
                free: 4,
                write_below,
                next: u64::from(n) << 20,
                in_flight: Arc::clone(&loads.in_flight),
                completed: Arc::clone(&loads.completed),
                drained: Arc::clone(&loads.drained),
            };
            let slot = handle.call(move |cx| cx.attach(Box::new(load))).expect("alive");
            graph.add_queue(root, handle.clone(), slot).expect("there");
            loads.threads.push((handle, thread, slot));
        }
        loads
    }

    fn wait_for_progress(&self) {
        let before = self.completed.load(SeqCst);
        for _ in 0..2000 {
            if self.completed.load(SeqCst) > before + 8 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no request completes");
    }

    fn assert_still(&self) {
        assert_eq!(self.in_flight.load(SeqCst), 0);
        let before = self.completed.load(SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!((self.completed.load(SeqCst), self.in_flight.load(SeqCst)), (before, 0));
    }

    fn stop(self) {
        for (handle, thread, slot) in self.threads {
            let (tx, rx) = mpsc::channel();
            handle.post(move |cx| {
                cx.pause(slot, move |cx| {
                    cx.detach(slot);
                    cx.stop();
                    tx.send(()).expect("receiver");
                });
            });
            rx.recv().expect("detached");
            thread.join().expect("iothread");
        }
    }
}

fn open_null(graph: &Arc<Graph>) {
    let graph = Arc::clone(graph);
    on_ring(async move |cx| {
        let latency = NullOptions { latency_ns: 200_000, ..NullOptions::default() };
        graph.open(&cx, NodeOptions::new("n", DriverOptions::Null(latency))).await.expect("open");
        graph.open(&cx, fault("x", "n", Vec::new())).await.expect("open");
        graph.attach("disk0", "x", Usage::WRITE).expect("attach");
    });
}

fn drain(graph: &Arc<Graph>) -> Drain {
    let (tx, rx) = mpsc::channel();
    graph
        .drain(&["disk0".to_owned()], move |drain| drop(tx.send(drain)))
        .expect("the disk is there");
    rx.recv_timeout(Duration::from_secs(10)).expect("a drain ends")
}

#[test]
fn a_drain_closes_every_queue_on_every_iothread_and_nests() {
    let graph = Graph::new();
    open_null(&graph);
    let loads = Loads::start(&graph, "disk0", 3);
    loads.wait_for_progress();
    let first = drain(&graph);
    loads.assert_still();
    assert_eq!(loads.drained.load(SeqCst), 3);
    let second = drain(&graph);
    drop(first);
    loads.assert_still();
    assert_eq!(graph.query_roots()[0].drains, 1);
    drop(second);
    loads.wait_for_progress();
    loads.stop();
}

#[test]
fn a_drain_aborts_what_hangs() {
    let graph = Graph::new();
    open_null(&graph);
    let loads = Loads::start(&graph, "disk0", 2);
    loads.wait_for_progress();
    graph.fault("x").expect("fault").add(FaultRule::new(Action::Hang)).expect("added");
    while graph.query_faults(None).expect("all")[0].1.waiting < 8 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let drained = drain(&graph);
    loads.assert_still();
    graph.fault("x").expect("fault").delete("fault0").expect("there");
    drop(drained);
    loads.wait_for_progress();
    loads.stop();
}

/// Keeps what is logged.
struct Log;

static LOGGED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().expect("a log").push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn a_drain_that_takes_long_says_what_it_waits_for() {
    drop(log::set_logger(&Log));
    log::set_max_level(log::LevelFilter::Warn);
    let graph = Graph::new();
    let opened = Arc::clone(&graph);
    on_ring(async move |cx| {
        let slow = NullOptions { latency_ns: 1_300_000_000, ..NullOptions::default() };
        opened.open(&cx, NodeOptions::new("n", DriverOptions::Null(slow))).await.expect("open");
        opened.attach("slow-disk", "n", Usage::WRITE).expect("attach");
    });
    let loads = Loads::start(&graph, "slow-disk", 1);
    while loads.in_flight.load(SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (tx, rx) = mpsc::channel();
    let roots = ["slow-disk".to_owned()];
    graph.drain(&roots, move |drain| drop(tx.send(drain))).expect("there");
    let drained = rx.recv_timeout(Duration::from_secs(10)).expect("a drain ends");
    loads.assert_still();
    let logged = LOGGED.lock().expect("a log").join("\n");
    assert!(
        logged.contains("draining 'slow-disk' waits for 4 requests on iothread 'io0'"),
        "{logged}"
    );
    drop(drained);
    loads.stop();
}

#[test]
fn a_queue_that_comes_during_a_drain_waits_for_its_end() {
    let graph = Graph::new();
    open_null(&graph);
    let drained = drain(&graph);
    // It may have started in the moment between being attached and being told of: it is paused now.
    let loads = Loads::start(&graph, "disk0", 1);
    while loads.drained.load(SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    loads.assert_still();
    drop(drained);
    loads.wait_for_progress();
    loads.stop();
}

#[test]
fn a_drain_of_an_iothread_that_is_gone_ends() {
    let graph = Graph::new();
    open_null(&graph);
    Loads::start(&graph, "disk0", 2).stop();
    drop(drain(&graph));
    let error = graph.drain(&["none".to_owned()], |_| {}).expect_err("no such disk");
    assert_eq!(error.to_string(), "there is no disk 'none'");
}

#[test]
fn a_live_resize_drains_resizes_and_tells_the_root() {
    let graph = Graph::new();
    open_null(&graph);
    let loads = Loads::start(&graph, "disk0", 2);
    let mut handle = graph.root("disk0").expect("there").handle();
    assert_eq!(handle.info().size, 1 << 30);
    let inner = Arc::clone(&graph);
    on_ring(async move |cx| {
        let error = inner.resize(&cx, "n", 1 << 20).await.expect_err("part of another");
        assert_eq!(error.to_string(), "node 'n' is used by node 'x' (file); delete that first");
        inner.resize(&cx, "x", 2 << 30).await.expect("resize");
        assert!(inner.resize(&cx, "none", 0).await.is_err());
    });
    assert_eq!(handle.info().size, 2 << 30);
    loads.wait_for_progress();
    loads.stop();
}

#[test]
fn a_resize_that_fails_is_told_and_changes_nothing() {
    let (graph, image) = (Graph::new(), image(4096));
    let path = image.path().to_owned();
    on_ring(async move |cx| {
        graph.open(&cx, host("f", &path)).await.expect("open");
        graph.attach("d", "f", Usage::WRITE).expect("attach");
        let error = graph.resize(&cx, "f", u64::MAX).await.expect_err("too large");
        let text = error.to_string();
        assert!(text.starts_with("cannot resize node 'f' to 18446744073709551615"), "{text}");
        assert_eq!(graph.node("f").expect("f").info().size, 4096);
        write(&cx, &graph.node("f").expect("f"), 0, &[1; 512]).await.expect("still there");
        assert_eq!(graph.query_roots()[0].drains, 0);
        graph.close_all(&cx).await.expect("close");
    });
}
