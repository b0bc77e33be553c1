//! Encrypted images against QEMU both ways, against the model, and with hostile headers.

use std::path::Path;

use super::{
    super::{
        Encrypt, Header, NewSnapshot, OpenError, amend_keys,
        check::{Repair, check},
        create::{CreateOptions, create},
    },
    *,
};
use crate::{
    BlockError,
    conformance::{self, Effort, Resize, Stage, Subject, close_all, seeds},
    formats::Secret,
    luks::{LuksOptions, SlotChange},
    nodes::testing::{on_ring, read, write},
    qcow2::{ClusterPacker, PackedCluster, Qcow2},
    ring::Aio,
};

const SIZE: u64 = (1 << 20) + 512 * 5;
const WORD: &str = "correct horse";

fn secret() -> Secret {
    Secret::new(WORD.as_bytes())
}

fn luks(alg: &str, mode: &str, ivgen: &str, hash: &str) -> Encrypt {
    Encrypt::Luks(LuksOptions {
        cipher_alg: alg.to_owned(),
        cipher_mode: mode.to_owned(),
        ivgen_alg: ivgen.to_owned(),
        hash_alg: hash.to_owned(),
        iter_time_ms: 0,
        ..LuksOptions::new(0, secret())
    })
}

fn kinds() -> Vec<(u32, u64, Encrypt)> {
    vec![
        (3, 64 << 10, luks("aes-256", "xts", "plain64", "sha256")),
        (3, 512, luks("aes-128", "cbc", "essiv", "sha1")),
        (2, 4 << 10, luks("serpent-256", "xts", "plain64", "sha512")),
        (3, 2 << 20, luks("twofish-128", "ctr", "plain", "sha256")),
        (3, 64 << 10, Encrypt::Aes(secret())),
        (2, 1 << 10, Encrypt::Aes(secret())),
    ]
}

async fn make(cx: &Cx, path: &Path, version: u32, cluster_size: u64, encrypt: Encrypt) {
    std::fs::write(path, []).expect("a file");
    let encrypt = Some(encrypt);
    let options = CreateOptions { version, cluster_size, encrypt, ..CreateOptions::new(SIZE) };
    let node = file(path, false);
    create(cx, &node, &options).await.expect("made");
    close_all(Cx::clone(cx), node).await.expect("close");
}

async fn open_as(cx: &Cx, path: &Path, word: &[u8]) -> Result<Arc<Qcow2>, OpenError> {
    let options = Options { secret: Some(Secret::new(word)), ..Options::default() };
    open(cx, file(path, false), None, options).await
}

/// QEMU's name for the image, with its passphrase.
fn by_qemu(path: &Path) -> [String; 3] {
    let image = format!("driver=qcow2,encrypt.key-secret=s,file.filename={}", path.display());
    [format!("--object=secret,id=s,data={WORD}"), "--image-opts".to_owned(), image]
}

fn qemu_io(path: &Path, commands: &[&str]) -> String {
    let named = by_qemu(path);
    let mut args: Vec<&str> = named.iter().map(String::as_str).collect();
    commands.iter().for_each(|command| args.extend(["-c", command]));
    let said = qemu("qemu-io", &args);
    assert!(!said.contains("verification failed"), "{said}");
    said
}

fn sound(path: &Path) {
    let [object, opts, image] = by_qemu(path);
    qemu("qemu-img", &["check", "-q", &object, &opts, &image]);
}

#[test]
fn images_are_read_and_written_by_both() {
    for (version, cluster_size, encrypt) in kinds() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let (ours, made) = (path.clone(), encrypt.clone());
        on_ring(async move |cx| {
            make(&cx, &ours, version, cluster_size, made).await;
            let image: Arc<dyn Node> = open_as(&cx, &ours, WORD.as_bytes()).await.expect("open");
            write(&cx, &image, 512, &[7; 70_000 / 512 * 512]).await.expect("write");
            write(&cx, &image, SIZE - 512, &[9; 512]).await.expect("write");
            assert!(read(&cx, &image, 300 << 10, 4096).await.expect("read") == [0; 4096]);
            close_all(cx, image).await.expect("close");
            let bytes = std::fs::read(&ours).expect("the file");
            assert!(!bytes.windows(64).any(|w| w == [7; 64] || w == [9; 64]), "not encrypted");
        });
        sound(&path);
        qemu_io(
            &path,
            &[
                &format!("read -P 7 512 {}", 70_000 / 512 * 512),
                &format!("read -P 9 {} 512", SIZE - 512),
                "read -P 0 300k 200k",
                "write -P 11 99840 5120",
                "write -P 12 600k 1k",
                "discard 0 64k",
            ],
        );
        on_ring(async move |cx| {
            let image: Arc<dyn Node> = open_as(&cx, &path, WORD.as_bytes()).await.expect("open");
            let same = |bytes: Vec<u8>, value| bytes.iter().all(|b| *b == value);
            assert!(same(read(&cx, &image, 99_840, 5120).await.expect("read"), 11), "{encrypt:?}");
            assert!(same(read(&cx, &image, 600 << 10, 1024).await.expect("read"), 12));
            assert!(same(read(&cx, &image, 601 << 10, 3072).await.expect("read"), 0));
            close_all(cx, image).await.expect("close");
        });
    }
}

