//! Images above others.

use super::{oracle::scribble, *};
use crate::{
    conformance::close_all,
    formats::facts,
    nodes::{
        raw::RawNode,
        testing::{on_ring, read},
    },
};

const SIZE: u64 = (6 << 20) + 3 * 512;

async fn below(cx: &Cx, format: Option<ImageFormat>, path: &Path) -> Arc<dyn Node> {
    match format {
        Some(format) => open_on_host(cx, format, path, None, true).await.expect("the base"),
        None => RawNode::new(host_file(path, true).expect("the base"), 0, None, true).expect("raw"),
    }
}

/// A base with data, an image above it, changed; returns what it reads as.
fn stack(case: &Case, base_format: Option<ImageFormat>, dir: &Path) -> Vec<u8> {
    let (base, top) = (dir.join("base"), dir.join("top.vmdk"));
    let case = case.clone();
    on_ring(move |cx| async move {
        let mut model = vec![0; SIZE as usize];
        let mut id = None;
        if let Some(format) = base_format {
            let made = cases(SIZE).into_iter().find(|c| c.name == format.name()).expect("a case");
            make_on_host(&cx, &made, &base).await;
            let disk = open_on_host(&cx, format, &base, None, false).await.expect("the base");
            scribble(&cx, &disk, &mut model, 1).await;
            close_all(Cx::clone(&cx), disk).await.expect("close");
            let file = host_file(&base, true).expect("the base");
            id = facts(&cx, format, &file, &super::super::Alone).await.expect("facts").id;
        } else {
            let mut rng = fastrand::Rng::with_seed(1);
            model.iter_mut().for_each(|byte| *byte = rng.u8(..));
            std::fs::write(&base, &model).expect("the base");
        }
        let name = base_format.map_or("raw", ImageFormat::name).to_owned();
        let mut case = case;
        match &mut case.made {
            Made::Plain(options) => {
                options.backing = Some(("base".to_owned(), name));
                options.backing_id = id;
            }
            Made::Vmdk(options) => {
                options.backing = Some(("base".to_owned(), id.expect("a content id")));
            }
        }
        make_on_host(&cx, &case, &top).await;
        let file = host_file(&top, true).expect("the image");
        let beside = Dir(top.parent().expect("a directory").to_owned());
        let said = facts(&cx, case.format, &file, &beside).await.expect("facts");
        let named = said.backing.expect("a backing file");
        assert_eq!(named.file, "base", "{}", case.name);
        drop(file);
        for round in 0..2 {
            let lower = below(&cx, base_format, &base).await;
            let disk = open_on_host(&cx, case.format, &top, Some(lower), false).await;
            let disk = disk.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            scribble(&cx, &disk, &mut model, 2 + round).await;
            close_all(Cx::clone(&cx), disk).await.expect("close");
        }
        let lower = below(&cx, base_format, &base).await;
        let disk = open_on_host(&cx, case.format, &top, Some(lower), true).await.expect("open");
        for at in (0..SIZE).step_by(512 << 10) {
            let len = (SIZE - at).min(512 << 10) as usize;
            let bytes = read(&cx, &disk, at, len).await.expect("read");
            assert!(bytes == model[at as usize..at as usize + len], "{} at {at}", case.name);
        }
        close_all(Cx::clone(&cx), disk).await.expect("close");
        model
    })
}

/// Opens an image above one with another id, and returns what is said of it.
fn above_another(case: &Case, id: [u8; 16], given: [u8; 16], top: &Path) -> Result<(), String> {
    let (mut case, top) = (case.clone(), top.to_owned());
    if let Made::Plain(options) = &mut case.made {
        options.backing = Some(("base".to_owned(), case.format.name().to_owned()));
        options.backing_id = Some(id);
    }
    on_ring(async move |cx| {
        make_on_host(&cx, &case, &top).await;
        let beside = Dir(top.parent().expect("a directory").to_owned());
        let below: Arc<dyn Node> =
            crate::nodes::null::NullNode::new(crate::nodes::null::NullOptions {
                size: SIZE,
                read_zeroes: true,
                ..Default::default()
            });
        let request = Request {
            backing: Some(below),
            backing_id: Some(given),
            ..Request::read(host_file(&top, true).expect("the image"), &beside)
        };
        open(&cx, case.format, request).await.map(drop).map_err(|e| e.to_string())
    })
}

#[test]
fn a_parent_is_known_by_its_id() {
    for case in cases(SIZE).into_iter().filter(|c| ["vpc", "vhdx"].contains(&c.name)) {
        let dir = directory();
        let top = dir.path().join("top");
        let (one, other, none) = ([1; 16], [2; 16], [0; 16]);
        assert_eq!(above_another(&case, one, one, &top), Ok(()), "{}", case.name);
        let error = above_another(&case, one, other, &top).expect_err("another parent");
        assert!(error.contains("belongs to a parent"), "{error}");
        assert_eq!(above_another(&case, none, other, &top), Ok(()), "{}", case.name);
    }
}

#[test]
fn images_above_others_read_what_they_should() {
    for case in cases(SIZE) {
        let base = match case.name {
            "vpc" | "vhdx" | "vhdx-1m" => Some(case.format),
            "vmdk" | "vmdk-zero" | "vmdk-split" => Some(ImageFormat::Vmdk),
            "qed" | "qed-4k" => None,
            _ => continue,
        };
        let dir = directory();
        let model = stack(&case, base, dir.path());
        if matches!(case.format, ImageFormat::Qed | ImageFormat::Vmdk) {
            let (raw, top) = (dir.path().join("model"), dir.path().join("top.vmdk"));
            std::fs::write(&raw, model).expect("the model");
            let name = case.format.name();
            qemu("qemu-img", &["check", "-q", "-f", name, text(&top)]);
            qemu("qemu-img", &["compare", "-q", "-f", "raw", "-F", name, text(&raw), text(&top)]);
        }
    }
}

#[test]
fn a_base_that_was_changed_is_not_taken_for_the_old_one() {
    let dir = directory();
    let path = dir.path().join("top.vmdk");
    let size = SIZE.to_string();
    let base = dir.path().join("base.vmdk");
    qemu("qemu-img", &["create", "-q", "-f", "vmdk", text(&base), &size]);
    qemu("qemu-img", &["create", "-q", "-f", "vmdk", "-b", text(&base), "-F", "vmdk", text(&path)]);
    on_ring(move |cx| async move {
        let said = |path: PathBuf| {
            let cx = Cx::clone(&cx);
            async move {
                let file = host_file(&path, true).expect("the file");
                facts(&cx, ImageFormat::Vmdk, &file, &super::super::Alone).await.expect("facts")
            }
        };
        let before = said(base.clone()).await.id;
        let open_top = |id| {
            let (cx, path) = (Cx::clone(&cx), path.clone());
            async move {
                let file = host_file(&path, true).expect("the file");
                let mut request = Request::read(file, &super::super::Alone);
                request.backing_id = id;
                open(&cx, ImageFormat::Vmdk, request).await.map(|_| ())
            }
        };
        open_top(before).await.expect("its own base");
        let disk = open_on_host(&cx, ImageFormat::Vmdk, &base, None, false).await.expect("open");
        crate::nodes::testing::write(&cx, &disk, 0, &[1; 512]).await.expect("write");
        close_all(Cx::clone(&cx), disk).await.expect("close");
        let after = said(base.clone()).await.id;
        assert_ne!(before, after);
        let error = open_top(after).await.expect_err("another base").to_string();
        assert!(error.contains("content id"), "{error}");
    });
}
