//! QEMU's word: what is written here is read there, and the other way round.

use super::*;
use crate::{
    Io, IoBuf, Op, Range,
    conformance::{close_all, seeds},
    nodes::testing::{bare, on_ring, write},
    submit::{node_io, read},
};

/// Writes, zeroes and discards, followed in `model`.
pub(super) async fn scribble(cx: &Cx, disk: &Arc<dyn Node>, model: &mut [u8], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let size = model.len() as u64;
    for n in 0..40u8 {
        let offset = rng.u64(0..size / 512) * 512;
        let len = (rng.u64(1..400) * 512).min(size - offset);
        let place = offset as usize..(offset + len) as usize;
        match rng.u8(0..8) {
            0 => {
                let unmap = rng.bool();
                bare(cx, disk, Op::WriteZeroes { unmap, fua: false }, offset, len)
                    .await
                    .expect("zeroes");
                model[place].fill(0);
            }
            1 => {
                let fua = Io {
                    op: Op::Write { fua: true },
                    range: Range::new(offset, len),
                    buf: IoBuf::from_slice(&vec![n | 128; len as usize]),
                };
                node_io(cx, disk, fua).await.1.expect("a write");
                model[place].fill(n | 128);
            }
            _ => {
                write(cx, disk, offset, &vec![n + 1; len as usize]).await.expect("a write");
                model[place].fill(n + 1);
            }
        }
    }
}

async fn whole(cx: &Cx, disk: &Arc<dyn Node>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < disk.info().size {
        let len = (disk.info().size - bytes.len() as u64).min(1 << 20);
        let part = read(cx, disk, bytes.len() as u64, len as usize).await.expect("a read");
        bytes.extend(part.to_vec());
    }
    bytes
}

fn ask(case: &Case, path: &Path, model: &[u8]) {
    let raw = path.with_extension("model");
    std::fs::write(&raw, model).expect("the model");
    let name = case.format.name();
    let info = qemu("qemu-img", &["info", "--output=json", "-f", name, text(path)]);
    let size = format!("\"virtual-size\": {},", model.len());
    assert!(info.contains(&size), "{}: {size} in {info}", case.name);
    if case.format.has_check() && case.name != "vmdk-flat" && case.name != "vmdk-split-flat" {
        qemu("qemu-img", &["check", "-q", "-f", name, text(path)]);
    }
    qemu("qemu-img", &["compare", "-q", "-f", "raw", "-F", name, text(&raw), text(path)]);
}

const SIZE: u64 = (12 << 20) + 5 * 512;

#[test]
fn what_is_written_here_is_read_there() {
    for seed in seeds([1]) {
        for case in cases(SIZE) {
            let dir = directory();
            let path = dir.path().join("disk.vmdk");
            let (task_case, task_path) = (case.clone(), path.clone());
            let model = on_ring(move |cx| async move {
                make_on_host(&cx, &task_case, &task_path).await;
                let format = task_case.format;
                let mut model = Vec::new();
                for round in 0..2 {
                    let disk = open_on_host(&cx, format, &task_path, None, false).await;
                    let disk = disk.unwrap_or_else(|e| panic!("{}: {e}", task_case.name));
                    model.resize(disk.info().size as usize, 0);
                    scribble(&cx, &disk, &mut model, seed + round).await;
                    assert!(whole(&cx, &disk).await == model, "{} reads otherwise", task_case.name);
                    close_all(Cx::clone(&cx), disk).await.expect("close");
                }
                model
            });
            ask(&case, &path, &model);
            let own = on_ring({
                let (path, format) = (path.clone(), case.format);
                move |cx| async move {
                    let file = host_file(&path, true).expect("the file");
                    let dir = Dir(path.parent().expect("a directory").to_owned());
                    super::super::check(&cx, format, &file, &dir).await
                }
            });
            match own {
                Ok(report) => assert_eq!(report.corruptions, 0, "{}: {report:?}", case.name),
                Err(error) => assert_eq!(error, FormatError::NoCheck, "{}", case.name),
            }
        }
    }
}