#[test]
fn images_of_qemus_making_conform() {
    let stage = Stage::host(Aio::Threads, 3).expect("iothreads");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    for seed in seeds([]) {
        for (format, cluster) in [("luks", "64k"), ("luks", "512"), ("aes", "4k")] {
            let mut options =
                format!("encrypt.format={format},encrypt.key-secret=s,cluster_size={cluster}");
            if format == "luks" {
                options += ",encrypt.iter-time=10";
            }
            let object = format!("secret,id=s,data={WORD}");
            let size = SIZE.to_string();
            let args = ["create", "-q", "--object", &object, "-f", "qcow2", "-o", &options];
            crate::luks::tests::qemu_img_create(&[&args[..], &[text(&path), &size]].concat());
            let opened = path.clone();
            let subject = Subject {
                open: Arc::new(move |cx| {
                    let path = opened.clone();
                    Box::pin(async move {
                        let image = open_as(&cx, &path, WORD.as_bytes()).await;
                        Ok(image.map_err(|e| e.to_string())? as _)
                    })
                }),
                contents: vec![0; SIZE as usize],
                resize: Resize::Grow,
                alone: true,
            };
            let effort = Effort { seed, tasks: 4, requests: 60 };
            conformance::check(&stage, &subject, effort).unwrap_or_else(|e| {
                panic!("{options}, seed {seed:#x}: {e}");
            });
            sound(&path);
        }
    }
}

#[test]
fn a_snapshot_keeps_its_data_while_the_disk_is_encrypted_anew() {
    for (version, cluster_size, encrypt) in kinds() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let ours = path.clone();
        on_ring(async move |cx| {
            make(&cx, &ours, version, cluster_size, encrypt).await;
            let image = open_as(&cx, &ours, WORD.as_bytes()).await.expect("open");
            let node: Arc<dyn Node> = Arc::clone(&image) as _;
            write(&cx, &node, 0, &[1; 8192]).await.expect("write");
            let new = NewSnapshot {
                name: "one".to_owned(),
                date_s: 1,
                date_ns: 0,
                vm_clock_ns: 0,
                icount: None,
            };
            image.create_snapshot(&cx, new).await.expect("a snapshot");
            write(&cx, &node, 512, &[2; 512]).await.expect("write");
            // Snapshots of version 2 do not say how long the disk is.
            if version == 3 {
                Arc::clone(&node).resize(Cx::clone(&cx), SIZE + 512).await.expect("grow");
                assert!(read(&cx, &node, SIZE, 512).await.expect("read") == [0; 512]);
            }
            close_all(cx, node).await.expect("close");
        });
        sound(&path);
        let mut disk = vec![1; 8192];
        disk[512..1024].fill(2);
        for (snapshot, expected) in [(false, disk), (true, vec![1; 8192])] {
            let raw = dir.path().join("raw");
            let [object, opts, image] = by_qemu(&path);
            let mut args = vec!["convert", &*object, &*opts, "-O", "raw"];
            if snapshot {
                args.extend(["-l", "one"]);
            }
            qemu("qemu-img", &[&args[..], &[&*image, text(&raw)]].concat());
            assert!(std::fs::read(&raw).expect("raw")[..8192] == expected);
        }
    }
}

#[test]
fn what_cannot_be_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, plain) = (dir.path().join("image"), dir.path().join("plain"));
    on_ring(async move |cx| {
        make(&cx, &path, 3, 65536, luks("aes-128", "xts", "plain64", "sha256")).await;
        let said = |result: Result<Arc<Qcow2>, OpenError>| {
            result.map(|_| ()).expect_err("refused").to_string()
        };
        assert_eq!(
            said(open_as(&cx, &path, b"wrong").await),
            "Invalid password, cannot unlock any keyslot"
        );
        assert_eq!(
            said(open(&cx, file(&path, false), None, Options::default()).await),
            "Parameter 'encrypt.key-secret' is required for cipher"
        );
        let aes = |secret: Option<Secret>| Options {
            secret,
            encrypt_format: Some("aes".to_owned()),
            ..Options::default()
        };
        assert_eq!(
            said(open(&cx, file(&path, false), None, aes(Some(secret()))).await),
            "Header reported 'luks' encryption format but options specify 'aes'"
        );
        std::fs::write(&plain, []).expect("a file");
        create(&cx, &file(&plain, false), &CreateOptions::new(SIZE)).await.expect("made");
        assert_eq!(
            said(open(&cx, file(&plain, false), None, aes(None)).await),
            "No encryption in image header, but options specified format 'aes'"
        );
        let image = open_as(&cx, &path, WORD.as_bytes()).await.expect("open");
        let bytes = ClusterPacker::new(image.compression()).expect("a packer").pack(&[1; 65536]);
        let packed = [PackedCluster { offset: 0, bytes: bytes.expect("it packs") }];
        let written = image.write_compressed(&cx, &packed).await;
        assert_eq!(written, Err(BlockError::Unsupported));
        close_all(cx, image).await.expect("close");
    });
}

