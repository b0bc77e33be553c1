//! With a format of three lines of text: magic, backing file, its format.

use super::*;
use crate::{
    graph::{
        Graph,
        tests::{host, null},
    },
    nodes::testing::on_ring,
    submit,
};

struct Text;

const MAGIC: &str = "overlay";

impl Overlay for Text {
    fn named(
        &self,
        cx: &Cx,
        file: &Arc<dyn Node>,
    ) -> LocalBoxFuture<'static, Result<Named, String>> {
        let (cx, file) = (Cx::clone(cx), Arc::clone(file));
        Box::pin(async move {
            let head = submit::read(&cx, &file, 0, 512).await.map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&head.to_vec()).replace('\0', "");
            let mut lines = text.lines();
            if lines.next() != Some(MAGIC) {
                return Err("not an overlay".to_owned());
            }
            let mut next = || lines.next().filter(|s| !s.is_empty()).map(str::to_owned);
            Ok(Named { file: next(), format: next(), data: None })
        })
    }

    fn open(
        &self,
        _cx: &Cx,
        file: Arc<dyn Node>,
        _data: Option<Arc<dyn Node>>,
        backing: Option<Arc<dyn Node>>,
        read_only: bool,
        options: Option<&Qcow2Options>,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Node>, String>> {
        // Only the top has options of its own, and only it may write.
        assert!(options.is_some() || read_only);
        assert!(backing.is_none_or(|backing| backing.info().read_only));
        let node = RawNode::new(file, 0, None, read_only).map_err(|e| e.to_string());
        Box::pin(async move { node.map(|node| node as Arc<dyn Node>) })
    }
}

fn text_graph() -> Arc<Graph> {
    Arc::new(Graph { inner: Default::default(), overlay: Box::new(Text) })
}

fn overlay(path: &Path, backing: &str, format: &str) {
    let mut bytes = format!("{MAGIC}\n{backing}\n{format}\n").into_bytes();
    bytes.resize(4096, 0);
    std::fs::write(path, bytes).expect("write");
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

/// Opens `top` of `dir` with its chain; what it said if it could not.
fn open(graph: &Arc<Graph>, top: &Path) -> Result<(), String> {
    let (graph, top) = (Arc::clone(graph), top.to_owned());
    on_ring(async move |cx| {
        graph.open(&cx, host("file", &top)).await.expect("the file is there");
        let result = graph.open(&cx, qcow2("disk", "file")).await;
        if result.is_err() {
            assert_eq!(graph.query_nodes().len(), 1, "nothing half-made");
            assert!(graph.lock().busy.is_empty());
        }
        result.map(|_| ()).map_err(|e| e.to_string())
    })
}

#[test]
fn a_chain_is_opened_relative_to_each_image_and_closed_with_its_top() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("sub")).expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("base.img"), [7; 4096]).expect("write");
    overlay(&at("sub/middle.ovl"), "../base.img", "raw");
    overlay(&at("top.ovl"), "sub/middle.ovl", "qcow2");
    let graph = text_graph();
    open(&graph, &at("top.ovl")).expect("open");
    let status = graph.query_node("disk").expect("there");
    assert_eq!(status.backing_depth, 2);
    let (backing, path) = status.backing.expect("has one");
    assert_eq!(path.expect("a file"), at("sub/middle.ovl"));
    let middle = graph.query_node(&backing).expect("there");
    assert_eq!((middle.owner.as_deref(), middle.options.read_only), (Some("disk"), true));
    let (base, path) = middle.backing.expect("has one");
    assert_eq!(path.expect("a file"), at("sub/../base.img"));
    assert_eq!(graph.query_node(&base).expect("there").driver, "raw");
    assert_eq!(graph.query_nodes().len(), 6);

    // Members are not the user's to delete, and are gone with the top.
    let writable = crate::nodes::file::FileOptions::new(at("base.img"));
    on_ring(async move |cx| {
        let error = graph.delete(&cx, &base).await.expect_err("part of a chain").to_string();
        assert!(error.contains("node 'disk', which it is part of"), "{error}");
        assert!(FileNode::open(&writable).is_err(), "a backing file has no writers");
        graph.delete(&cx, "disk").await.expect("unused");
        assert_eq!(graph.query_nodes().len(), 1);
        drop(FileNode::open(&writable).expect("nobody holds it"));
        graph.close_all(&cx).await.expect("close");
    });
}