#[test]
fn what_is_written_there_is_read_and_changed_here() {
    for seed in seeds([1]) {
        for case in cases(SIZE) {
            let dir = directory();
            let path = dir.path().join("disk.vmdk");
            let name = case.format.name();
            let size = SIZE.to_string();
            let options = format!("size={size},{}", case.qemu);
            let options = options.trim_end_matches(',');
            qemu("qemu-img", &["create", "-q", "-f", name, "-o", options, text(&path)]);
            let io =
                ["write -P 17 65536 300000", "write -P 18 5000000 70000", "write -z 100000 9000"];
            let mut args = vec!["-f", name];
            for command in &io {
                args.extend(["-c", command]);
            }
            args.push(text(&path));
            qemu("qemu-io", &args);
            let raw = dir.path().join("raw");
            qemu("qemu-img", &["convert", "-f", name, "-O", "raw", text(&path), text(&raw)]);
            let expected = std::fs::read(&raw).expect("the bytes");
            let (task_path, task_case) = (path.clone(), case.clone());
            let model = on_ring(move |cx| async move {
                let format = task_case.format;
                let disk = open_on_host(&cx, format, &task_path, None, true).await;
                let disk = disk.unwrap_or_else(|e| panic!("{}: {e}", task_case.name));
                let mut model = whole(&cx, &disk).await;
                assert!(model == expected, "{} reads otherwise", task_case.name);
                close_all(Cx::clone(&cx), disk).await.expect("close");
                let disk = open_on_host(&cx, format, &task_path, None, false).await.expect("open");
                scribble(&cx, &disk, &mut model, seed).await;
                close_all(Cx::clone(&cx), disk).await.expect("close");
                model
            });
            ask(&case, &path, &model);
        }
    }
}

#[test]
fn a_stream_is_written_once_and_read_by_both() {
    let dir = directory();
    let path = dir.path().join("disk.vmdk");
    let options =
        VmdkOptions { subformat: vmdk::Subformat::StreamOptimized, ..VmdkOptions::new(SIZE) };
    let format = ImageFormat::Vmdk;
    let case = Case { name: "vmdk-stream", format, made: Made::Vmdk(options), qemu: "" };
    let (task_case, task_path) = (case.clone(), path.clone());
    let model = on_ring(move |cx| async move {
        make_on_host(&cx, &task_case, &task_path).await;
        let disk = open_on_host(&cx, format, &task_path, None, true).await.expect("empty");
        let mut model = vec![0; SIZE as usize];
        assert!(whole(&cx, &disk).await == model);
        close_all(Cx::clone(&cx), disk).await.expect("close");
        let disk = open_on_host(&cx, format, &task_path, None, false).await.expect("to be written");
        scribble(&cx, &disk, &mut model, 3).await;
        assert!(whole(&cx, &disk).await == model);
        close_all(Cx::clone(&cx), disk).await.expect("close");
        let again = open_on_host(&cx, format, &task_path, None, false).await;
        let error = again.err().expect("it is not empty any more");
        assert!(error.contains("written in one go"), "{error}");
        let disk = open_on_host(&cx, format, &task_path, None, true).await.expect("open");
        assert!(whole(&cx, &disk).await == model);
        close_all(Cx::clone(&cx), disk).await.expect("close");
        model
    });
    ask(&case, &path, &model);
    // And QEMU's, whose tables are in front.
    let theirs = dir.path().join("theirs.vmdk");
    let raw = path.with_extension("model");
    let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    qemu("qemu-img", &[&args[..], &[text(&raw), text(&theirs)]].concat());
    on_ring(move |cx| async move {
        let disk = open_on_host(&cx, format, &theirs, None, true).await.expect("open");
        assert!(whole(&cx, &disk).await == model);
        close_all(Cx::clone(&cx), disk).await.expect("close");
    });
}