async fn amended(cx: &Cx, path: &Path, word: &[u8], change: &SlotChange) -> Result<(), String> {
    let node = file(path, false);
    let done = amend_keys(cx, &node, &Secret::new(word), change).await;
    close_all(Cx::clone(cx), node).await.expect("close");
    done.map_err(|error| error.to_string())
}

async fn opens(cx: &Cx, path: &Path, word: &[u8]) -> bool {
    let image = open_as(cx, path, word).await;
    if let Ok(image) = image {
        close_all(Cx::clone(cx), image).await.expect("close");
        return true;
    }
    false
}

#[test]
fn key_slots_come_and_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    let ours = path.clone();
    on_ring(async move |cx| {
        let word = WORD.as_bytes();
        make(&cx, &ours, 3, 65536, luks("aes-256", "xts", "plain64", "sha256")).await;
        let add = SlotChange {
            active: true,
            new_secret: Some(Secret::new(b"new")),
            iter_time_ms: Some(0),
            ..SlotChange::default()
        };
        amended(&cx, &ours, word, &add).await.expect("a second slot");
        assert!(opens(&cx, &ours, word).await && opens(&cx, &ours, b"new").await);
        // The first slot gets another passphrase, in its place.
        let third = Some(Secret::new(b"third"));
        let other = SlotChange { keyslot: Some(0), new_secret: third, ..add };
        let refused = amended(&cx, &ours, word, &other).await.expect_err("refused");
        assert!(refused.contains("overwrite active keyslot 0"), "{refused}");
        let forced = SlotChange { force: true, ..other };
        amended(&cx, &ours, word, &forced).await.expect("overwritten");
        assert!(!opens(&cx, &ours, word).await && opens(&cx, &ours, b"third").await);
        let erase = SlotChange { old_secret: Some(Secret::new(b"new")), ..SlotChange::default() };
        amended(&cx, &ours, b"third", &erase).await.expect("erased");
        assert!(!opens(&cx, &ours, b"new").await);
        let last = SlotChange { keyslot: Some(0), ..SlotChange::default() };
        let kept = amended(&cx, &ours, b"third", &last).await.expect_err("refused");
        assert!(kept.contains("only active keyslot 0"), "{kept}");
        let back = SlotChange { keyslot: Some(7), new_secret: Some(secret()), ..forced };
        amended(&cx, &ours, b"third", &back).await.expect("the last slot");
        assert!(opens(&cx, &ours, word).await && opens(&cx, &ours, b"third").await);
    });
    sound(&path);
}

#[test]
fn hostile_encryption_headers_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    on_ring(async move |cx| {
        make(&cx, &path, 3, 4096, luks("aes-128", "xts", "plain64", "sha256")).await;
        let bytes = std::fs::read(&path).expect("the file");
        let header = Header::parse(&bytes).expect("a header");
        let place = header.encryption_header().expect("sound").expect("there");
        // The extension's data follows its type and length.
        let at = bytes.windows(4).position(|w| w == [0x05, 0x37, 0xbe, 0x77]).expect("there") + 8;
        let luks_at = place.offset as usize;
        for (at, value, part) in [
            (32, &3_u32.to_be_bytes()[..], "encryption method 3"),
            (32, &1_u32.to_be_bytes(), "the method is not LUKS"),
            (at, &(place.offset + 512).to_be_bytes(), "offset of the encryption header"),
            (at, &(1_u64 << 60).to_be_bytes(), "offset of the encryption header"),
            (at, &(1_u64 << 40).to_be_bytes(), "encryption header"),
            (at + 8, &u64::MAX.to_be_bytes(), "length of the encryption header"),
            (at + 8, &0_u64.to_be_bytes(), "length of the encryption header"),
            (at - 8, &[0xff; 4], "is not there"),
            (luks_at, b"XUKS", "luks"),
            (luks_at + 7, &[2], "LUKS2"),
            (luks_at + 108, &[0xff; 4], "key-bytes"),
            (luks_at + 164, &[0xff; 4], "mk-digest-iter"),
            (luks_at + 212, &[0xff; 4], "iterations"),
            (luks_at + 248, &[0xff; 4], "key slot"),
        ] {
            let mut hostile = bytes.clone();
            hostile[at..at + value.len()].copy_from_slice(value);
            std::fs::write(&path, &hostile).expect("write");
            let error = open_as(&cx, &path, WORD.as_bytes()).await;
            let error = error.map(|_| ()).expect_err(part);
            let error = crate::error::with_causes(&error);
            assert!(error.contains(part), "{at} {value:?}: {error}");
            let _ = check(&cx, &file(&path, true), Repair::None).await;
            let after = std::fs::read(&path).expect("the file");
            assert!(after == hostile, "an image that is refused is not changed");
        }
    });
}
