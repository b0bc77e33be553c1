//! Hostile images: damaged anywhere, they are opened or refused, and used without a panic or a hang.

use super::*;
use crate::{
    Io, IoBuf, Op, Range,
    conformance::seeds,
    formats::{Alone, check, facts},
    ring::sim::World,
    submit::node_io,
};

/// Sound bytes of a small image with some data.
fn sound(case: &Case) -> Vec<u8> {
    let world = World::new(1);
    let file = world.create_file("image", &[], 0);
    let cx = world.iothread("make").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(Arc::clone(&file), 0, 1, false);
    let (task, made) = (Cx::clone(&cx), case.clone());
    cx.block_on(async move {
        let cx = task;
        made.make(&cx, &node, "disk.vmdk", &NoFiles).await.expect("made");
        let mut request = Request::read(node, &Alone);
        request.read_only = false;
        let image = open(&cx, made.format, request).await.expect("sound");
        for n in 0..3 {
            let data = IoBuf::from_slice(&[n as u8 + 1; 4096]);
            node_io(&cx, &image, Io::write(n * (1 << 20), data)).await.1.expect("a write");
        }
        Arc::clone(&image).close(cx).await.expect("close");
    });
    world.contents(&file).to_vec()
}

/// Opens the image and uses it.
pub(super) fn attack(format: ImageFormat, bytes: &[u8]) {
    let world = World::new(1);
    let file = world.create_file("image", bytes, bytes.len() as u64);
    let cx = world.iothread("use").expect("an iothread");
    let node: Arc<dyn Node> = FileNode::over(file, bytes.len() as u64, 1, false);
    let task = Cx::clone(&cx);
    cx.block_on(async move {
        let cx = task;
        let _ = facts(&cx, format, &node, &Alone).await;
        let _ = check(&cx, format, &node, &Alone).await;
        let mut request = Request::read(node, &Alone);
        request.read_only = !format.is_writable();
        let Ok(image) = open(&cx, format, request).await else { return };
        let size = image.info().size;
        for at in [0, 1 << 20, 3 << 20, size.saturating_sub(4096)] {
            let range = Range::new(at / 512 * 512, 4096.min(size.saturating_sub(at / 512 * 512)));
            if range.len == 0 {
                continue;
            }
            let ios = [
                Io::read(range.offset, IoBuf::zeroed(range.len as usize)),
                Io::write(range.offset, IoBuf::from_slice(&vec![7; range.len as usize])),
                Io::bare(Op::WriteZeroes { unmap: true, fua: true }, range),
                Io::bare(Op::Discard, range),
                Io::flush(),
            ];
            for io in ios {
                let _ = node_io(&cx, &image, io).await;
            }
            let _ = Arc::clone(&image).extent(Cx::clone(&cx), range).await;
        }
        let _ = image.close(cx).await;
    });
}

#[test]
fn damaged_images_are_refused_or_used_without_harm() {
    for seed in seeds([1]) {
        for case in cases(4 << 20).into_iter().filter(Case::is_one_file) {
            let sound = sound(&case);
            attack(case.format, &sound);
            let mut rng = fastrand::Rng::with_seed(seed);
            // Where there is something: tables and headers, not the zeros between.
            let places: Vec<usize> =
                (0..sound.len()).filter(|at| sound[*at] != 0 && sound[*at] > 3).collect();
            for _ in 0..60 {
                let mut bytes = sound.clone();
                for _ in 0..rng.usize(1..4) {
                    let at = if rng.bool() {
                        rng.usize(0..512)
                    } else {
                        places[rng.usize(..places.len())]
                    };
                    let at = at.min(bytes.len() - 9);
                    match rng.u8(0..4) {
                        0 => bytes[at] = rng.u8(..),
                        1 => bytes[at..at + 8].fill(0xff),
                        2 => bytes[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]),
                        _ => bytes[at] ^= 1 << rng.u8(0..8),
                    }
                }
                if rng.u8(0..8) == 0 {
                    bytes.truncate(rng.usize(1..bytes.len()));
                }
                attack(case.format, &bytes);
            }
        }
    }
}

#[test]
fn the_field_that_is_wrong_is_named() {
    let refused = |case: &str, at: usize, value: &[u8]| {
        let case = cases(4 << 20).into_iter().find(|c| c.name == case).expect("a case");
        let mut bytes = sound(&case);
        bytes[at..at + value.len()].copy_from_slice(value);
        let world = World::new(1);
        let file = world.create_file("image", &bytes, bytes.len() as u64);
        let cx = world.iothread("use").expect("an iothread");
        let node: Arc<dyn Node> = FileNode::over(file, bytes.len() as u64, 1, true);
        let task = Cx::clone(&cx);
        let opened = cx.block_on(async move {
            open(&task, case.format, Request::read(node, &Alone)).await.map(|_| ())
        });
        opened.expect_err("refused").to_string()
    };
    for (case, at, value, field) in [
        ("vdi", 0x40, &[0_u8; 4][..], "does not begin like a vdi"),
        ("vdi", 0x44, &[2, 0, 2, 0], "version 2.2"),
        ("vdi", 0x154, &[1, 0, 0, 0], "offBlocks"),
        ("vdi", 0x158, &[0, 2, 0, 0], "offData"),
        ("vdi", 0x178, &[1, 0, 0, 0], "cbBlock"),
        ("vdi", 0x180, &[0xff, 0xff, 0xff, 0x7f], "cBlocks"),
        ("vpc", 48, &[1], "checksum"),
        ("vpc", 512 + 32, &[1], "checksum"),
        ("vhdx", 0x10000, &[0], ""),
        ("parallels", 16, &[9], "version 9"),
        ("parallels", 28, &[0, 0, 0, 0], "tracks"),
        ("parallels", 32, &[0xff, 0xff, 0xff, 0xff], "nb_bat_entries"),
        ("qed", 4, &[1, 0, 0, 0], "cluster_size"),
        ("qed", 8, &[3, 0, 0, 0], "table_size"),
        ("qed", 16, &[8], "features"),
        ("qed", 40, &[1], "l1_table_offset"),
        ("vmdk", 4, &[9], "version 9"),
        ("vmdk", 12, &[0xff; 8], "capacity"),
        ("vmdk", 20, &[3, 0, 0, 0, 0, 0, 0, 0], "grainSize"),
        ("vmdk", 44, &[0xff, 0xff, 0, 0], "grain tables"),
        ("vmdk", 56, &[0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0], "gdOffset"),
        ("vmdk", 73, b"\n\n\n\n", "line ends"),
    ] {
        if field.is_empty() {
            continue;
        }
        let said = refused(case, at, value);
        assert!(said.contains(field), "{case} at {at:#x}: {said}");
    }
}
