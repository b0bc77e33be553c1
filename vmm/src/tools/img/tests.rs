//! Against qemu-img: what it prints, we print; what we make, it takes.
use super::check::Repair;
use super::create::Request;
use super::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs qemu-img; `None` where there is none.
fn qemu_img(dir: &Path, args: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").args(args).current_dir(dir).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("qemu-img is not installed: nothing to compare with");
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn make(path: &Path, size: Option<&str>, options: &[&str], backing: Option<&str>) -> String {
    let request = Request {
        path: path.to_owned(),
        size: size.map(str::to_owned),
        options: options.iter().map(|&o| o.to_owned()).collect(),
        backing: backing.map(str::to_owned),
        backing_format: backing
            .map(|name| if name.ends_with("raw") { "raw" } else { "qcow2" }.to_owned()),
        ..Request::default()
    };
    let plan = request.plan().unwrap();
    let size = create::run(&plan, false).unwrap();
    request.announce(size).unwrap()
}

/// JSON of qemu-img without what later versions add.
fn json(output: &Output) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for report in value.as_array_mut().map_or(vec![], |a| a.iter_mut().collect()) {
        report.as_object_mut().unwrap().remove("children");
    }
    value
}

#[test]
fn images_made_here_are_what_qemu_img_would_have_made() {
    let dir = tempfile::tempdir().unwrap();
    type Case<'a> = (&'a str, Option<&'a str>, &'a [&'a str], Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("base.raw", Some("3M"), &[], None),
        ("a.qcow2", Some("1G"), &[], None),
        ("b.qcow2", Some("64M"), &["cluster_size=512"], None),
        ("c.qcow2", Some("5G"), &["cluster_size=2M,compression_type=zstd"], None),
        ("d.qcow2", Some("10M"), &["compat=0.10"], None),
        ("e.qcow2", Some("10M"), &["lazy_refcounts=on"], None),
        ("f.qcow2", None, &[], Some("base.raw")),
        ("g.qcow2", None, &[], Some("a.qcow2")),
        ("h.qcow2", Some("2G"), &["preallocation=metadata"], None),
    ];
    for (name, size, options, backing) in cases {
        let path = dir.path().join(name);
        let announced = make(&path, *size, options, *backing);
        let Some(checked) = qemu_img(dir.path(), &["info", "--output=json", name]) else { return };
        assert!(checked.status.success(), "{name}: {checked:?}");
        let ours = info::run(Path::new(&path), Look::default(), false).unwrap();
        let mut ours = serde_json::to_value(&ours[0]).unwrap();
        ours["filename"] = (*name).into();
        if let Some(full) = ours.get_mut("full-backing-filename") {
            *full = full.as_str().unwrap().rsplit('/').next().unwrap().into();
        }
        let mut theirs = json(&checked);
        // Older ones do not say which files there are.
        theirs.as_object_mut().unwrap().remove("children");
        ours.as_object_mut().unwrap().remove("children");
        assert_eq!(ours, theirs, "{name}");
        if !name.ends_with("raw") {
            let checked = qemu_img(dir.path(), &["check", name]).unwrap();
            assert!(checked.status.success(), "{name}: {checked:?}");
        }
        // The same again by qemu-img: the same announcement, but for the file's name.
        let mut args = vec!["create", "-f", if name.ends_with("raw") { "raw" } else { "qcow2" }];
        for option in *options {
            args.extend(["-o", option]);
        }
        if let Some(backing) = backing {
            args.extend([
                "-b",
                backing,
                "-F",
                if backing.ends_with("raw") { "raw" } else { "qcow2" },
            ]);
        }
        args.push("theirs");
        args.extend(*size);
        let made = text(&qemu_img(dir.path(), &args).unwrap());
        let sorted = |text: &str| {
            let mut words: Vec<String> =
                text.split_whitespace().skip(2).map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&announced), sorted(&made), "{name}");
    }
}

#[test]
fn reports_for_people_are_qemu_imgs() {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join("base.qcow2"), Some("100M"), &[], None);
    make(&dir.path().join("top.qcow2"), None, &[], Some("base.qcow2"));
    let path = dir.path().join("top.qcow2");
    let path = path.to_str().unwrap();
    let Some(theirs) = qemu_img(dir.path(), &["info", "--backing-chain", path]) else { return };
    let ours = info::human(&info::run(Path::new(path), Look::default(), true).unwrap());
    // QEMU 8 and later say more of each file.
    let theirs = text(&theirs);
    let plain = |text: &str| -> Vec<String> {
        let mut below = false;
        let kept = text.lines().filter(|line| {
            below = line.starts_with("Child node") || (below && line.starts_with("    "));
            !below
        });
        kept.map(str::to_owned).collect()
    };
    assert_eq!(plain(&ours), plain(&theirs));
}