#[test]
fn two_overlays_share_a_base() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("base.img"), [7; 4096]).expect("write");
    for name in ["a.ovl", "b.ovl"] {
        overlay(&at(name), "base.img", "raw");
    }
    let (a, b) = (text_graph(), text_graph());
    open(&a, &at("a.ovl")).expect("open");
    open(&b, &at("b.ovl")).expect("open");
}

#[test]
fn hostile_names_are_refused_by_a_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("base.img"), [7; 4096]).expect("write");
    let top = at("top.ovl");
    let refused = |backing: &str, format: &str| {
        overlay(&top, backing, format);
        open(&text_graph(), &top).expect_err("refused")
    };
    let shown = top.display();
    assert_eq!(
        refused("base.img", ""),
        format!(
            "'{shown}' names the backing file 'base.img', but not its format, and guessing is not \
             safe; say it with 'qemu-img rebase -u -b BACKING -F FORMAT IMAGE'"
        )
    );
    assert!(refused("base.img", "vhs").contains("format 'vhs' is not supported"));
    for name in ["json:{\"driver\":\"file\"}", "nbd://host/x", "file:base.img", "fat:rw:/", "a:b"] {
        assert!(refused(name, "raw").contains("not a plain file name"), "{name}");
    }
    assert!(refused("top.ovl", "qcow2").contains("the chain never ends"));
    assert!(refused("./../../../../../etc", "raw").contains("a directory, not an image file"));
    let missing = refused("none.img", "raw");
    assert!(
        missing.starts_with(&format!("the backing file of '{shown}' is missing or unusable"))
            && missing.contains("none.img': it does not exist"),
        "{missing}"
    );
    assert!(refused("base.img", "qcow2").ends_with("as a qcow2 image: not an overlay"));
    assert!(refused("\x1b[31m", "raw").contains("\\u{1b}[31m"));
}

#[test]
fn cycles_and_endless_chains_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    overlay(&at("a.ovl"), "b.ovl", "qcow2");
    overlay(&at("b.ovl"), "c.ovl", "qcow2");
    overlay(&at("c.ovl"), "link.ovl", "qcow2");
    std::os::unix::fs::symlink(at("b.ovl"), at("link.ovl")).expect("link");
    let error = open(&text_graph(), &at("a.ovl")).expect_err("a cycle");
    assert!(error.contains("c.ovl' names the backing file 'link.ovl'"), "{error}");
    assert!(error.contains("the chain never ends"), "{error}");

    for n in 0..=DEPTH_MAX {
        overlay(&at(&format!("{n}.ovl")), &format!("{}.ovl", n + 1), "qcow2");
    }
    overlay(&at(&format!("{}.ovl", DEPTH_MAX + 1)), "", "");
    let error = open(&text_graph(), &at("0.ovl")).expect_err("too deep");
    assert!(error.contains("more than 200 images deep"), "{error}");
    let graph = text_graph();
    open(&graph, &at("1.ovl")).expect("as deep as it may be");
    assert_eq!(graph.query_node("disk").expect("there").backing_depth as usize, DEPTH_MAX);
}

#[test]
fn a_backing_node_given_by_name_or_none_is_not_looked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = dir.path().join("top.ovl");
    overlay(&top, "none.img", "raw");
    for backing in [Backing::None, Backing::Node("base".into())] {
        let (graph, top) = (text_graph(), top.clone());
        on_ring(async move |cx| {
            let mut base = null("base");
            base.read_only = true;
            graph.open(&cx, base).await.expect("open");
            graph.open(&cx, host("file", &top)).await.expect("open");
            let mut options = qcow2("disk", "file");
            let by_name = backing != Backing::None;
            if let DriverOptions::Qcow2(qcow2) = &mut options.driver {
                qcow2.backing = backing;
            }
            graph.open(&cx, options).await.expect("open");
            let status = graph.query_node("disk").expect("there");
            assert_eq!(status.backing.map(|(name, _)| name), by_name.then(|| "base".to_owned()));
            assert_eq!(graph.delete(&cx, "base").await.is_err(), by_name);
            graph.close_all(&cx).await.expect("close");
        });
    }
}

#[test]
fn an_image_without_a_file_of_its_own_has_no_relative_backing_file() {
    assert_eq!(resolve(None, "x"), Err(BackingReason::Relative));
    assert_eq!(resolve(None, "/x"), Ok("/x".into()));
    assert_eq!(resolve(Some("/d".as_ref()), "x:y/z"), Err(BackingReason::Protocol));
    assert_eq!(resolve(Some("/d".as_ref()), "./x:y"), Ok("/d/./x:y".into()));
    assert_eq!(resolve(Some("".as_ref()), "x"), Ok("x".into()));
}
