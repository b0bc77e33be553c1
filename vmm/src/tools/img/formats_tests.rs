//! The other formats against qemu-img: created, told about, checked and converted alike.
use super::check::Repair;
use super::convert::{self, ConvertRequest};
use super::create::{self, Request};
use super::{Look, check, info};
use std::path::Path;
use std::process::{Command, Output};

fn qemu_img(dir: &Path, args: &[&str]) -> Output {
    Command::new("qemu-img").args(args).current_dir(dir).output().expect("qemu-utils are installed")
}

/// Format, options, and whether qemu-img checks it.
const KINDS: &[(&str, &str, bool)] = &[
    ("vdi", "", true),
    ("vdi", "static=on", true),
    ("vpc", "", false),
    ("vpc", "subformat=fixed,force_size=on", false),
    ("vhdx", "", true),
    ("vhdx", "subformat=fixed,block_size=1M", true),
    ("parallels", "", true),
    ("qed", "", true),
    ("qed", "cluster_size=4096,table_size=2", true),
    ("vmdk", "", true),
    ("vmdk", "subformat=monolithicFlat", false),
    ("vmdk", "subformat=twoGbMaxExtentSparse", true),
    ("vmdk", "subformat=twoGbMaxExtentFlat,adapter_type=lsilogic", false),
    ("vmdk", "subformat=streamOptimized", false),
    ("vmdk", "zeroed_grain=on,compat6=on", true),
];

fn request(path: &Path, format: &str, options: &str, size: &str) -> Request {
    Request {
        path: path.to_owned(),
        format: Some(format.to_owned()),
        size: Some(size.to_owned()),
        options: if options.is_empty() { vec![] } else { vec![options.to_owned()] },
        ..Request::default()
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text.split_whitespace().skip(2).map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn images_made_here_are_what_qemu_img_would_have_made() {
    for (format, options, checked) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ours");
        let request = request(&path, format, options, "37M");
        let size = create::run(&request.plan().unwrap(), false).unwrap();
        let announced = request.announce(size).unwrap();
        let mut args = vec!["create", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(["theirs", "37M"]);
        let theirs = qemu_img(dir.path(), &args);
        assert!(theirs.status.success(), "{format} {options}: {theirs:?}");
        let said = String::from_utf8(theirs.stdout).unwrap();
        assert_eq!(words(&announced), words(&said), "{format} {options}");
        let told = qemu_img(dir.path(), &["info", "--output=json", "-f", format, "ours"]);
        let theirs: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        let look = Look { format: None, ..Look::default() };
        let look =
            if *format == "vpc" { Look { format: plan_format(format), ..look } } else { look };
        let ours = info::run(&path, look, false).unwrap();
        let mut ours = serde_json::to_value(&ours[0]).unwrap();
        let relative = ours.to_string().replace(&format!("{}/", dir.path().display()), "");
        ours = serde_json::from_str(&relative).unwrap();
        for field in ["virtual-size", "cluster-size", "format", "actual-size", "format-specific"] {
            assert_eq!(ours.get(field), theirs.get(field), "{format} {options}: {field}");
        }
        let found = check::run(&path, Look { format: plan_format(format), ..look }, Repair::None);
        let found = found.unwrap();
        assert_eq!(found.is_some(), *format != "vpc", "{format} {options}");
        assert!(found.is_none_or(|found| found.report.exit_status() == 0), "{format} {options}");
        if *checked {
            let said = qemu_img(dir.path(), &["check", "-f", format, "ours"]);
            assert!(said.status.success(), "{format} {options}: {said:?}");
        }
    }
}

fn plan_format(name: &str) -> Option<crate::spec::format::Format> {
    crate::spec::format::Format::called(name)
}

#[test]
fn images_are_converted_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let mut bytes = vec![0; 9 << 20];
    for (n, byte) in bytes.iter_mut().enumerate() {
        // Data, and zeros among it, with edges inside of grains.
        *byte = if n >> 14 & 3 == 0 { 0 } else { (n / 700) as u8 };
    }
    std::fs::write(&raw, &bytes).unwrap();
    for (format, options, _) in KINDS {
        let image = dir.path().join("image.x");
        let back = dir.path().join("back");
        let mut given = vec![];
        if !options.is_empty() {
            given.push((*options).to_owned());
        }
        if *format == "vpc" {
            given = vec!["force_size=on".to_owned()];
        }
        let convert = |from: &Path, of: &str, to: &Path, into: &str, options: Vec<String>| {
            convert::run(ConvertRequest {
                sources: vec![from.to_owned()],
                format: Some(of.to_owned()),
                target: to.to_owned(),
                target_format: Some(into.to_owned()),
                options,
                ..ConvertRequest::default()
            })
            .unwrap_or_else(|e| panic!("{of} to {into}: {e:?}"));
        };
        convert(&raw, "raw", &image, format, given);
        let same = qemu_img(dir.path(), &["compare", "-f", "raw", "-F", format, "raw", "image.x"]);
        assert!(same.status.success(), "{format} {options}: {same:?}");
        convert(&image, format, &back, "raw", vec![]);
        assert!(std::fs::read(&back).unwrap() == bytes, "{format} {options}");
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path != raw {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn backing_chains_cross_formats() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = qemu_img(dir.path(), args);
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    run(&["create", "-q", "-f", "vmdk", "base.vmdk", "5M"]);
    run(&["create", "-q", "-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", "top.qcow2"]);
    let chain = info::run(&dir.path().join("top.qcow2"), Look::default(), true).unwrap();
    assert_eq!(chain.iter().map(|r| &*r.format).collect::<Vec<_>>(), ["qcow2", "vmdk"]);
    convert::run(ConvertRequest {
        sources: vec![dir.path().join("top.qcow2")],
        target: dir.path().join("flat.vdi"),
        target_format: Some("vdi".to_owned()),
        ..ConvertRequest::default()
    })
    .unwrap();
    run(&["compare", "-q", "top.qcow2", "flat.vdi"]);
}

#[test]
fn what_a_format_does_not_have_is_refused_in_qemu_imgs_words() {
    let dir = tempfile::tempdir().unwrap();
    let error = |request: Request| {
        let plan = request.plan().map_err(|e| e.to_string())?;
        create::run(&plan, false).map_err(|e| e.to_string())
    };
    let path = dir.path().join("a");
    for (format, options, said) in [
        ("dmg", "", "Format driver 'dmg' does not support image creation"),
        ("luks", "", "Parameter 'key-secret' is required for cipher"),
        ("vhdx", "block_size=3M", "power of two"),
        ("qed", "table_size=3", "table size"),
        ("vmdk", "compat6=on,hwversion=7", "compat6 cannot be enabled with hwversion set"),
        (
            "vmdk",
            "subformat=monolithicFlat,zeroed_grain=on",
            "Flat image can't enable zeroed grain",
        ),
    ] {
        let found = error(request(&path, format, options, "1M")).unwrap_err();
        assert!(found.contains(said), "{format} {options}: {found}");
        assert!(!path.exists(), "{format} {options}");
    }
}