/// An image with a leak and one with a corruption, made by changing bytes of a good one.
fn damaged(dir: &Path) -> Option<[PathBuf; 2]> {
    let good = dir.join("good.qcow2");
    make(&good, Some("1M"), &[], None);
    qemu_img(dir, &["info", "good.qcow2"])?;
    let wrote = Command::new("qemu-io").args(["-c", "write 0 128k"]).arg(&good).output().ok()?;
    assert!(wrote.status.success());
    let bytes = std::fs::read(&good).unwrap();
    // The first refcount block is behind the table at one cluster (docs/interop/qcow2.txt).
    let table = usize::try_from(u64::from_be_bytes(bytes[48..56].try_into().unwrap())).unwrap();
    let block = u64::from_be_bytes(bytes[table..table + 8].try_into().unwrap());
    let block = usize::try_from(block).unwrap();
    let last = bytes.len() / 65536 - 1;
    let mut leak = bytes.clone();
    leak[block + 2 * last + 3] = 1;
    leak.resize(bytes.len() + 65536, 0);
    let mut corrupt = bytes;
    corrupt[block + 2 * last + 1] = 0;
    let paths = [dir.join("leak.qcow2"), dir.join("corrupt.qcow2")];
    for (path, bytes) in paths.iter().zip([leak, corrupt]) {
        std::fs::write(path, bytes).unwrap();
    }
    Some(paths)
}

#[test]
fn a_check_says_and_means_what_qemu_img_does() {
    let dir = tempfile::tempdir().unwrap();
    let Some([leak, corrupt]) = damaged(dir.path()) else { return };
    let good = dir.path().join("good.qcow2");
    for (path, status) in [(&good, 0), (&leak, 3), (&corrupt, 2)] {
        let name = path.to_str().unwrap();
        let theirs = qemu_img(dir.path(), &["check", name]).unwrap();
        let found = check::run(path, Look::default(), Repair::None).unwrap().unwrap();
        assert_eq!(found.report.exit_status(), status, "{name}");
        assert_eq!(theirs.status.code(), Some(i32::from(status)), "{name}");
        assert_eq!(found.report.human(), text(&theirs), "{name}");
        assert_eq!(found.findings.is_empty(), status == 0, "{name}");
        let theirs = qemu_img(dir.path(), &["check", "--output=json", name]).unwrap();
        assert_eq!(serde_json::to_value(&found.report).unwrap(), json(&theirs), "{name}");
    }
    let repaired = check::run(&leak, Look::default(), Repair::Leaks).unwrap().unwrap().report;
    assert_eq!((repaired.leaks, repaired.leaks_fixed), (0, 1));
    assert!(repaired.human().contains("1 leaked clusters\n"));
    let repaired = check::run(&corrupt, Look::default(), Repair::All).unwrap().unwrap().report;
    assert_eq!(repaired.exit_status(), 0);
    for path in [&leak, &corrupt] {
        let theirs = qemu_img(dir.path(), &["check", path.to_str().unwrap()]).unwrap();
        assert!(theirs.status.success(), "{theirs:?}");
    }
}

#[test]
fn raw_images_have_nothing_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    make(&path, Some("1M"), &["preallocation=full"], None);
    assert!(check::run(&path, Look::default(), Repair::None).unwrap().is_none());
    let report = &info::run(&path, Look::default(), false).unwrap()[0];
    assert_eq!((report.virtual_size, &*report.format), (1 << 20, "raw"));
    assert!(report.actual_size.unwrap() >= 1 << 20);
}

#[test]
fn bad_input_is_named_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let chain = |error: ImgError| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    };
    let look = |name: &str| chain(info::run(&at(name), Look::default(), true).unwrap_err());
    assert!(look("none.qcow2").contains("none.qcow2"));
    std::fs::write(at("short.qcow2"), b"QFI\xfb\0\0\0\x03").unwrap();
    assert!(look("short.qcow2").contains("short.qcow2"));
    std::fs::write(at("x.vmdk"), b"KDMV").unwrap();
    assert!(look("x.vmdk").contains("vmdk"));

    make(&at("self.qcow2"), Some("1M"), &[], None);
    let mut bytes = std::fs::read(at("self.qcow2")).unwrap();
    for (name, text) in [("loop.qcow2", "loop.qcow2"), ("json.qcow2", "json:{\"driver\":\"nbd\"}")]
    {
        // A backing file name at the end of the first cluster.
        bytes[8..16].copy_from_slice(&60000_u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes[60000..60000 + text.len()].copy_from_slice(text.as_bytes());
        std::fs::write(at(name), &bytes).unwrap();
    }
    assert!(look("loop.qcow2").contains("endless"), "{}", look("loop.qcow2"));
    assert!(look("json.qcow2").contains("no plain file"), "{}", look("json.qcow2"));

    let create_error = |name: &str, backing: Option<&str>, options: &[&str], size: Option<&str>| {
        let request = Request {
            path: at(name),
            size: size.map(str::to_owned),
            backing: backing.map(str::to_owned),
            backing_format: backing.map(|_| "qcow2".to_owned()),
            options: options.iter().map(|&o| o.to_owned()).collect(),
            ..Request::default()
        };
        let error = create::run(&request.plan().unwrap(), false).unwrap_err();
        assert!(name == "self.qcow2" || !at(name).exists(), "{name} was left behind");
        chain(error)
    };
    assert!(create_error("n.qcow2", Some("none.qcow2"), &[], None).contains("none.qcow2"));
    assert!(create_error("n.qcow2", Some("x.vmdk"), &[], None).contains("x.vmdk"));
    assert!(create_error("self.qcow2", Some("self.qcow2"), &[], None).contains("its own"));
    assert!(create_error("n.qcow2", None, &["cluster_size=512"], Some("4E")).contains("too large"));
    let before = std::fs::read(at("self.qcow2")).unwrap();
    create_error("self.qcow2", None, &["cluster_size=512"], Some("4E"));
    assert_eq!(std::fs::read(at("self.qcow2")).unwrap(), before);
}
